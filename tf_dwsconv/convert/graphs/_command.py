"""`python -m tf_dwsconv.convert` for SavedModels and frozen graphs."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from tf_dwsconv.convert import graphs
from tf_dwsconv.convert._report import format_report
from tf_dwsconv.convert.graphs import _verify
from tf_dwsconv.convert.network import _save


def run(given: argparse.Namespace) -> int:
    """Converts what was asked for and prints what became of it; returns the exit status.

    Raises:
        TypeError, ValueError: as `convert_saved_model`.
    """
    if given.network is not None:  # before anything is computed, or written
        _save.check_path(given.network, given.overwrite)
    with tempfile.TemporaryDirectory() as folder:
        target = given.output if given.output is not None else str(Path(folder) / "model")
        options = {
            "signatures": given.signature, "tags": None if given.tags is None else given.tags.split(","),
            "inputs": _names(given.inputs), "outputs": _names(given.outputs), "overwrite": given.overwrite,
        }  # fmt: skip
        lines: list[str] = []

        def check(source: Any, made: str) -> None:
            lines.extend(_verified(source, made, given.verify))

        if given.builtin:
            count = graphs.unfuse_saved_model(given.input, target, check=check, **options)
            done = f"stock ops in the place of {count} of this package"
        else:
            rows = graphs.convert_saved_model(given.input, target, fuse=given.fuse, check=check, **options)
            if given.report:
                print(format_report(rows))
            fused = sum(row.fused is not None for row in rows)
            done = f"{fused} {'op' if fused == 1 else 'ops'} fused" if fused else f"nothing fused: {_why(rows)}"
            if given.network is not None:
                graphs.save_network(target, given.network, overwrite=given.overwrite)
    for line in lines:
        print(line)
    written = [path for path in (given.output, given.network) if path is not None]
    if written:
        print(f"{' and '.join(written)}: {done}")
    return 0


def _names(text: Any) -> Any:
    return None if text is None else [name for name in text.split(",") if name]


def _why(rows: Any) -> str:
    reasons = sorted({row.reason for row in rows if row.reason and row.layers}) or [row.reason for row in rows]
    more = f", and {len(reasons) - 1} more (--report)" if len(reasons) > 1 else ""
    return f"{reasons[0]}{more}"


def _verified(source: Any, made: str, asked: Any) -> list[str]:
    """A line for each signature that was run before and after; `asked` is None where nobody said."""
    if asked is False:
        return []
    lines = []
    for signature in source.signatures:
        reason = _verify.why_not(signature, sizes=asked is None)
        if not reason:
            lines.append(f"verified {_verify.compare(source, signature, made)}")
        elif asked:
            raise ValueError(f"`--verify` cannot run {signature.name!r}: {reason}.")
        else:
            lines.append(f"not verified {signature.name}: {reason}")
    return lines
