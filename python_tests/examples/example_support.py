"""What the tests of the benchmark programs share: a quick run, its record, and a look at its plots."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import run_example
from PIL import Image

# Nothing is measured to know what the machine can do.
LIMITS = ("--peak_gflops=100", "--memory_gbs=10")


def run_quickly(program: str, folder: Path, *flags: object) -> dict:
    """Runs a program that has to succeed; returns its results.json, with what it printed under "stdout"."""
    done = run_example(program, *flags, f"--output={folder}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    found["stdout"] = done.stdout
    for name in ("commit", "command", "date", "cpu", "TF_ENABLE_ONEDNN_OPTS"):
        assert found["settings"][name]
    for table in found["tables"]:
        assert table["rows"] and set(table["columns"]) <= {key for row in table["rows"] for key in row}
        lines = (folder / f"{table['name']}.csv").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 1 + len(table["rows"])
    for figure in found["figures"]:
        with Image.open(folder / figure["file"]) as image:
            assert image.width > 300 and len(image.getcolors(1 << 24)) > 10
    return found


def rows_of(found: dict, table: str) -> list[dict]:
    """The rows of a table of a record, by its name."""
    return next(each["rows"] for each in found["tables"] if each["name"] == table)


def check_refused(program: str, folder: Path, flags: list[str], message: str) -> None:
    """Holds that flags end a program with a message and without a traceback."""
    done = run_example(program, f"--output={folder}", *flags)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr and "Traceback" not in done.stderr
