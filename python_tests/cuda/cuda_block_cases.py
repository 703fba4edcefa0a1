"""What the tests of the block's GPU kernels share, with and without a GPU: random blocks, and their float64 results.

Nothing here needs more than NumPy and ml_dtypes: where a GPU is there may be no more.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import reference
from cuda_cases import NUMPY, WORDS

# Stages: e expand, d depthwise, n norm, s scale, p pointwise, D dense, r residual.
STAGES = (
    *("edp", "edpr", "dp", "ed", "d", "dr", "p", "pr", "sp", "spr", "dsp", "dnp"),
    *("dnpr", "ednsp", "np", "nsp", "e", "er", "ep", "D", "Dr", "esr", "dn", "edn"),
)


@dataclasses.dataclass
class Block:
    """A block in float64 (of numbers that `dtype` holds), NHWC, and what is needed to run it anywhere."""

    x: np.ndarray
    tensors: dict  # by the names of the op's inputs; scale is [N, C*M]
    options: dict  # strides, dilations, padding, data_format, words, epsilon
    dtype: str

    def laid_out(self) -> tuple:
        """x and tensors as arrays of the dtype, in the block's data format."""
        nchw = self.options["data_format"] == "NCHW"

        def cast(array, is_picture):
            array = np.moveaxis(array, -1, 1) if is_picture and nchw else array
            return np.ascontiguousarray(array.astype(NUMPY[self.dtype]))

        return cast(self.x, True), {name: cast(array, name == "residual") for name, array in self.tensors.items()}

    def expected(self) -> tuple:
        """The result in float64, in the block's data format, and the size of what may be rounded on the way.

        That is the largest number of any stage before its activation, and at least one, times what a norm may enlarge
        it by.
        """
        t, options, z = self.tensors, self.options, self.x
        geometry = {name: options[name] for name in ("strides", "dilations", "padding")}

        sizes = [1.0]

        def activate(z, i):
            sizes.append(np.abs(z).max(initial=0.0))
            return reference.ACTIVATIONS[options["words"][i][0]](z, options["words"][i][1])

        if "expand_filter" in t:
            z = activate(np.matmul(z, t["expand_filter"][0, 0]) + t.get("expand_bias", 0.0), 0)
        if "depthwise_filter" in t:
            layer = reference.Layer(t["depthwise_filter"], None, **geometry)
            z = activate(reference.depthwise(z, layer) + t.get("depthwise_bias", 0.0), 1)
        enlarged = 1.0
        if options["epsilon"] is not None:
            factor = 1 / np.sqrt(z.var(-1, keepdims=True) + options["epsilon"])
            z = (z - z.mean(-1, keepdims=True)) * factor
            enlarged = max(1.0, factor.max(initial=0.0))
        if "scale" in t:
            z = z * t["scale"][:, None, None, :]
        if "pointwise_filter" in t:
            p = t["pointwise_filter"]
            if "depthwise_filter" in t or "expand_filter" in t:
                z = np.matmul(z, p[0, 0])
            else:  # as many depthwise ones, with a sum over channels
                channels, filters = p.shape[2:]
                z = reference.depthwise(z, reference.Layer(p, None, **geometry))
                z = z.reshape(*z.shape[:3], channels, filters).sum(3)
            z = z + t.get("bias", 0.0)
        z = activate(z + t.get("residual", 0.0), 2)
        return (np.moveaxis(z, -1, 1) if options["data_format"] == "NCHW" else z), enlarged * max(sizes)

    def tolerance(self, size: float, math: str) -> float:
        """What rounding may do to an output, where `size` is what `expected` says.

        float32: rounding of the sums. 16 bits: half a unit of each number between stages, three times at most; TF32
        rounds both factors of up to two products to 11 bits. Filters keep the size of numbers, so the errors of the
        terms of a sum add up to that of one: four units of the largest bound either.
        """
        eps = {"float32": 2e-5 / 4, "float16": 2.0**-11, "bfloat16": 2.0**-8}[self.dtype]
        if math == "tf32":
            eps = 2.0**-11
        return 4 * eps * size


