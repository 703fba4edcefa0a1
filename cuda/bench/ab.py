"""Times the same layers by several libraries in turn: `ab.py OUT LIBRARY LIBRARY...`.

LIBRARY@PATH is a library on one path, such as LIBRARY@stream beside LIBRARY@tensor_stream: the switch between kernels
that one library has. Layers that the path does not take are left out there.

One visit to a card measures each change: `tools/cuda_ab.sh REVISION...` builds a library of each commit beforehand. Of
each layer all libraries are timed in turn, several rounds of them, so that a clock that falls is everybody's. Each row
is in OUT/ab.jsonl and printed as soon as it is measured; OUT/ab.md has all of them.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
from pathlib import Path

from rows import Rows, table

ROOT = Path(__file__).resolve().parents[2]

# The six layers of docs/cuda.md, and one for each change beside them: batch, H = W, C, K, kernel, stride, activation.
LAYERS = {
    "study 224x224x128": (16, 224, 128, 128, 3, 1, "none"),
    "56x56x128": (128, 56, 128, 128, 3, 1, "none"),
    "28x28x256": (128, 28, 256, 256, 3, 1, "none"),
    "14x14x512": (128, 14, 512, 512, 3, 1, "none"),
    "112x112x32-64": (16, 112, 32, 64, 3, 1, "none"),
    "convnext 56x56x96-384": (16, 56, 96, 384, 7, 1, "none"),
    "gelu 56x56x96-384": (16, 56, 96, 384, 7, 1, "gelu"),
    "silu 14x14x480-112": (32, 14, 480, 112, 5, 1, "silu"),
    "stride 2 56x56x128-256": (64, 56, 128, 256, 3, 2, "relu6"),
    "edges 7x7x1024": (128, 7, 1024, 1024, 3, 1, "relu"),
}


def in_turn(measures: dict, rounds: int) -> dict:
    """The least of some rounds of each: one round of all, then the next."""
    found = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    return {name: min(times) for name, times in found.items()}


def add_rows(rows: Rows, libraries: dict, measures_of, rounds: int) -> None:
    """A row of each layer: microseconds by library, and how much faster the last is than the first that ran."""
    for layer in LAYERS:

        def measure(layer=layer):
            times = in_turn(measures_of(layer, libraries), rounds)
            first, *_, last = times.values()
            return {**{f"{name} us": us for name, us in times.items()}, "first/last": first / last}

        rows.add({"layer": layer}, measure)


def microseconds(made, graph, seconds) -> float:
    """Of one call: a graph is a call on each of the layer's sets of buffers, which have to stay."""
    return seconds(graph, 3) / len(made.inputs) * 1e6


def on_card(layer: str, libraries: dict) -> dict:
    """What times a layer once by each library, on the same buffers' sizes."""
    from benchmark import Layer, graph_of, seconds

    n, size, c, k, kernel, stride, activation = LAYERS[layer]
    measures = {}
    for name, (library, path) in libraries.items():
        options = {"activation": activation, "path": path}
        try:
            made = Layer(library, n, size, c, k, kernel, stride, "float16", **options)
            graph = graph_of(made.ours)
        except ValueError:
            if path == "auto":
                raise
            continue  # the path does not take this layer, or is not compiled for this card
        measures[name] = functools.partial(microseconds, made, graph, seconds)
    return measures


def named(given: list[str], library_of) -> dict:
    """(library, path) by a name, of what the command names: FILE or FILE@PATH."""
    found = {}
    for word in given:
        file, _, path = word.partition("@")
        name = Path(file).stem.removeprefix("libdwsconv_cuda_")
        found[f"{name} {path}" if path else name] = (library_of(Path(file)), path or "auto")
    return found


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("libraries", nargs="+", help="files, or FILE@PATH; the one that others are compared with first")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args(argv)
    sys.path.insert(0, str(ROOT / "python_tests" / "cuda"))
    from cuda_library import Library

    arguments.out.mkdir(parents=True, exist_ok=True)
    libraries = named(arguments.libraries, functools.lru_cache(Library))
    rows = Rows(arguments.out / "ab.jsonl")
    add_rows(rows, libraries, on_card, arguments.rounds)
    medians = [row["first/last"] for row in rows.good]
    said = f"\nmedian of first/last: {statistics.median(medians):.3f}\n" if medians else ""
    (arguments.out / "ab.md").write_text("# By library\n\n" + table(rows.kept) + said, encoding="utf-8")
    return int(rows.failed)


if __name__ == "__main__":
    sys.exit(main())
