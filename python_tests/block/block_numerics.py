"""Random blocks in 16 bits beside float64, each output within what its own roundings can do.

The bounds are computed along with the block, stage by stage, from the formula and the unit of each rounding: a sum of n
terms is in float32, a 16-bit result is rounded once, and bfloat16 in between, too, where products read it.
`agree` runs a block on each instruction set.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Optional

import numpy as np
import reference
import tensorflow as tf
from conftest import op_calls

from tf_dwsconv._arguments import Attributes, Tensors
from tf_dwsconv._tf import dispatch
from tf_dwsconv.activations import NONE, Fused

FLOAT = 2.0**-24
UNIT = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
# Where a result underflows: bfloat16's subnormals count as zero on some paths.
TINY = {"bfloat16": 2.0**-126, "float16": 2.0**-25}

# Activations that may have fewer bits where bfloat16 comes out in the end, and their relative error.
COARSE = {"silu": 2.0**-12, "sigmoid": 2.0**-12, "gelu_tanh": 2.0**-12}

_SLOPES = {"hard_swish": 1.5, "silu": 1.1, "gelu": 1.13, "gelu_tanh": 1.13, "mish": 1.09}


@dataclasses.dataclass
class Block:
    """A block's tensors, which `dtype` holds exactly, in float64."""

    x: np.ndarray
    arrays: dict
    words: tuple  # (word, alpha) of the expansion, between the halves and at the end
    strides: tuple = (1, 1)
    dilations: tuple = (1, 1)
    padding: object = "SAME"
    epsilon: Optional[float] = None

    def attributes(self) -> Attributes:
        explicit = () if isinstance(self.padding, str) else (0, 0, *self.padding[0], *self.padding[1], 0, 0)
        stages = ("expand_filter", "depthwise_filter", "pointwise_filter")
        expand, mid, out = (
            Fused(word[0], word[1]) if stage in self.arrays else NONE for stage, word in zip(stages, self.words)
        )
        padding = "EXPLICIT" if explicit else self.padding
        return Attributes(self.strides, self.dilations, padding, explicit, "NHWC", mid, out,
                          expand_activation=expand, epsilon=self.epsilon)  # fmt: skip


def random_block(rng: np.random.Generator, dtype: str) -> Block:
    """Any stages, activations and geometry; sizes around the widths of vectors and tiles; numbers of size one."""

    def pick(*choices):
        return choices[rng.integers(len(choices))]

    def draw(*shape, terms=1):
        numbers = tf.cast(tf.constant(rng.standard_normal(shape) * terms**-0.5), dtype)
        return tf.cast(numbers, tf.float64).numpy()

    expands, convolves, multiplies = pick((1, 1, 1), (1, 1, 0), (0, 1, 1), (0, 0, 1), (0, 1, 0), (1, 1, 1))
    n, h, w = (int(rng.integers(1, most)) for most in (4, 13, 15))
    e, k = int(rng.integers(1, 40)), int(rng.integers(1, 50))
    c = int(pick(rng.integers(1, 20), rng.integers(20, 80), 16, 32, 64))
    m = pick(1, 1, 1, 2) if convolves else 1
    r, s = pick(1, 3, 3, 5, 7, int(rng.integers(1, 6))), pick(3, 3, 5, 7, int(rng.integers(1, 6)))
    arrays = {}
    if expands:
        arrays["expand_filter"] = draw(1, 1, e, c, terms=e)
    if convolves:
        arrays["depthwise_filter"] = draw(r, s, c, m, terms=r * s)
    if multiplies:
        arrays["pointwise_filter"] = draw(1, 1, c * m, k, terms=c * m)
    for name, stage, size in (
        ("expand_bias", expands, c),
        ("depthwise_bias", convolves, c * m),
        ("bias", multiplies, k),
    ):
        if stage and rng.integers(2):
            arrays[name] = draw(size)
    if multiplies and rng.integers(3) == 0:
        arrays["gate"] = np.abs(draw(n, c * m))
    words = tuple((word, pick(0.2, 1.5, -0.5) if word in ("leaky_relu", "elu") else 0.2)
                  for word in rng.choice(tuple(reference.ACTIVATIONS), 3))  # fmt: skip
    block = Block(draw(n, h, w, e if expands else c), arrays, words)
    if convolves:
        block.strides = pick((1, 1), (1, 1), (2, 2), (1, 2))
        block.dilations = pick((1, 1), (1, 1), (2, 1)) if block.strides == (1, 1) else (1, 1)
        reach = [(size - 1) * dilation for size, dilation in zip((r, s), block.dilations)]
        block.padding = pick("SAME", "SAME", tuple((int(rng.integers(size + 1)), size) for size in reach))
    if convolves and multiplies and c * m > 1 and rng.integers(4) == 0:
        block.epsilon = 1e-3
    if rng.integers(2):
        block.arrays["residual"] = draw(*forward(block, 0.0)[0].shape)
    return block


