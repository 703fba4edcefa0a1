"""bfloat16 in the way that this CPU does not choose: others of its instruction set do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, check_python

from tf_dwsconv import native

INFO = "import json; from tf_dwsconv import native; print(json.dumps(native.cpu_info()))"


def told(way):
    """What a process says of this CPU that is told to multiply bfloat16 so."""
    return json.loads(check_python(INFO, DWSCONV_TEST_MACHINE=machine(way)).splitlines()[-1])


def machine(way):
    return ",".join(filter(None, [os.environ.get("DWSCONV_TEST_MACHINE", ""), f"bf16={way}"]))


@pytest.fixture(scope="module")
def other():
    if not told("dots")["bf16"]:
        pytest.skip("this CPU has no vdpbf16ps")
    return "floats" if native.cpu_info()["bf16"] else "dots"


@pytest.mark.parametrize("way, products", [("dots", "vdpbf16ps"), ("floats", "float32")])
def test_a_process_can_be_told_the_way(other, way, products):
    info = told(way)
    if info["bf16_products"] == "tiles":
        pytest.skip("tiles are the best way here")
    assert (info["bf16"], info["bf16_products"]) == (way == "dots", products)
    assert info["bf16_reason"].startswith("DWSCONV_TEST_MACHINE says so")


@pytest.mark.parametrize(
    "tests",
    [
        ("op/test_rounding.py", "-k", "avx512 and bfloat16"),
        ("native/test_native.py", "-k", "avx512 and bfloat16"),
        ("block/test_block_kernel.py", "-k", "avx512 and bfloat16"),
        ("op/test_forward_ways.py", "-k", "through_them or gradient"),
        ("block/test_block_ways.py",),
        ("block/test_block_gates.py", "-k", "avx512 and bfloat16"),
    ],
    ids=lambda tests: tests[0],
)
def test_the_other_way(other, tests):
    file, *options = tests
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "python_tests" / file), *options],
        env={**os.environ, "DWSCONV_TEST_MACHINE": machine(other)},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"\d+ passed", done.stdout)
