"""Random configurations of the layer, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st
from reference import ACTIVATIONS

WORDS = tuple(ACTIVATIONS)


@st.composite
def activation(draw, words=WORDS):
    word = draw(st.sampled_from(words))
    return word, draw(st.sampled_from([0.2, 0.0, 0.1, 1.5, -0.5])) if word in ("leaky_relu", "elu") else 0.2


@st.composite
def shapes(draw, words=WORDS, max_size=14, max_channels=40):
    """What `reference.random_case` takes: sizes around the kernels' vector and tile widths, all attributes together."""
    kernel = [draw(st.sampled_from([1, 2, 3, 3, 3, 4, 5, 5, 7])) for _ in "RS"]
    strides = tuple(draw(st.sampled_from([1, 1, 1, 2, 2, 3])) for _ in "hw")
    dilations = tuple(draw(st.sampled_from([1, 1, 1, 2, 3])) for _ in "hw")
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
    sizes = [draw(st.integers(1, max_size)) for _ in "HW"]
    padding = draw(st.sampled_from(["SAME", "SAME", "VALID", "EXPLICIT"]))
    if padding == "EXPLICIT":
        padding = tuple((draw(st.integers(0, 4)), draw(st.integers(0, 4))) for _ in "hw")
        sizes = [max(n, window - sum(pad)) for n, window, pad in zip(sizes, reach, padding)]
        sizes = [max(n, 1) for n in sizes]
    elif padding == "VALID":
        sizes = [max(n, window) for n, window in zip(sizes, reach)]
    channels = draw(st.one_of(st.integers(1, max_channels), st.sampled_from([8, 16, 32])))
    return {
        "N": draw(st.sampled_from([1, 1, 2, 3])),
        "H": sizes[0],
        "W": sizes[1],
        "C": channels,
        "M": draw(st.sampled_from([1, 1, 1, 2, 3])),
        "K": draw(st.one_of(st.integers(1, max_channels), st.sampled_from([8, 16, 32, 64]))),
        "R": kernel[0],
        "S": kernel[1],
        "strides": strides,
        "dilations": dilations,
        "padding": padding,
        "data_format": draw(st.sampled_from(["NHWC", "NHWC", "NCHW"])),
        "depthwise_activation": draw(activation(words)),
        "activation": draw(activation(words)),
        "depthwise_bias": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "residual": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }
