"""Converts a saved Keras model, a SavedModel or a frozen graph.

python -m tf_dwsconv.convert model.keras fused.keras --report
python -m tf_dwsconv.convert saved_model fused_model --report
python -m tf_dwsconv.convert saved_model --network model.safetensors
python -m tf_dwsconv.convert model.keras --export served_model
python -m tf_dwsconv.convert model.keras --network model.safetensors
python -m tf_dwsconv.convert fused.keras stock.keras --builtin
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from tf_dwsconv._command import Parser, run, step


def _parser() -> Parser:
    parser = Parser(
        "convert",
        description="Converts a saved Keras model, a SavedModel or a frozen graph: fuses its depthwise-separable "
        "convolutions, or unfuses them.",
    )
    parser.add_argument("input", nargs="?", help="the model: a .keras file, a SavedModel's folder, or a frozen .pb")
    parser.add_argument("output", nargs="?", help="the .keras file to write; of a SavedModel or a .pb, the folder")
    parser.add_argument("--input", dest="input_flag", metavar="INPUT", help="the same as the first argument")
    parser.add_argument("--output", dest="output_flag", metavar="OUTPUT", help="the same as the second argument")
    parser.add_argument("--export", metavar="FOLDER", help="the folder to write a SavedModel for serving to")
    parser.add_argument("--report", action="store_true", help="print what was fused, and what not and why")
    parser.add_argument(
        "--fuse", choices=("network", "blocks"), default="network",
        help="a layer for each large part of the model (network, the default), or for each block",
    )  # fmt: skip
    parser.add_argument("--network", metavar="FILE", help="the file to write for tf_dwsconv.native.Network")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--training", action="store_true", help="fold nothing; swap only what trains exactly as before")
    how.add_argument("--builtin", action="store_true", help="the way back: stock layers in the place of this package's")
    parser.add_argument("--overwrite", action="store_true", help="write over what is there")
    parser.add_argument(
        "--unsafe", action="store_true", help="run the Python code in the file, which Lambda layers are made of"
    )
    parser.add_argument(
        "--module", action="append", default=[], help="a module to import first, that registers layers of its own"
    )
    graph = parser.add_argument_group("of SavedModels and frozen graphs")
    graph.add_argument("--signature", action="append", help="a signature to write; by default all are")
    graph.add_argument("--tags", help="of the graph to read, where there are several: names between commas")
    graph.add_argument("--inputs", help="of a .pb: its input tensors, between commas; by default its placeholders")
    graph.add_argument("--outputs", help="of a .pb: its results, between commas; by default what no node reads")
    verify = "run both on random input; by default where all sizes but the batch's are known"
    graph.add_argument("--verify", action="store_true", default=None, help=verify)
    graph.add_argument("--no-verify", dest="verify", action="store_false", help="run neither")
    return parser


def _arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """What was asked for, with each thing under one name."""
    parser = _parser()
    given = parser.parse_args(argv)
    if given.input_flag is not None:
        if given.output is not None:
            parser.error("--input and two arguments were given; give one input and one output")
        given.output = given.input if given.input is not None else given.output
        given.input = given.input_flag
    if given.output_flag is not None:
        if given.output is not None:
            parser.error("the output was given twice, as an argument and as --output")
        given.output = given.output_flag
    if given.input is None:
        parser.error("an input must be given: a .keras file, a SavedModel's folder, or a frozen .pb")
    if given.output is None and given.export is None and given.network is None and not given.report:
        parser.error("an output, --export, --network or --report must be given")
    given.is_graph = given.input.endswith(".pb") or (Path(given.input).is_dir() and not given.input.endswith(".keras"))
    if given.is_graph:
        wrong = [flag for flag in ("export", "training", "unsafe") if getattr(given, flag)]
        if wrong:
            parser.error(f"--{wrong[0]} is of .keras files; given {given.input!r}")
        if given.network is not None and (given.builtin or given.fuse != "network"):
            parser.error("--network goes with neither --builtin nor --fuse blocks")
        return given
    wrong = [flag for flag in ("signature", "tags", "inputs", "outputs") if getattr(given, flag) is not None]
    if wrong or given.verify is not None:
        parser.error(f"--{(wrong or ['verify'])[0]} is of SavedModels and frozen graphs; given {given.input!r}")
    if given.network is not None and (given.builtin or given.training or given.fuse != "network"):
        parser.error("--network goes with neither --builtin, --training nor --fuse blocks")
    if given.output is not None and not given.output.endswith(".keras"):
        parser.error(f"the output must end in .keras; given {given.output!r}")
    if given.builtin and given.report:
        parser.error("--report and --builtin do not go together")
    return given


def _check_paths(given: argparse.Namespace) -> None:
    """Looks at all files before anything is computed."""
    source = Path(given.input)
    if not source.exists():
        raise ValueError(f"there is no file {given.input!r}")
    if source.is_dir():
        raise ValueError(f"{given.input!r} is a folder; the input must be a .keras file")
    for target in (given.output, given.export, given.network):
        if target is None:
            continue
        folder = Path(target).absolute().parent
        if not folder.is_dir():
            raise ValueError(f"there is no folder {str(folder)!r} to write {target!r} to")
        if not os.access(folder, os.W_OK):
            raise ValueError(f"the folder {str(folder)!r} of {target!r} cannot be written to")
        if Path(target).exists() and not given.overwrite:
            same = " (it is the input)" if Path(target).samefile(source) else ""
            raise ValueError(f"{target!r} exists{same}; --overwrite writes over it")
    for target in (given.output, given.network):
        if target is not None and Path(target).is_dir():
            raise ValueError(f"{target!r} is a folder")
    if given.export is not None and Path(given.export).exists():
        if not Path(given.export).is_dir():
            raise ValueError(f"{given.export!r} is a file; --export writes a folder")
        if any(Path(given.export).iterdir()) and not (Path(given.export) / "saved_model.pb").exists():
            raise ValueError(f"{given.export!r} is no SavedModel, and would be deleted; name another folder")


def _load(given: argparse.Namespace) -> Any:
    """The model of a file."""
    import keras

    with open(given.input, "rb") as file:
        start = file.read(4)
    if start[:2] != b"PK" and start != b"\x89HDF":
        raise ValueError(f"{given.input!r} is no Keras file")
    try:
        return keras.saving.load_model(given.input, compile=False, safe_mode=not given.unsafe)
    except Exception as error:  # of the file, of Keras, and of whatever the model is made of
        words = " ".join(str(error).split())
        if "safe_mode" in words or "unsafe" in words.lower():
            words = "it holds Python code, as of a Lambda layer; if you trust it, --unsafe runs that"
        elif "--module" not in words and ("custom" in words and "register" in words):
            words = f"{words[:300]} (--module imports the module that does)"
        raise ValueError(f"{given.input!r} cannot be loaded: {words[:500] or type(error).__name__}") from error


def _convert(model: Any, given: argparse.Namespace) -> tuple[Any, str]:
    """The new model, and what was done, in a few words."""
    from tf_dwsconv import convert

    if given.builtin:
        return convert.to_builtin(model), "stock layers alone"
    converted = convert(model, training=given.training, fuse=given.fuse, verbose=given.report)
    rows = convert.report(converted)
    fused = sum(row.fused is not None for row in rows)
    if fused:
        return converted, f"{fused} {'layer' if fused == 1 else 'layers'} fused"
    reasons = sorted({row.reason for row in rows if row.reason})
    more = f", and {len(reasons) - 1} more (--report)" if len(reasons) > 1 else ""
    return converted, f"nothing fused: {reasons[0]}{more}"


def _write(model: Any, given: argparse.Namespace) -> list[str]:
    """Writes what was asked for, whole or not at all; returns what was written."""
    from tf_dwsconv import convert

    written = []
    if given.network is not None:  # the only one that may find the model unfit
        convert.save_network(model, given.network, overwrite=given.overwrite)
        written.append(given.network)
    if given.output is not None:
        target = Path(given.output).absolute()
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}-") as folder:
            model.save(Path(folder) / target.name)
            os.replace(Path(folder) / target.name, target)
        written.append(given.output)
    if given.export is not None:
        target = Path(given.export).absolute()
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
            model.export(str(Path(folder) / "model"), verbose=False)
            if target.exists():
                shutil.rmtree(target)
            os.replace(Path(folder) / "model", target)
        written.append(given.export)
    return written


def _command(given: argparse.Namespace) -> None:
    if given.is_graph:
        for name in given.module:
            importlib.import_module(name)
        importlib.import_module("tf_dwsconv.convert.graphs._command").run(given)
        return
    _check_paths(given)
    for name in given.module:
        importlib.import_module(name)
    with step(f"loading {given.input}"):
        model = _load(given)
    with step(f"converting {given.input}"):
        converted, done = _convert(model, given)
    with step("writing"):
        written = _write(converted, given)
    if written:
        print(f"{' and '.join(written)}: {done}")
    elif given.report and "nothing fused" in done:
        print(done)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    given = _arguments(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return run(_command, given)


if __name__ == "__main__":
    sys.exit(main())
