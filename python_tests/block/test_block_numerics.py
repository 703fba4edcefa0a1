"""Random blocks and gradients in each 16-bit type on each path, within bounds that follow from epsilon.

DWSCONV_TEST_ALL=1 draws 300 of each.
"""

from __future__ import annotations

import os

import block_numerics
import gradient_numerics
import pytest
from conftest import check_python
from native_support import ISAS
from some_commits import ALL

pytestmark = pytest.mark.usefixtures("op_library")

WHAT = (block_numerics.agree, block_numerics.agree_beyond_numbers, gradient_numerics.agree)
# Of blocks, of those with NaN and infinity, and of gradients.
COUNTS = (300, 60, 300) if ALL else (80, 30, 80)

BY_TILES = """
import test_block_numerics as these
for agree, count in zip(these.WHAT, these.COUNTS):
    agree("bfloat16", ("amx",), count)
"""


@pytest.fixture(autouse=True)
def any_isa(monkeypatch):
    monkeypatch.setenv("DWSCONV_ISA", ISAS[0])  # put back what the runs change


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("agree, count", list(zip(WHAT, COUNTS)), ids=["blocks", "beyond numbers", "gradients"])
def test_agrees_with_float64(agree, count, dtype):
    agree(dtype, ISAS, count)


def test_tiles_agree_with_float64():
    """On their model, in a process that believes in it."""
    own = os.environ.get("DWSCONV_TEST_MACHINE", "")
    check_python(BY_TILES, DWSCONV_TEST_MACHINE=",".join(filter(None, [own, "tiles=model"])))
