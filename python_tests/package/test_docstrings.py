"""Examples in docstrings and in the README run, and every public name has a docstring."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest
from conftest import ROOT, check_python

import tf_dwsconv

MODULES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for path in (ROOT / "tf_dwsconv").rglob("*.py")
    if "__main__" not in path.name
)


@pytest.mark.usefixtures("op_library")
@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert failed == 0


@pytest.mark.parametrize("name", ["DepthwiseSepConv2D", "depthwise_sep_conv2d", "build_info"])
def test_the_main_names_have_examples(name):
    examples = doctest.DocTestFinder(recurse=False).find(getattr(tf_dwsconv, name), name)
    assert any(test.examples for test in examples)


@pytest.mark.parametrize("name", tf_dwsconv.__all__)
def test_public_names_are_documented(name):
    value = getattr(tf_dwsconv, name)
    assert inspect.getdoc(value)
    assert name in dir(tf_dwsconv)


def python_blocks(path: Path) -> list:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_readme_examples(tmp_path):
    """All of the README's Python, one block after the other, as a reader would paste it."""
    blocks = python_blocks(ROOT / "README.md")
    assert blocks, "the README shows no Python"
    program = f"import os\nos.chdir({str(tmp_path)!r})\n" + "\n".join(blocks)
    check_python(program)
