"""mypy and pyright see the signatures: each mistake planted in typed_program.py is found, and nothing else is.

basedpyright is pyright as a package of PyPI that brings its own Node, so nothing is fetched when the test runs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PACKAGE

import tf_dwsconv

PROGRAM = Path(__file__).with_name("typed_program.py")
TOOLS = Path(sys.executable).parent
WRONG = {i for i, line in enumerate(PROGRAM.read_text(encoding="utf-8").splitlines(), 1) if line.endswith("# wrong")}


def by_mypy(folder: Path) -> dict[int, str]:
    """Messages by line. The package is found as an installed one is, so that only the program is checked."""
    (folder / "mypy.ini").write_text(
        "[mypy]\nignore_missing_imports = True\n[mypy-tf_dwsconv.*]\nignore_errors = True\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "--cache-dir=cache", str(PROGRAM)]
    environment = {**os.environ, "MYPYPATH": str(PACKAGE.parent)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = re.findall(r"^\S*typed_program\.py:(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    return {int(line): message for line, message in found}


def by_pyright(folder: Path) -> dict[int, str]:
    """Messages by line."""
    config = {
        "include": [str(PROGRAM)],
        "extraPaths": [str(PACKAGE.parent)],
        "typeCheckingMode": "basic",
        "reportMissingImports": False,
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    command = [str(TOOLS / "basedpyright"), f"--project={folder}", "--outputjson", f"--pythonpath={sys.executable}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {one["range"]["start"]["line"] + 1: one["message"] for one in found if one["severity"] == "error"}


@pytest.mark.parametrize("check", [by_mypy, by_pyright])
def test_planted_mistakes_are_found(check, tmp_path):
    assert len(WRONG) > 15
    found = check(tmp_path)
    assert set(found) == WRONG, {line: found.get(line, "not found") for line in set(found) ^ WRONG}


def test_only_public_names_are_listed():
    """In an editor's list of completions, say; and the package says that it has annotations."""
    assert dir(tf_dwsconv) == sorted(tf_dwsconv.__all__)
    assert all(hasattr(tf_dwsconv, name) and not name.startswith("_") for name in dir(tf_dwsconv))
    assert (PACKAGE / "py.typed").exists()
