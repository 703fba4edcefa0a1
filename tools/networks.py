"""Whole networks in TensorFlow, converted, and in other runtimes: the table and the pictures of the documents.

  python tools/networks.py measure            # a quarter of an hour on a quiet machine: docs/networks.csv
  python tools/networks.py measure MobileNet  # the rows of one network anew
  python tools/networks.py draw               # the table of docs/converting.md, docs/converting.png, docs/speed.png

`measure` runs examples/benchmarks/benchmark_models.py for each network, in a process of its own, with the runtimes that
are installed (`pip install 'tf_dwsconv[bench]'`). A runtime whose converter fails is in the table as failed. Rows of
other CPUs stay: each has a table of its own, and the pictures are of the one measured last.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
ROWS = DOCS / "networks.csv"
BENCHMARK = ROOT / "examples" / "benchmarks" / "benchmark_models.py"
# The batches of each network: some of the large ones take seconds a call.
NETWORKS = {
    "MobileNet": (1, 16),
    "MobileNetV2": (1, 16),
    "MobileNetV3Small": (1, 16),
    "EfficientNetB0": (1, 16),
    "NASNetMobile": (1, 8),
    "Xception": (1, 8),
    "ConvNeXtTiny": (1, 8),
}
# Heading, the peers of benchmark_models.py of which the fastest counts, and a colour.
COLUMNS = {
    "TensorFlow": (("stock",), "#9aa0a6"),
    "frozen": (("frozen",), "#cfd3d7"),
    "converted": (("ours",), "#1f77b4"),
    "`native`": (("ours_native",), "#0b3d66"),
    "LiteRT": (("litert",), "#c5a35a"),
    "ONNX Runtime": (("onnxruntime",), "#dcc48f"),
    "OpenVINO": (("openvino", "openvino_tf"), "#a67c2e"),
}
OTHERS = ("LiteRT", "ONNX Runtime", "OpenVINO")
SHOWN = (("MobileNet", 16), ("MobileNetV2", 16), ("EfficientNetB0", 16), ("ConvNeXtTiny", 8), ("MobileNetV2", 1))
MARKS = ("<!-- networks: written by tools/networks.py -->", "<!-- end of networks -->")

Times = dict[tuple[str, int], dict[str, float]]  # milliseconds by network and batch, and by heading; without the failed


def measure(names: list[str]) -> None:
    """Measures networks and replaces their rows of this CPU."""
    peers = [peer for own, _ in COLUMNS.values() for peer in own]
    rows: dict[tuple[str, str], list[dict]] = {}
    if ROWS.exists():
        with ROWS.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                rows.setdefault((row["cpu"], row["network"]), []).append(row)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(BENCHMARK), f"--model={name}", f"--variants={','.join(peers)}", "--noplot"]
            command += [f"--batch_sizes={','.join(map(str, NETWORKS[name]))}", f"--output={folder}"]
            command += ["--seconds=3", "--repeat=60"]
            environment = {"TF_ENABLE_ONEDNN_OPTS": "1", **os.environ}
            if subprocess.run(command, env=environment).returncode != 0:
                raise SystemExit(f"error: {name} cannot be measured; benchmark_models.py says why above")
            found = json.loads(Path(folder, "results.json").read_text(encoding="utf-8"))
        settings = found["settings"]
        family = ", ".join(settings["cpu family, model, stepping"].split(", ")[:2])
        cpu = f"{settings['cores']} cores of {settings['cpu']} (family, model {family}; {settings['isa']})"
        common = {"cpu": cpu, **{key: settings.get(key, "") for key in ("commit", "date", "others_cores")}}
        times = {(row["batch"], row["peer"]): row for row in found["tables"][0]["rows"]}
        missing = {note.split(" ", 1)[0] for note in found["notes"] if "not installed" in note}
        rows[cpu, name] = [
            {
                "network": name,
                "batch": batch,
                "runtime": peer,
                **_digits(times.get((batch, peer), {})),
                **common,
            }
            for batch in NETWORKS[name]
            for peer in peers
            if peer not in missing
        ]
        _write([row for own in rows.values() for row in own])


def _digits(row: dict) -> dict:
    return {key: float(f"{row[key]:.4g}") if key in row else "" for key in ("ms", "ms_low", "ms_high", "calls")}


def _write(rows: list[dict]) -> None:
    new = ROWS.with_suffix(".new")
    with new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    new.replace(ROWS)


class Machine:
    """What was measured on a CPU."""

    def __init__(self, cpu: str):
        self.cpu = cpu
        self.times: Times = {}
        self.about: dict[str, str] = {}  # commit and date of each network
        self.last = ""  # date and time


def read() -> list[Machine]:
    """All CPUs, the one measured last first."""
    machines: dict[str, Machine] = {}
    with ROWS.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            machine = machines.setdefault(row["cpu"], Machine(row["cpu"]))
            machine.last = max(machine.last, row["date"])
            machine.about[row["network"]] = f"commit {row['commit']}, {row['date'].split()[0]}"
            for heading, (peers, _) in COLUMNS.items():
                if row["runtime"] in peers and row["ms"]:
                    own = machine.times.setdefault((row["network"], int(row["batch"])), {})
                    own[heading] = min(own.get(heading, float("inf")), float(row["ms"]))
    return sorted(machines.values(), key=lambda machine: machine.last, reverse=True)


def best_other(times: dict[str, float]) -> float:
    """The least time of the other runtimes."""
    return min(times[name] for name in OTHERS if name in times)


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def table(times: Times) -> str:
    """The rows as a table of Markdown."""
    ratios = ("TensorFlow / converted", "best other / converted", "best other / `native`")
    lines = [f"| network | batch | {' | '.join((*COLUMNS, *ratios))} |", "| --- |" + " ---: |" * (1 + len(COLUMNS) + 3)]
    for (network, batch), own in times.items():
        cells = [_short(own[name]) if name in own else "failed" for name in COLUMNS]
        other = best_other(own)
        cells += [f"{own['TensorFlow'] / own['converted']:.2f}", f"{other / own['converted']:.2f}"]
        lines.append(f"| {network} | {batch} | {' | '.join(cells)} | {other / own['`native`']:.2f} |")
    return "\n".join(lines)


def write_table() -> None:
    """Puts the table between its marks in docs/converting.md."""
    page = DOCS / "converting.md"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    parts = []
    for machine in read():
        runs: dict[str, list[str]] = {}
        for network, run in machine.about.items():
            runs.setdefault(run, []).append(network)
        told = (
            f"all: {next(iter(runs))}"
            if len(runs) == 1
            else "; ".join(f"{', '.join(networks)}: {run}" for run, networks in runs.items())
        )
        parts.append(f"**{machine.cpu}** ({told}):\n\n{table(machine.times)}")
    joined = "\n\n".join(parts)
    page.write_text(f"{before}{MARKS[0]}\n\n{joined}\n\n{MARKS[1]}{after}", encoding="utf-8")


def _axes(figure: Figure, place: tuple) -> object:
    axes = figure.add_subplot(*place)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return axes


def draw_all(path: Path) -> None:
    """A panel for each network and batch: milliseconds, bars from zero."""
    machine = read()[0]
    times = machine.times
    columns = 4
    rows = -(-len(times) // columns)
    figure = Figure(figsize=(11, 1.75 * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for i, ((network, batch), own) in enumerate(times.items()):
        axes = _axes(figure, (rows, columns, i + 1))
        for y, (name, (_, color)) in enumerate(COLUMNS.items()):
            axes.barh(y, own.get(name, 0), color=color)
            axes.text(
                own.get(name, 0), y, f" {_short(own[name])}" if name in own else " failed", va="center", fontsize=7
            )
        axes.set_yticks(range(len(COLUMNS)), [name.strip("`") for name in COLUMNS] if i % columns == 0 else [])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.2 * max(own.values()))
        axes.set_title(f"{network}, batch {batch}", fontsize=9)
    figure.supxlabel(f"milliseconds a batch: shorter is faster ({machine.cpu})", fontsize=9)
    figure.savefig(path)


def draw_speed(path: Path) -> None:
    """README's picture: some networks, relative to TensorFlow, with the milliseconds behind the bars."""
    machine = read()[0]
    times = machine.times
    shown = [key for key in SHOWN if key in times]
    bars = {
        "TensorFlow": ("TensorFlow", "#9aa0a6"),
        "best other": ("best of LiteRT, ONNX Runtime, OpenVINO", "#c5a35a"),
        "converted": ("tf_dwsconv, in TensorFlow", "#1f77b4"),
        "`native`": ("tf_dwsconv, without TensorFlow", "#0b3d66"),
    }
    figure = Figure(figsize=(8, 4.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = _axes(figure, (1, 1, 1))
    for place, key in enumerate(shown):
        own = {**times[key], "best other": best_other(times[key])}
        for i, (name, (label, color)) in enumerate(bars.items()):
            share, y = own[name] / own["TensorFlow"], place + (i - 1.5) * 0.21
            axes.barh(y, share, 0.19, color=color, label=label if place == 0 else None)
            axes.text(share + 0.008, y, f"{_short(own[name])} ms", va="center", fontsize=7)
    axes.set_yticks(range(len(shown)), [f"{network}\nbatch {batch}" for network, batch in shown], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    axes.set_xlabel(f"time over TensorFlow's: shorter is faster ({machine.cpu}; float32)", fontsize=8)
    figure.legend(*axes.get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("measure", help="measure networks")
    one.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; default: all")
    commands.add_parser("draw", help="write the table and the pictures")
    given = parser.parse_args()
    if given.command == "draw":
        write_table()
        draw_all(DOCS / "converting.png")
        draw_speed(DOCS / "speed.png")
        return
    unknown = sorted(set(given.networks) - set(NETWORKS))
    if unknown:
        parser.error(f"NETWORK must be of {', '.join(NETWORKS)}; given {', '.join(unknown)}")
    measure(given.networks or list(NETWORKS))


if __name__ == "__main__":
    main()
