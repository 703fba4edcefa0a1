"""tools/mutants.py: its table of faults is up to date, and what is wrong with one is told. It plants none here."""

from __future__ import annotations

import re
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))

import mutants
from mutant_faults import FAULTS, Fault

CPP = Fault("a name", "cc/core/half.h", "u >= 0x477ff000u", "u > 0x477ff000u", ("op/test_rounding.py",))
PYTHON = Fault("a name", "tf_dwsconv/_shapes.py", "-(-size // stride)", "size // stride", ("op/test_op.py",))


def test_the_table_fits_the_sources():
    """Whoever changes a line that a fault is in changes the fault, or takes another line for it."""
    assert mutants.check() == []
    assert len(FAULTS) >= 40
    assert {mutants.is_cpp(fault) for fault in FAULTS} == {True, False}


@pytest.mark.parametrize(
    "fault, message",
    [
        (CPP._replace(good="nowhere in the file"), "holds its text 0 times"),
        (CPP._replace(good="uint32_t"), r"holds its text \d+ times"),
        (CPP._replace(file="cc/core/gone.h"), "there is no file"),
        (CPP._replace(bad=CPP.good), "differ"),
        (CPP._replace(at="if (u >= 0x477ff000u)", good="u + 1"), "in its text once"),
        (CPP._replace(bad="u = 0;"), "both expressions"),
        (CPP._replace(good="(u >= 0x477ff000u"), "brackets"),
        (CPP._replace(good="0x7fffffffu;", bad="0;", at="u &= 0x7fffffffu;"), "in the middle of another"),
        (CPP._replace(good="{static_cast<uint16_t>(sign | 0x7c00u)}", bad="{0}"), "no expression"),
        (CPP._replace(tests=("test_gone.py",)), r"no tests \['test_gone.py'\]"),
        (CPP._replace(tests=()), "no tests"),
        (PYTHON._replace(bad="size //"), "is no Python"),
    ],
)
def test_a_fault_that_cannot_be_planted(fault, message):
    (line,) = mutants.check([fault])
    assert line.startswith("a name: ") and re.search(message, line)


def test_two_faults_of_a_name_and_two_in_one_place():
    assert mutants.check([CPP, CPP._replace(name="another")]) == ["another: it overlaps with a name"]
    assert any("two faults have this name" in line for line in mutants.check([CPP, PYTHON]))
    # Faults of Python code are planted one at a time.
    assert mutants.check([PYTHON, PYTHON._replace(name="another")]) == []


def test_planting():
    """A switch around an expression, another around statements, and plain text in Python."""
    fault = next(fault for fault in FAULTS if mutants.is_cpp(fault) and not fault.good.endswith(";"))
    text = (ROOT / fault.file).read_text(encoding="utf-8")
    number = FAULTS.index(fault) + 1
    assert f"(dwsconv_fault == {number} ? {fault.bad} : {fault.good})" in mutants.planted(fault, text)
    fault = next(fault for fault in FAULTS if mutants.is_cpp(fault) and fault.good.endswith(";"))
    text = (ROOT / fault.file).read_text(encoding="utf-8")
    number = FAULTS.index(fault) + 1
    assert f"if (dwsconv_fault == {number}) {{ {fault.bad} }} else {{ {fault.good} }}" in mutants.planted(fault, text)
    text = (ROOT / PYTHON.file).read_text(encoding="utf-8")
    assert mutants.planted(PYTHON, text) == text.replace(PYTHON.good, PYTHON.bad)
