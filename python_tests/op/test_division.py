"""Activations that end in a division: right with it and with an estimate of the reciprocal, on every CPU."""

from __future__ import annotations

import json
import os

import pytest
from conftest import check_python, check_tests
from native_support import ISAS

DIVIDING = {"silu", "sigmoid", "tanh", "mish", "gelu_tanh"}
PROGRAM = """
import hashlib, json, sys
import numpy as np
from tf_dwsconv import native
x = np.linspace(-12, 12, 4096, dtype=np.float32).reshape(1, 64, 64, 1)
one = np.ones((1, 1, 1, 1), np.float32)
found = {}
for isa in sys.argv[1:]:
    for word in ("silu", "sigmoid", "tanh", "mish", "gelu_tanh", "gelu", "elu", "hard_swish"):
        y = native.depthwise_sep_conv2d(x, one, np.ones((1, 1, 1, 32), np.float32), activation=word, isa=isa)
        found[isa + " " + word] = hashlib.sha256(y.tobytes()).hexdigest()
print(json.dumps(found))
"""


def machine(division):
    """Beside what this process was told."""
    return ",".join(filter(None, [os.environ.get("DWSCONV_TEST_MACHINE", ""), f"division={division}"]))


def test_the_machine_says_how():
    """AVX-512 has an estimate of the reciprocal; other instruction sets divide in any case."""
    fast, slow = (
        json.loads(check_python(PROGRAM, *ISAS, DWSCONV_TEST_MACHINE=machine(word))) for word in ("fast", "slow")
    )
    differ = {key for key in fast if fast[key] != slow[key]}
    assert differ == {f"{isa} {word}" for isa in ISAS if isa in ("avx512", "amx") for word in DIVIDING}


@pytest.mark.parametrize("division", ["fast", "slow"])
@pytest.mark.parametrize(
    "module, at_least", [("op/test_activation_sizes.py", 16), ("op/test_activation_kernels.py", 60)]
)
def test_both_are_right(division, module, at_least):
    check_tests(module, at_least=at_least, DWSCONV_TEST_MACHINE=machine(division))