def forward(block: Block, between: float) -> tuple:
    """(Y in float64, what it may be off by before its last rounding).

    `between` is the unit of roundings in between; where it is not zero, activations may have fewer bits, too.
    """
    b = block.arrays
    z, error = block.x, np.zeros_like(block.x)

    def activate(z, error, word):
        slope = max(1.0, abs(word[1])) if word[0] in ("leaky_relu", "elu") else _SLOPES.get(word[0], 1.0)
        y = reference.ACTIVATIONS[word[0]](z, word[1])
        # The largest error of our approximations is that of gelu's, 1.5e-7 of its argument.
        few_bits = COARSE.get(word[0], 0.0) if between > 0 else 0.0
        return y, slope * error + 16 * FLOAT * (1 + np.abs(z)) + few_bits * np.abs(y)

    def product(z, error, matrix, bias):
        error = error + between * (np.abs(z) + error)
        terms = (matrix.shape[0] + 4) * FLOAT
        error = (error + terms * (np.abs(z) + error)) @ np.abs(matrix) + terms * np.abs(bias)
        return z @ matrix + bias, error

    if "expand_filter" in b:
        bias = b.get("expand_bias", np.zeros(b["expand_filter"].shape[3]))
        z, error = activate(*product(z, error, b["expand_filter"][0, 0], bias), block.words[0])
    if "depthwise_filter" in b:
        error = error + between * (np.abs(z) + error)
        layer = reference.Layer(b["depthwise_filter"], None, strides=block.strides, dilations=block.dilations,
                                padding=block.padding)  # fmt: skip
        absolute = dataclasses.replace(layer, depthwise_filter=np.abs(layer.depthwise_filter))
        bias = b.get("depthwise_bias", 0.0)
        terms = (layer.depthwise_filter[..., 0, 0].size + 4) * FLOAT
        error = reference.depthwise(error + terms * (np.abs(z) + error), absolute) + terms * np.abs(bias)
        z, error = activate(reference.depthwise(z, layer) + bias, error, block.words[1])
    if block.epsilon is not None:
        z, error = _normalize(z, error, block.epsilon)
    if "gate" in b:
        z, error = z * b["gate"][:, None, None], (error + FLOAT * np.abs(z)) * b["gate"][:, None, None]
    if "pointwise_filter" in b:
        z, error = product(z, error, b["pointwise_filter"][0, 0], b.get("bias", 0.0))
    else:
        error = error + between * (np.abs(z) + error)
    if "residual" in b:
        z, error = z + b["residual"], error + FLOAT * (np.abs(z) + np.abs(b["residual"]))
    return activate(z, error, block.words[2]) if "pointwise_filter" in b else (z, error)


def _normalize(z, error, epsilon):
    """With d the error, 1 / std moves by at most rms(d) / (std std'), as std is the length of a vector."""
    channels = z.shape[-1]
    error = error + (channels + 4) * FLOAT * np.abs(z).max(-1, keepdims=True)
    std = np.sqrt(z.var(-1, keepdims=True) + epsilon)
    moved = np.sqrt(np.mean(error**2, -1, keepdims=True))
    least = np.maximum(std - moved, np.sqrt(epsilon))
    y = (z - z.mean(-1, keepdims=True)) / std
    return y, (error + error.mean(-1, keepdims=True) + np.abs(y) * moved) / least + 8 * FLOAT * np.abs(y)


def unit_between(dtype: str, isa: str) -> float:
    """Of what comes before a product: rounded, too, on paths whose products may read bfloat16."""
    return UNIT[dtype] if dtype == "bfloat16" and isa in ("amx", "avx512") else 0.0


def run(block: Block, dtype: str, isa: str) -> np.ndarray:
    """Y by an instruction set; float32 computes what tiles have no part in."""
    os.environ["DWSCONV_ISA"] = isa
    tensors = Tensors(**{name: tf.cast(tf.constant(array), dtype) for name, array in block.arrays.items()})
    before = op_calls()
    y = dispatch.run(tf.cast(tf.constant(block.x), dtype), tensors, block.attributes())
    assert sum(op_calls().values()) == sum(before.values()) + 1
    assert op_calls()[isa] == before[isa] + 1 or isa == "amx"
    return tf.cast(y, tf.float64).numpy()


def check(block: Block, dtype: str, isa: str, words: str) -> None:
    """NaN and infinity where float64 has them; all else within its bound."""
    with np.errstate(invalid="ignore"):
        expected, error = forward(block, unit_between(dtype, isa))
        allowed = error + UNIT[dtype] * (np.abs(expected) + error) + TINY[dtype]
        y = run(block, dtype, isa)
        assert y.shape == expected.shape
        for is_such in (np.isnan, np.isposinf, np.isneginf):
            np.testing.assert_array_equal(is_such(y), is_such(expected), err_msg=words)
        bounded = np.isfinite(expected) & np.isfinite(allowed)
        worst = np.max(np.abs(y - expected)[bounded] / allowed[bounded], initial=0.0)
    assert worst <= 1.0, f"{words}: {worst:.3f} of what is allowed; {block.words} {block.attributes()}"


def agree(dtype: str, isas: tuple, count: int) -> None:
    """`count` random blocks on each instruction set; raises AssertionError."""
    for seed in range(count):
        block = random_block(np.random.default_rng([seed, len(dtype)]), dtype)
        for isa in isas:
            check(block, dtype, isa, f"{dtype} {isa} {seed}")


def agree_beyond_numbers(dtype: str, isas: tuple, count: int) -> None:
    """The same with NaN and infinity in X, and NaN in a tap of a filter, which counts only inside the image."""
    found = 0
    for seed in range(count):
        rng = np.random.default_rng([seed, len(dtype), 3])
        block = random_block(rng, dtype)
        block.epsilon = None
        block.words = tuple((str(word), 0.2) for word in rng.choice(("none", "relu", "relu6"), 3))
        for value in rng.choice((np.nan, np.inf, -np.inf), int(rng.integers(1, 3))):
            block.x.reshape(-1)[rng.integers(block.x.size)] = value
        if "depthwise_filter" in block.arrays and seed % 3 == 0:
            taps = block.arrays["depthwise_filter"]
            taps.reshape(-1)[rng.integers(taps.size)] = np.nan
        for isa in isas:
            check(block, dtype, isa, f"{dtype} {isa} {seed}, beyond numbers")
        with np.errstate(invalid="ignore"):
            finite = np.isfinite(forward(block, 0.0)[0])
        found += finite.any() and not finite.all()
    assert found > count // 3
