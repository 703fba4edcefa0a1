"""Draws docs/speed.png, the picture of README, from the table of whole networks in docs/converting.md."""

from __future__ import annotations

import re
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DOCS = Path(__file__).resolve().parents[1] / "docs"
SHOWN = (("MobileNet", 16), ("MobileNetV2", 16), ("EfficientNetB0", 16), ("ConvNeXtTiny", 8), ("MobileNetV2", 1))
BARS = {"TensorFlow": "#9aa0a6", "best other": "#c5a35a", "converted": "#1f77b4"}
NAMES = {"TensorFlow": "TensorFlow", "best other": "best of LiteRT, ONNX Runtime, OpenVINO", "converted": "tf_dwsconv"}


def rows() -> dict[tuple[str, int], dict[str, float]]:
    """Milliseconds by network and batch."""
    text = (DOCS / "converting.md").read_text(encoding="utf-8")
    (header,) = re.findall(r"^\| network \| batch \|.*$", text, re.MULTILINE)
    columns = [cell.strip() for cell in header.strip("|").split("|")]
    found = {}
    for line in text[text.index(header) :].splitlines()[2:]:
        if not line.startswith("|"):
            break
        cells = dict(zip(columns, (cell.strip() for cell in line.strip("|").split("|"))))
        others = [float(cells[name]) for name in ("LiteRT", "ONNX Runtime", "OpenVINO") if cells[name] != "-"]
        key = (cells["network"], int(cells["batch"]))
        found[key] = {
            "TensorFlow": float(cells["TensorFlow"]),
            "best other": min(others),
            "converted": float(cells["converted"]),
        }
    return found


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def draw(path: Path) -> None:
    """Bars from zero, each network's relative to TensorFlow, with the milliseconds behind them."""
    found = rows()
    figure = Figure(figsize=(8, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, key in enumerate(SHOWN):
        times = found[key]
        for i, (name, color) in enumerate(BARS.items()):
            share = times[name] / times["TensorFlow"]
            y = place + (i - 1) * 0.27
            axes.barh(y, share, 0.25, color=color, label=NAMES[name] if place == 0 else None)
            axes.text(share + 0.008, y, f"{_short(times[name])} ms", va="center", fontsize=8)
    axes.set_yticks(range(len(SHOWN)), [f"{network}\nbatch {batch}" for network, batch in SHOWN], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    axes.set_xlabel("time over TensorFlow's: shorter is faster (2 cores of an AMD EPYC, Zen 5; float32)", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), fontsize=9, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    draw(DOCS / "speed.png")