def make(stages: str, dtype: str, *, seed: int = 0, n=2, h=9, w=7, e=16, c=24, m=1, k=40, window=(3, 3), biased=True,
         strides=(1, 1), dilations=(1, 1), padding="SAME", data_format="NHWC", words=(("relu6", 0.2),) * 3,
         epsilon=0.1) -> Block:  # fmt: skip
    """A block of the given stages and sizes, its numbers random and of the size of one after each stage."""
    rng = np.random.default_rng([seed, n, h, w, c, k])

    def draw(*shape, size=1.0):
        return (rng.standard_normal(shape) * size).astype(NUMPY[dtype]).astype(np.float64)

    tensors = {}
    channels = e if "e" in stages else c
    x = draw(n, h, w, channels)

    def convolution(name, bias_name, shape, outputs, terms):
        tensors[name] = draw(*shape, size=terms**-0.5)
        if biased:
            tensors[bias_name] = draw(outputs)

    if "e" in stages:
        convolution("expand_filter", "expand_bias", (1, 1, e, c), c, e)
        channels = c
    out = (h, w)
    if "d" in stages or "D" in stages:
        pads = (padding,) * 2 if isinstance(padding, str) else padding
        out = tuple(
            reference.window(size, kernel, stride, dilation, pad)[0]
            for size, kernel, stride, dilation, pad in zip((h, w), window, strides, dilations, pads)
        )
    else:
        strides = dilations = (1, 1)
        padding = "SAME"
    if "d" in stages:
        taps = window[0] * window[1]
        convolution("depthwise_filter", "depthwise_bias", (*window, channels, m), channels * m, taps)
        channels *= m
    if "s" in stages:
        tensors["scale"] = np.abs(draw(n, channels))
    if "p" in stages:
        convolution("pointwise_filter", "bias", (1, 1, channels, k), k, channels)
        channels = k
    if "D" in stages:
        convolution("pointwise_filter", "bias", (*window, channels, k), k, channels * window[0] * window[1])
        channels = k
    if "r" in stages:
        tensors["residual"] = draw(n, *out, channels)
    there = ("expand_filter" in tensors, "depthwise_filter" in tensors, "pointwise_filter" in tensors)
    return Block(
        x,
        tensors,
        {
            "strides": strides,
            "dilations": dilations,
            "padding": padding,
            "data_format": data_format,
            "words": tuple(word if is_there else ("none", 0.2) for word, is_there in zip(words, there)),
            "epsilon": epsilon if "n" in stages else None,
        },
        dtype,
    )


WINDOWS = ((3, 1), (3, 2), (5, 1), (5, 2), (7, 1))


def draw_block(seed: int, dtype: str) -> tuple:
    """A random block and whether general kernels alone are to run."""
    rng = np.random.default_rng(seed)

    def pick(*values):
        return values[rng.integers(len(values))]

    stages = STAGES[seed % len(STAGES)]
    odd = rng.integers(3) == 0 or "D" in stages
    if odd:
        window, strides = tuple(pick(1, 2, 3, 4, 5) for _ in "hw"), tuple(pick(1, 1, 2, 3) for _ in "hw")
        dilations, m = tuple(pick(1, 1, 2) for _ in "hw"), pick(1, 1, 2) if "d" in stages else 1
    else:
        size, stride = pick(*WINDOWS)
        window, strides, dilations, m = (size, size), (stride, stride), (1, 1), 1
    sizes = [int(rng.integers(1, 18)) for _ in "hw"]
    reach = [(kernel - 1) * dilation + 1 for kernel, dilation in zip(window, dilations)]
    padding = pick("SAME", "SAME", "VALID", "EXPLICIT")
    if padding == "EXPLICIT":
        padding = tuple((int(rng.integers(4)), int(rng.integers(4))) for _ in "hw")
        sizes = [max(n, r - sum(pad), 1) for n, r, pad in zip(sizes, reach, padding)]
    elif padding == "VALID":
        sizes = [max(n, r) for n, r in zip(sizes, reach)]
    # Enough channels behind a norm that none of its pixels is nearly constant.
    least = 8 if "n" in stages else 1
    block = make(
        stages,
        dtype,
        seed=seed,
        n=pick(1, 2, 3),
        h=sizes[0],
        w=sizes[1],
        e=pick(int(rng.integers(1, 30)), 16, 24),
        c=pick(int(rng.integers(least, 70)), 8, 16, 32, 72, 3 if least == 1 else 33, 136),
        m=m,
        k=pick(int(rng.integers(1, 70)), 8, 16, 136, 144),
        window=window,
        biased=pick(True, False),
        strides=strides,
        dilations=dilations,
        padding=padding,
        data_format=pick("NHWC", "NHWC", "NHWC", "NCHW"),
        words=tuple((pick(*WORDS), 0.3) for _ in range(3)),
    )
    return block, rng.integers(6) == 0
