"""Facts of another machine, given by DWSCONV_TEST_MACHINE: believed, handed on to children, refused where bad."""

from __future__ import annotations

import itertools
import json
import os
import sys

import pytest
from conftest import ROOT, check_python
from machines import ALL_ISAS, MACHINES

from tf_dwsconv import native

sys.path.insert(0, str(ROOT / "tools"))

import another_machine as tool

INFO = "import json; from tf_dwsconv import native; print(json.dumps(native.cpu_info()))"


@pytest.mark.parametrize("machine", [MACHINES[0], MACHINES[-1]], ids=str)
def test_a_machine_is_believed(machine, monkeypatch):
    """By a child, which inherits the variable; instruction sets are taken away and never added."""
    monkeypatch.setenv("DWSCONV_TEST_MACHINE", str(machine))
    monkeypatch.delenv("DWSCONV_NUM_THREADS", raising=False)
    info = json.loads(check_python(INFO))
    assert tuple(info[f"{level}_bytes"] for level in ("l1d", "l2", "l3")) == machine.caches
    assert info["cores"] == machine.cores
    known = native.cpu_info()["isas"]
    assert info["isas"] == [isa for isa in known if isa in ALL_ISAS[: ALL_ISAS.index(machine.isa) + 1]]
    assert info["isa"] == info["isas"][-1]


def test_a_part_of_the_facts():
    """The rest stays as it is; nothing given is nothing changed."""
    own = json.loads(check_python(INFO))
    own.pop("bf16_reason")  # holds what each process measured
    for variable, changes in (
        ("", {}),
        ("l2=3M", {"l2_bytes": 3 << 20}),
        ("bf16=0,l3=0", {"bf16": False, "l3_bytes": 0, "bf16_products": "float32"}),
    ):
        told = json.loads(check_python(INFO, DWSCONV_TEST_MACHINE=_with_own(variable)))
        if "bf16=0" in variable:
            assert "amx" not in told["isas"]
            changes = {**changes, "isas": told["isas"], "isa": told["isas"][-1]}
        assert {key: told[key] for key in own} == {**own, **changes}


def _with_own(variable):
    """Beside what this process was told, so that these tests too may run on another machine."""
    return ",".join(filter(None, [os.environ.get("DWSCONV_TEST_MACHINE", ""), variable]))


STREAMS = """
from tf_dwsconv import native
print(native.plan((8, 64, 64, 16), (3, 3, 16, 1), (1, 1, 16, 64), num_threads=2, variant="fused")["stream"])
"""


@pytest.mark.parametrize("stores, streams", [("streamed", "True"), ("cached", "False")])
def test_stores_go_around_the_caches_only_where_that_pays(stores, streams):
    """Y that does not stay in L3, on CPUs like AMD's and like Intel's."""
    facts = f"l2=1M,l3=1M,stores={stores}"
    assert check_python(STREAMS, DWSCONV_TEST_MACHINE=_with_own(facts)).split() == [streams]


NATIVE = """
import numpy as np
from tf_dwsconv import native
x, d, p = (np.ones(s, "f") for s in ((1, 4, 4, 2), (3, 3, 2, 1), (1, 1, 2, 5)))
for call in (
    native.cpu_info,
    lambda: native.Layer(d, p),
    lambda: native.depthwise_sep_conv2d(x, d, p),
    lambda: native.depthwise_sep_conv2d(x, d, p, isa="generic"),
    lambda: native.plan(x.shape, d.shape, p.shape),
    lambda: native.traffic(x.shape, d.shape, p.shape, isa="generic"),
):
    try:
        call()
    except ValueError as error:
        print(error)
    else:
        raise AssertionError("no error")
"""


@pytest.mark.parametrize(
    "variable, named",
    [
        ("l2", "l2"),
        ("l2=1M,l9=2M", "l9=2M"),
        ("l1d=48k", "l1d=48k"),
        ("l3=-1", "l3=-1"),
        ("cores=0", "cores=0"),
        ("isa=sse9", "isa=sse9"),
        ("bf16=1", "bf16=1"),
        ("tiles=amx", "tiles=amx"),
        ("stores=1", "stores=1"),
        ("l2=1M,,cores=2", ""),
        ("l2=99999999999999999999M", "l2=99999999999999999999M"),
    ],
)
def test_bad_facts_are_refused(variable, named):
    """By everything that would use them, in the same words, where the instruction set is given too."""
    lines = check_python(NATIVE, DWSCONV_TEST_MACHINE=variable).splitlines()
    assert len(lines) == 6 and len(set(lines)) == 1
    assert lines[0].startswith(f'DWSCONV_TEST_MACHINE holds "{named}"; it must be a list, with commas between, of l1d=')
    assert "48K or 2M" in lines[0] and "1 to 1024" in lines[0] and "generic, avx2, avx512 or amx" in lines[0]


OPS = """
import tensorflow as tf
import tf_dwsconv
x, d, p = (tf.ones(s) for s in ((1, 4, 4, 2), (3, 3, 2, 1), (1, 1, 2, 5)))
library = tf_dwsconv._tf.library.load().module
attributes = dict(strides=[1, 1], padding="SAME", dilations=[1, 1])
layer = tf_dwsconv.FusedConvBlock(5, 3, expand_filters=4)
layer.build(x.shape)
with tf.GradientTape() as tape:
    tape.watch(x)
    for call in (lambda: tf_dwsconv.depthwise_sep_conv2d(x, d, p), lambda: layer(x)):
        try:
            call()
        except tf.errors.FailedPreconditionError as error:
            print(error.message)
        else:
            raise AssertionError("no error")
"""


@pytest.mark.usefixtures("op_library")
def test_the_ops_refuse_bad_facts_too():
    lines = check_python(OPS, DWSCONV_TEST_MACHINE="l2=much").splitlines()
    assert sum('DWSCONV_TEST_MACHINE holds "l2=much"; it must be' in line for line in lines) == 2, lines


def test_each_pair_of_facts_has_a_machine():
    fields = ("l1d", "l2", "l3", "cores", "isa")
    for a, b in itertools.combinations(fields, 2):
        values = [{getattr(machine, field) for machine in MACHINES} for field in (a, b)]
        pairs = {(getattr(machine, a), getattr(machine, b)) for machine in MACHINES}
        assert pairs == set(itertools.product(*values))


def test_each_commit_has_a_machine():
    """The same whenever it is asked; every machine gets its turn; the tests that run are there."""
    assert tool.chosen("0000000b" + "0" * 32) == tool.chosen("0000000b" + "f" * 32) == str(MACHINES[11 % len(MACHINES)])
    assert {tool.chosen(f"{number:08x}") for number in range(100)} == set(map(str, MACHINES))
    assert tool.chosen("") in map(str, MACHINES)
    assert all((ROOT / "python_tests" / name.split("::")[0]).is_file() for name in tool.TESTS)
    told = tool.environment(str(MACHINES[0]))
    assert told["DWSCONV_TEST_MACHINE"] == str(MACHINES[0]) and told["TF_NUM_INTRAOP_THREADS"] == "1"
