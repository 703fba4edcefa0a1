"""Tells what of tf_dwsconv runs here, and checks a kernel, a layer, its gradients and a network against stock ops.

python -m tf_dwsconv

Exits with 1 where a result differs from that of stock ops, or where the op library should run and does not.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Optional

import numpy as np

import tf_dwsconv
from tf_dwsconv._command import Parser, one_line

# Of results and gradients, relative to their largest element: about 9 * 24 roundings on the way to each.
_TOLERANCE = 9 * 24 * float(np.finfo(np.float32).eps)

Checks = Iterator[tuple[str, float]]


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else "unknown"


def _difference(found: Any, expected: Any) -> float:
    """The largest difference over the largest element; infinite where one of them is no number."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    apart = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30)
    return float(apart) if np.isfinite(apart) else float("inf")


def _arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x, d, p = (random.standard_normal(s, np.float32) for s in ((2, 17, 19, 24), (3, 3, 24, 1), (1, 1, 24, 40)))
    return x, d / 3, p / 5


def _kernel() -> Checks:
    """The kernel on NumPy arrays, beside sums in float64."""
    from tf_dwsconv import native

    x, d, p = _arrays()
    rows, columns = x.shape[1] - 2, x.shape[2] - 2
    taps = [(r, s) for r in range(3) for s in range(3)]
    z = sum(x[:, r : r + rows, s : s + columns].astype(np.float64) * d[r, s, :, 0] for r, s in taps)
    expected = z @ p[0, 0].astype(np.float64)
    yield "the kernel on NumPy arrays", _difference(native.depthwise_sep_conv2d(x, d, p, padding="VALID"), expected)


def _layer_and_gradient() -> Checks:
    """The layer beside the stock layer with its weights, and the gradients of both."""
    import keras
    import tensorflow as tf

    x, d, p = _arrays()
    options = {"filters": 40, "kernel_size": 3, "padding": "same", "use_bias": False, "activation": "silu"}
    results = []
    for kind in (tf_dwsconv.DepthwiseSepConv2D, keras.layers.SeparableConv2D):
        layer = kind(**options)
        layer.build(x.shape)
        layer.set_weights([d, p])
        pictures = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(pictures)
            y = layer(pictures)
            loss = tf.reduce_sum(y * y)
        results.append((y, tape.gradient(loss, [pictures, *layer.trainable_weights])))
    (ours, gradients), (stock, expected) = results
    yield "a layer", _difference(ours, stock)
    yield "its gradients", max(_difference(g, e) for g, e in zip(gradients, expected))


def _network() -> Checks:
    """A network of two inverted residuals, beside those that `convert` makes of it."""
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((24, 24, 8))
    for _ in range(2):
        y = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(24, 1, use_bias=False)(x)))
        y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y)
        y = layers.Conv2D(8, 1, use_bias=False)(layers.ReLU(6.0)(layers.BatchNormalization()(y)))
        x = layers.Add()([x, layers.BatchNormalization()(y)])
    model = keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    random = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    pictures = random.standard_normal((2, 24, 24, 8), np.float32)
    for fuse, name in (("blocks", "a network of fused blocks"), ("network", "a network as one program")):
        fused = tf_dwsconv.convert(model, fuse=fuse)
        left = sum(isinstance(layer, (layers.DepthwiseConv2D, layers.BatchNormalization)) for layer in fused.layers)
        if left:
            raise RuntimeError(f"{name}: convert left {left} depthwise convolutions and batch norms as they were")
        yield name, _difference(fused(pictures), model(pictures))
    # Last, as it moves the averages of both.
    trained = tf_dwsconv.convert(model, training=True)
    results = [(m(pictures, training=True), *m.non_trainable_variables) for m in (trained, model)]
    yield "a network in training", max(_difference(a, b) for a, b in zip(*results))


def _print_facts(info: dict[str, Any]) -> None:
    from tf_dwsconv import native

    cpu, built = native.cpu_info(), info["built"]
    packages = ("numpy", "tensorflow", "keras")
    print(f"tf_dwsconv   {info['version']}, in {os.path.dirname(tf_dwsconv.__file__)}")
    print(f"built        for TensorFlow {built.get('tensorflow', 'unknown')}, by {built.get('compiler', 'unknown')}")
    print(f"Python       {sys.version.split()[0]}; " + ", ".join(f"{name} {_installed(name)}" for name in packages))
    print(f"CPU          {_cpu()}, {cpu['cores']} cores")
    print(f"instructions {cpu['isa']} of {', '.join(cpu['isas'])}" + ("; bfloat16 products" if cpu["bf16"] else ""))
    print(f"op library   {info['op_library'] or 'does not run: ' + info['reason']}")


def _check(checks: Sequence[Callable[[], Checks]]) -> bool:
    """Runs checks and prints what came out of them; whether all are right."""
    right = True
    for check in checks:
        try:
            for name, apart in check():
                good = apart <= _TOLERANCE
                right = right and good
                print(f"{'ok' if good else 'WRONG':5}  {name}: differs by {apart:.1e} (at most {_TOLERANCE:.1e})")
        except Exception as error:  # whatever is broken here is to be told, and the rest to be tried
            right = False
            what = (check.__doc__ or "").split(",")[0]
            print(f"{'WRONG':5}  {what}: {type(error).__name__}: {one_line(error)}")
    return right


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    parser = Parser("", description="Tells what of tf_dwsconv runs here, and checks it against stock ops.")
    parser.prog = "python -m tf_dwsconv"
    parser.add_argument("--version", action="version", version=f"tf_dwsconv {tf_dwsconv.__version__}")
    parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        info = tf_dwsconv.build_info()
        _print_facts(info)
    except (ImportError, ValueError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    start = time.perf_counter()
    if info["tensorflow"] is None:
        right = _check([_kernel])
        print("TensorFlow is not installed: layers and networks were not checked.")
        return 0 if right else 1
    right = _check([_kernel, _layer_and_gradient, _network])
    asked_for = info["op_library"] is not None or bool(os.environ.get("DWSCONV_DISABLE"))
    good = right and asked_for
    where = "" if info["op_library"] else "; stock ops computed"
    print(f"{'All is well' if good else 'Something is wrong'}{where} ({time.perf_counter() - start:.1f} s)")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
