"""mypy and pyright see the signatures: each mistake planted in typed_program.py is found, and nothing else is.

basedpyright is pyright as a package of PyPI that brings its own Node, so nothing is fetched when the test runs.
"""

from __future__ import annotations

import ast
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


def test_the_program_uses_every_public_name():
    """So that none is missing from what the package shows to type checkers, as `convert_saved_model` once was."""
    text = PROGRAM.read_text(encoding="utf-8")
    modules = {"activations", "layers", "ops"}
    assert [n for n in tf_dwsconv.__all__ if not re.search(rf"\b{n}\b", text)] == sorted(modules)


def test_public_functions_are_annotated():
    """All arguments and results, in modules and classes whose names begin with no underscore."""
    missing, seen = [], 0
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if any(part.startswith("_") for part in parts if part not in ("__init__", "__main__")):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        owners = [tree, *(n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and not n.name.startswith("_"))]
        for function in (n for owner in owners for n in owner.body if isinstance(n, ast.FunctionDef)):
            if function.name.startswith("_") and function.name not in ("__init__", "__call__"):
                continue
            arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
            named = [argument.annotation for argument in arguments if argument.arg not in ("self", "cls")]
            has_result = function.returns is not None or function.name == "__init__"
            seen += 1
            if None in named or not has_result:
                missing.append(f"{path.name}: {function.name}")
    assert missing == [] and seen > 100


def test_only_public_names_are_listed():
    """In an editor's list of completions, say; and the package says that it has annotations."""
    assert dir(tf_dwsconv) == sorted(tf_dwsconv.__all__)
    assert all(hasattr(tf_dwsconv, name) and not name.startswith("_") for name in dir(tf_dwsconv))
    assert (PACKAGE / "py.typed").exists()
