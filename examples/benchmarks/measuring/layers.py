"""One layer in every way that it can be computed here, built alike: the same filters, no biases, the same input.

Variants by name: `dense`, the convolution that a depthwise-separable layer takes the place of; `pair`,
`keras.layers.DepthwiseConv2D` and a 1x1 `Conv2D`; `separable`, `keras.layers.SeparableConv2D`; `ours`,
`tf_dwsconv.DepthwiseSepConv2D`; `native`, the same kernel on NumPy arrays; `torch`, PyTorch's two convolutions with
tensors in channels_last; `torch_nchw`, the same with PyTorch's own order, which the report's tensors have; `litert`,
`onnxruntime` and `openvino`, those runtimes (layer_runtimes.py).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from typing import Any, Optional

import numpy as np

from measuring import layer_runtimes
from tf_dwsconv import native
from tf_dwsconv.analysis import Cost, Problem, layer_cost

VARIANTS = {
    "dense": "keras Conv2D",
    "pair": "keras DepthwiseConv2D + Conv2D",
    "separable": "keras SeparableConv2D",
    "ours": "tf_dwsconv DepthwiseSepConv2D",
    "native": "tf_dwsconv.native on NumPy",
    "torch": "PyTorch, channels_last",
    "torch_nchw": "PyTorch, contiguous",
    **layer_runtimes.RUNTIMES,
}
KERAS = ("dense", "pair", "separable", "ours")
MODES = {"eager": "op by op", "graph": "tf.function", "xla": "tf.function(jit_compile=True)"}
# The packages that a variant needs and that need not be there.
NEEDS = {"torch": ("torch",), "torch_nchw": ("torch",), **layer_runtimes.NEEDS}


def missing(names: list[str]) -> list[str]:
    """Those of some variants (or peers) whose package is not installed."""
    return [name for name in names if any(importlib.util.find_spec(package) is None for package in NEEDS.get(name, ()))]


def cost_of(variant: str, problem: Problem, dtype: str) -> Cost:
    """What the ideal layer of this kind computes and moves: the dense one, or a fused depthwise-separable one."""
    return layer_cost(problem, "dense" if variant == "dense" else "dws", dtype)


@dataclasses.dataclass(frozen=True)
class Data:
    """The arrays of one layer, float32.

    Attributes:
        problem: its shape.
        x: `[N,H,W,C]`. depthwise: `[R,S,C,1]`. pointwise: `[1,1,C,K]`. dense: `[R,S,C,K]`, or None where not asked for.
        output_gradient: `[N,Ho,Wo,K]`, or None where nothing is trained.
    """

    problem: Problem
    x: np.ndarray
    depthwise: np.ndarray
    pointwise: np.ndarray
    dense: Optional[np.ndarray]
    output_gradient: Optional[np.ndarray]


def draw(problem: Problem, dense: bool, train: bool, seed: int) -> Data:
    """Random arrays of a layer, scaled so that its outputs are about 1."""
    random = np.random.default_rng(seed)
    p, taps = problem, problem.R * problem.S

    def normal(scale: float, *size: int) -> np.ndarray:
        values = random.standard_normal(size, np.float32)
        values *= np.float32(scale)
        return values

    return Data(
        p,
        normal(1, p.N, p.H, p.W, p.C),
        normal(taps**-0.5, p.R, p.S, p.C, 1),
        normal(p.C**-0.5, 1, 1, p.C, p.K),
        normal((taps * p.C) ** -0.5, p.R, p.S, p.C, p.K) if dense else None,
        normal(1, p.N, p.Ho, p.Wo, p.K) if train else None,
    )


def _keras_layer(variant: str, data: Data, dtype: str) -> Any:
    """A built Keras layer or model with the data's filters."""
    import keras

    import tf_dwsconv

    p = data.problem
    window = {"strides": p.stride, "padding": p.padding.lower(), "use_bias": False, "dtype": dtype}
    size = (p.R, p.S)
    if variant == "dense":
        layer, weights = keras.layers.Conv2D(p.K, size, **window), [data.dense]
    elif variant == "pair":
        first = keras.layers.DepthwiseConv2D(size, **window)
        second = keras.layers.Conv2D(p.K, 1, use_bias=False, dtype=dtype)
        layer, weights = keras.Sequential([first, second]), [data.depthwise, data.pointwise]
    else:
        kind = keras.layers.SeparableConv2D if variant == "separable" else tf_dwsconv.DepthwiseSepConv2D
        layer, weights = kind(p.K, size, **window), [data.depthwise, data.pointwise]
    layer.build(data.x.shape)
    layer.set_weights(weights)
    return layer


