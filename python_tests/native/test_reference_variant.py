"""`variant="reference"`: plain loops for every layer and block that `native` takes, beside the kernels."""

import itertools

import numpy as np
import pytest

from tf_dwsconv import native

EPSILON = np.finfo(np.float32).eps


@pytest.mark.parametrize("expands, projects, layout", itertools.product([0, 1], [0, 1], ["NHWC", "NCHW"]))
def test_every_chain(expands, projects, layout):
    random = np.random.default_rng(0)

    def numbers(*shape):
        return (random.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]) or 1)).astype(np.float32)

    for multiplier, stride, dilation, bias, residual in ((1, 1, 1, 1, 0), (2, 2, 1, 0, 1), (1, 1, 2, 1, 1)):
        if expands and not projects and multiplier > 1:
            continue
        channels, cm = 12, 12 * multiplier
        options = {"strides": stride, "dilations": dilation, "data_format": layout, "depthwise_activation": "gelu"}
        if expands:
            options.update(expand_filter=numbers(1, 1, 5, channels), expand_activation="silu")
            options.update({"expand_bias": numbers(channels)} if bias else {})
        if bias:
            options["depthwise_bias"] = numbers(cm)
        if projects:
            options.update({"activation": "elu", "bias": numbers(7)} if bias else {"activation": "elu"})
        filters = numbers(3, 3, channels, multiplier), numbers(1, 1, cm, 7) if projects else None
        plain, fast = (native.Layer(*filters, **options, variant=word) for word in ("reference", "auto"))
        x = random.standard_normal((2, 9, 10, 5 if expands else channels)).astype(np.float32)
        x = x if layout == "NHWC" else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        addend = {"residual": random.standard_normal(fast(x).shape).astype(np.float32)} if residual else {}
        np.testing.assert_allclose(plain(x, **addend), fast(x, **addend), atol=100 * EPSILON)
