"""make bench-bf16: bfloat16 on this CPU. Times each way of its products, holds the tiles' bits against those of their
model, and writes a table for docs/bfloat16.md to build/bench_bf16.md.

Ways are timed in turn on the same arrays, and the least time of each counts. On a CPU without AMX the page says that
tiles were not measured. PyTorch and TensorFlow are timed where they are installed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

BF16 = ml_dtypes.bfloat16
BIT_LAYERS = 60
CLAMPS = ("none", "relu", "relu6")  # what else there is rounds by the vectors' own reciprocals


def arrays(shapes: tuple, dtype: type, seed: int = 0) -> tuple:
    """Random numbers, on which a tile product takes longer than on zeros."""
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes)


def random_layers(count: int):
    """(x, filters, keywords) of small layers with tails of everything, the same in each process."""
    rng = np.random.default_rng(7)
    for seed in range(count):
        h, w, c, k, r = (int(rng.integers(low, high)) for low, high in ((1, 18), (1, 18), (1, 140), (1, 140), (1, 6)))
        x, depthwise, pointwise = arrays(((2, h, w, c), (r, r, c, 1), (1, 1, c, k)), BF16, seed)
        words = {"depthwise_activation": CLAMPS[seed % 3], "activation": CLAMPS[seed // 3 % 3]}
        yield x, (depthwise, pointwise), {**words, "strides": 1 + seed % 2}


def write_bits(path: str) -> None:
    """The outputs of the random layers by the tiles that this process has."""
    from tf_dwsconv import native

    outputs = [
        native.depthwise_sep_conv2d(x, *filters, **words, isa="amx") for x, filters, words in random_layers(BIT_LAYERS)
    ]
    np.savez(path, *(y.view(np.uint16) for y in outputs))


def compare_bits(folder: Path) -> str:
    """Runs the random layers on hardware and model, each in a process of its own."""
    files, own = {}, os.environ.get("DWSCONV_TEST_MACHINE", "")
    for name, machine in (("hardware", own), ("model", ",".join(filter(None, (own, "tiles=model"))))):
        files[name] = folder / f"bits_{name}.npz"
        environment = {**os.environ, "DWSCONV_TEST_MACHINE": machine, "DWSCONV_ISA": ""}
        command = [sys.executable, __file__, "--write-bits", str(files[name])]
        subprocess.run(command, env=environment, check=True)
    hardware, model = (np.load(files[name]) for name in ("hardware", "model"))
    differing = [key for key in hardware.files if not np.array_equal(hardware[key], model[key])]
    return f"{len(hardware.files) - len(differing)} of {len(hardware.files)} random layers have the bits of the model"


def peers(layer, threads: int) -> dict:
    """Calls of the layer in bfloat16 by whom is installed, by name."""
    (x, depthwise, pointwise), calls = arrays(layer_shapes(layer), np.float32), {}
    size, stride = layer.kernel_size, layer.strides
    if layer.kernel_size % 2 == 1 and layer.strides == 1:  # PyTorch pads both sides alike
        try:
            import torch

            torch.set_num_threads(threads)
            conv = torch.nn.functional.conv2d
            as_torch = lambda a, order: torch.from_numpy(a.transpose(order).copy()).bfloat16()  # noqa: E731
            tx = as_torch(x, (0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)
            td, tp = as_torch(depthwise, (2, 3, 0, 1)), as_torch(pointwise, (3, 2, 0, 1))
            calls["PyTorch"] = lambda: conv(conv(tx, td, padding=size // 2, groups=layer.C), tp)
        except ImportError:
            pass
    try:
        import tensorflow as tf

        fx, fd, fp = (tf.constant(a, tf.bfloat16) for a in (x, depthwise, pointwise))
        separable = tf.function(lambda: tf.nn.separable_conv2d(fx, fd, fp, [1, stride, stride, 1], "SAME"))
        calls["TensorFlow"] = separable
    except ImportError:
        pass
    return calls


def layer_shapes(layer) -> tuple:
    size = layer.kernel_size
    return (layer.N, layer.H, layer.W, layer.C), (size, size, layer.C, 1), (1, 1, layer.C, layer.K)


def least_times(calls: dict, seconds: float) -> dict:
    """Milliseconds of each call, taken in turn."""
    best = dict.fromkeys(calls, float("inf"))
    for call in calls.values():
        call()
    end = time.perf_counter() + seconds
    while True:
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            best[name] = min(best[name], 1e3 * (time.perf_counter() - begin))
        if time.perf_counter() >= end:
            return best


def measure(layer, seconds: float, threads: int, with_peers: bool) -> dict:
    from tf_dwsconv import native

    calls = {}
    for isa in native.cpu_info()["isas"][::-1][:2]:
        x, *filters = arrays(layer_shapes(layer), BF16)
        calls[isa] = bound(native.Layer(*filters, strides=layer.strides, isa=isa), x, threads)
    x, *filters = arrays(layer_shapes(layer), np.float32)
    calls["float32"] = bound(native.Layer(*filters, strides=layer.strides), x, threads)
    if with_peers:
        calls |= peers(layer, threads)
    return least_times(calls, seconds)


def bound(layer, x, threads):
    out = layer(x, num_threads=threads)
    return lambda: layer(x, out=out, num_threads=threads)


def table(rows: dict) -> list[str]:
    """In Markdown; ratios are best peer / ours and float32 / ours, ours the first column."""
    names = list(dict.fromkeys(name for times in rows.values() for name in times))
    lines = ["| layer | " + " | ".join(f"{n}, ms" for n in names) + " | best peer / ours | float32 / ours |"]
    lines.append("|---" * (len(names) + 3) + "|")
    for label, times in rows.items():
        ours = times[names[0]]
        others = [times[n] for n in ("PyTorch", "TensorFlow") if n in times]
        cells = [f"{times[n]:.3f}" if n in times else "" for n in names]
        cells += [f"{min(others) / ours:.2f}" if others else "", f"{times['float32'] / ours:.2f}"]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each layer")
    parser.add_argument("--layers", default="", help="only those whose names hold this")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument("--out", default=str(ROOT / "build" / "bench_bf16.md"), help="where the table goes")
    parser.add_argument("--write-bits", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write_bits:
        return write_bits(options.write_bits)

    from common.layer_table import LAYERS

    from tf_dwsconv import native

    info = native.cpu_info()
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"CPU: {cpu_name()}, {options.threads or info['cores']} threads", f"isas: {', '.join(info['isas'])}"]
    lines.append(f"products of bfloat16: {info['bf16_products']} ({info['bf16_reason']})")
    has_tiles = "amx" in info["isas"]
    lines.append(f"tiles: {compare_bits(out.parent)}" if has_tiles else "tiles: not measured, as there are none here")
    chosen = {name: layer for name, layer in LAYERS.items() if options.layers in name}
    if not chosen:
        parser.error(f"--layers is {options.layers!r}, which no layer's name holds")
    threads = options.threads or info["cores"]
    rows = {n: measure(layer, options.seconds, threads, not options.no_peers) for n, layer in chosen.items()}
    text = "\n".join([*(f"- {line}" for line in lines), "", *table(rows)]) + "\n"
    out.write_text(text, encoding="utf-8")
    print(text)
    print(f"written to {out}")


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