def _keras_call(variant: str, mode: str, data: Data, dtype: str) -> Callable[[], Any]:
    import tensorflow as tf

    layer = _keras_layer(variant, data, dtype)
    x = tf.cast(data.x, dtype)
    if data.output_gradient is None:
        function, arguments = layer, (x,)
    else:
        gradient = tf.cast(data.output_gradient, dtype)
        weights = [weight.value for weight in layer.trainable_weights]

        def function(x, output_gradient):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x)
            return y, tape.gradient(y, [x, *weights], output_gradient)

        arguments = (x, gradient)
    if mode != "eager":
        function = tf.function(function, jit_compile=mode == "xla")
    return functools.partial(function, *arguments)


def _native_call(data: Data, dtype: str, threads: int) -> Callable[[], Any]:
    import ml_dtypes

    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    p = data.problem
    x = data.x.astype(kind)
    layer = native.Layer(data.depthwise.astype(kind), data.pointwise.astype(kind), strides=p.stride, padding=p.padding)
    out = layer(x, num_threads=threads)
    return functools.partial(layer, x, out=out, num_threads=threads)


def _torch_call(data: Data, dtype: str, threads: int, nchw: bool) -> Callable[[], Any]:
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads or native.cpu_info()["cores"])
    p, kind = data.problem, getattr(torch, dtype)
    last = {"memory_format": torch.contiguous_format if nchw else torch.channels_last}
    x = torch.from_numpy(data.x).permute(0, 3, 1, 2).to(kind).contiguous(**last)
    depthwise = torch.from_numpy(data.depthwise).permute(2, 3, 0, 1).to(kind).contiguous(**last)
    pointwise = torch.from_numpy(data.pointwise).permute(3, 2, 0, 1).to(kind).contiguous(**last)
    (top, bottom), (left, right) = _pads(p)
    even = top == bottom and left == right

    def forward(x, depthwise, pointwise):
        if not even:
            x = functional.pad(x, (left, right, top, bottom)).contiguous(**last)
        z = functional.conv2d(x, depthwise, None, p.stride, (top, left) if even else 0, 1, p.C)
        return functional.conv2d(z, pointwise)

    if data.output_gradient is None:

        def call():
            with torch.inference_mode():
                return forward(x, depthwise, pointwise)

        return call
    gradient = torch.from_numpy(data.output_gradient).permute(0, 3, 1, 2).to(kind).contiguous(**last)
    tensors = [tensor.requires_grad_() for tensor in (x, depthwise, pointwise)]

    def step():
        y = forward(*tensors)
        return y.detach(), torch.autograd.grad(y, tensors, gradient)

    return step


def _pads(problem: Problem) -> list[tuple[int, int]]:
    """TensorFlow's SAME padding, rows and columns, or none."""
    if problem.padding != "SAME":
        return [(0, 0), (0, 0)]
    axes = zip((problem.H, problem.W), (problem.R, problem.S), problem.stride, (problem.Ho, problem.Wo))
    totals = [max((out - 1) * stride + taps - size, 0) for size, taps, stride, out in axes]
    return [(total // 2, total - total // 2) for total in totals]


def calls(
    variants: list[str], modes: list[str], data: Data, dtype: str, threads: int
) -> dict[tuple[str, str], Callable[[], Any]]:
    """The functions to time, by variant and mode; those that are not Keras' have one mode each, named "call".

    Args:
        variants: keys of `VARIANTS`, those whose packages are installed.
        modes: keys of `MODES`, of the Keras variants.
        data: of the layer. Where it holds an output gradient the functions compute forward and backward; `native` and
            the runtimes are left out then, as they compute no gradients.
        dtype: "float32", "bfloat16" or "float16", of all tensors. The runtimes are left out of all but the first.
        threads: of `native` and PyTorch; 0 for all cores. TensorFlow's are set by the program.
    """
    found: dict[tuple[str, str], Callable[[], Any]] = {}
    for variant in variants:
        if variant in KERAS:
            for mode in modes:
                found[variant, mode] = _keras_call(variant, mode, data, dtype)
        elif variant == "native" and data.output_gradient is None:
            found[variant, "call"] = _native_call(data, dtype, threads)
        elif variant in layer_runtimes.RUNTIMES:
            if data.output_gradient is None and dtype == "float32":
                found[variant, "call"] = layer_runtimes.call(variant, data, threads)
        elif variant in NEEDS:
            found[variant, "call"] = _torch_call(data, dtype, threads, variant == "torch_nchw")
    return found


def difference(result: Any, reference: Any) -> float:
    """max |a - b| / max |b| over all tensors of two results; PyTorch's are brought to NHWC and filters' order."""
    import tensorflow as tf

    def arrays(value: Any) -> list[np.ndarray]:
        found = []
        for i, tensor in enumerate(tf.nest.flatten(value)):
            if type(tensor).__module__.startswith("torch"):
                order = (0, 2, 3, 1) if i < 2 else (2, 3, 0, 1) if i == 2 else (2, 3, 1, 0)
                tensor = tensor.permute(order).float().numpy()
            found.append(np.asarray(tensor).astype(np.float32))
        return found

    pairs = zip(arrays(result), arrays(reference))
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)) for a, b in pairs)
