"""Times the inference of a whole network over batch sizes: stock Keras, converted by tf_dwsconv, and other runtimes.

  python examples/benchmarks/benchmark_models.py  # MobileNetV1, batch 1 to 128
  python examples/benchmarks/benchmark_models.py --model=ConvNeXtBlocks --batch_sizes=1,8,32
  python examples/benchmarks/benchmark_models.py --model=EfficientNetB0 --batch_sizes=1,16 --variants=stock,ours

LiteRT, ONNX Runtime, OpenVINO and PyTorch are timed if they are installed (pip install 'tf_dwsconv[bench]'); otherwise
they are listed as not installed. All have the same random weights and pictures, float32, and their results are compared
with stock Keras': `difference` is the largest, relative to the largest logit. Seconds a batch over batch sizes is
figure 5 of the report, which timed MobileNetV1 in PyTorch with and without its layer.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: warnings and errors only
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `common`

import numpy as np
from absl import app, flags, logging
from common import options, record
from common.timing import Timing, time_in_turn
from measuring import machine, networks, peers, plots, results, sources

_MODEL = options.model("MobileNet", "ConvNeXtBlocks, or a network of keras.applications.")
_BATCH_SIZES = options.sizes("batch_sizes", [1, 2, 4, 8, 16, 32, 64, 128], "Pictures a batch.")
_SIZE = options.size(224, least=32)
_VARIANTS = options.words("variants", list(peers.PEERS), peers.PEERS, "What to time:")
_THREADS = options.threads()
_REPEAT = options.repeat(20)
_SECONDS = options.seconds(5.0, "Seconds after which one is not called again at one batch size.")
_TOLERANCE = flags.DEFINE_float("tolerance", 1e-3, "A larger difference from stock Keras ends the program.", 0.0)
_SEED = options.seed(0, "Of weights and pictures.")
_PLOT = options.plot("models.png")
_OUTPUT = results.define_output("benchmark_models")

COLUMNS = {
    "batch": "batch",
    "peer": "runtime",
    "ms": "ms a batch",
    "quartiles": "quartiles",
    "calls": "calls",
    "images_per_s": "images/s",
    "over_stock": "stock / this",
    "difference": "difference",
}


def build():
    """The stock network; ends the program where it cannot be built."""
    try:
        return networks.build(_MODEL.value, _SIZE.value, _SEED.value)
    except (TypeError, ValueError) as error:
        record.fail(f"--model={_MODEL.value} cannot be built with --size={_SIZE.value}: {error}")


def present(run: results.Results, names: list[str]) -> list[str]:
    """Those of the peers that are installed; says which are not."""
    there = []
    for name in names:
        package = peers.missing(name)
        if package is None:
            there.append(name)
        else:
            run.note(f"{name} ({peers.PEERS[name]}): not installed (no package {package})")
    return there


def measure(
    run: results.Results, network: peers.Network, names: list[str], batch: int, failed: set[str]
) -> tuple[dict[str, Timing], dict[str, float]]:
    """Times all peers in turn on one batch, and compares their results with the first one's.

    A peer that cannot take the network is told of once, goes into `failed`, and is left out.
    """
    x = np.random.default_rng(_SEED.value).standard_normal((batch, _SIZE.value, _SIZE.value, 3), np.float32)
    made, apart, expected = {}, {}, None
    for name in names:
        if name in failed:
            continue
        results.progress(f"batch {batch}: building {name}")
        try:
            peer = network.peer(name, x)
            found = np.asarray(peer.result()).reshape(batch, -1)
        except Exception as error:  # of whichever runtime
            results.progress("")
            failed.add(name)
            said = " ".join(str(error).split())[:240]
            run.note(f"{name}: the runtime, or the converter in front of it, failed: {type(error).__name__}: {said}")
            continue
        expected = found if expected is None else expected
        apart[name] = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))
        if not apart[name] <= _TOLERANCE.value:
            record.fail(
                f"{name} computes something else at batch {batch}: {apart[name]:.2g} from {names[0]}; --tolerance is "
                f"{_TOLERANCE.value:g}"
            )
        made[name] = peer.run
    taken = time_in_turn(
        made,
        _REPEAT.value,
        _SECONDS.value,
        warmups=2,
        burst=25,
        show=results.progress_of(f"batch {batch}"),
    )
    return taken, apart


def draw(path, title: str, batches: list[int], taken: list[dict[str, Timing]], names: list[str]) -> None:
    """Seconds a batch, and images a second, over batch sizes."""
    figure, axes = plots.new_figure(11, 4.8, 1, 2)
    series = {name: [each.get(name) for each in taken] for name in names}
    color = {**plots.colors(names), "ours_frozen": "limegreen", "frozen": "0.7"}
    plots.lines(
        axes[0],
        batches,
        series,
        color,
        value=lambda timing, point, name: timing.median / 1e3,
        labels=peers.PEERS,
    )
    axes[0].set_ylabel("seconds a batch")
    plots.lines(
        axes[1], batches, series, color, value=lambda timing, point, name: 1e3 * point / timing.median, rate=True
    )
    axes[1].set_ylabel("images a second")
    for own in axes:
        own.set_xlabel("images a batch")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    figure.suptitle(title, fontsize=11)
    plots.save(figure, path)


def compare(run: results.Results, batch: int, taken: dict[str, Timing]) -> None:
    """The largest batch beside what the report found for its layer in the network."""
    convnext = _MODEL.value.startswith("ConvNeXt")
    reported = None
    if convnext:
        reported = round(sources.REPORT_CONVNEXT_GAIN, 2)
    elif _MODEL.value == "MobileNet":
        reported = sources.REPORT_MOBILENET_GAIN
    for name, base in (("ours", "torch"), ("ours", "stock"), ("ours_frozen", "frozen")):
        if {name, base} <= set(taken):
            gain = taken[base].median / taken[name].median
            remark = "" if base == "torch" else "the report's is over PyTorch"
            if reported and not convnext and batch != 128:
                remark = f"the report's is of batch 128{'; ' + remark if remark else ''}"
            what = f"{_MODEL.value}, batch {batch}: {peers.PEERS[base]} over {name}"
            run.compare(what, reported, round(gain, 2), "x", f"{sources.REPORT}: CPU, PyTorch", remark)


def main(argv: list[str]) -> None:
    options.no_arguments(argv)
    batches, names = sorted(set(_BATCH_SIZES.value)), _VARIANTS.value
    if _PLOT.value:
        plots.require()
    logging.set_verbosity(logging.WARNING)
    freed = machine.keep_memory()
    threads = results.threads_in_use(_THREADS.value)
    options.use_threads(threads)
    title = f"{_MODEL.value}, {_SIZE.value} x {_SIZE.value} pixels, float32, {threads} threads"
    run = results.Results(_OUTPUT.value, f"Inference of {title}")
    model = build()
    run.describe(seed=_SEED.value, repeat=_REPEAT.value, seconds=_SECONDS.value, freed_memory=freed)
    run.note(f"freed memory {freed}")
    there = present(run, names)
    if not there:
        raise app.UsageError(f"--variants={','.join(names)} leaves nothing to time here")
    network, failed = peers.Network(model, threads), set()
    rows, taken = [], []
    for batch in batches:
        found, apart = measure(run, network, there, batch, failed)
        taken.append(found)
        own = [
            {
                "batch": batch,
                "peer": name,
                **timing.row(),
                "quartiles": timing.spread(),
                "images_per_s": 1e3 * batch / timing.median,
                "over_stock": found["stock"].median / timing.median if "stock" in found else None,
                "difference": f"{apart[name]:.1e}",
            }
            for name, timing in found.items()
        ]
        run.print_table(f"batch {batch}", COLUMNS, own)
        rows += own
    if not rows:
        record.fail("none of --variants can take the network")
    run.table("models", title, COLUMNS, rows, show=False)
    compare(run, batches[-1], taken[-1])
    if _PLOT.value:
        caption = f"Inference of {title}. Points are medians, bars run from quartile to quartile."
        draw(run.figure("models.png", caption), title, batches, taken, [name for name in there if name not in failed])
    run.save()


if __name__ == "__main__":
    app.run(main)
