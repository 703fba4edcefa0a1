"""Products of bfloat16 by tile registers, on their model, which every CPU can run.

Each test has a process of its own that believes in it. What tiles compute has C++ tests beside the kernels.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, check_python, check_tests, python_environment, run_python

from tf_dwsconv import native

OWN = os.environ.get("DWSCONV_TEST_MACHINE", "")


def machine(*facts: str) -> str:
    """Beside what this process was told, so that these tests too may run on another machine."""
    return ",".join(filter(None, [OWN, *facts]))


RANDOM_LAYERS = """
import sys
from hypothesis import HealthCheck, given, settings
from strategies import shapes
import test_native
from tf_dwsconv import native
before = native.calls()
@settings(max_examples=int(sys.argv[1]), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(shapes(max_channels=80))
def agrees(shape):
    test_native.check(shape, "bfloat16", "amx")
agrees()
calls = native.calls()
print(calls["amx"], sum(calls[isa] for isa in calls if isa not in ("amx", "pack")))
"""


@pytest.mark.parametrize(
    "facts, examples", [((), 200), (("isa=generic",), 100)], ids=["own vectors", "generic vectors"]
)
def test_random_layers_agree_with_float64(facts, examples):
    """Any window, stride, dilation, multiplier, activation and tail; the same bits for one thread and two."""
    out = check_python(RANDOM_LAYERS, str(examples), DWSCONV_TEST_MACHINE=machine(*facts, "tiles=model"))
    by_tiles, others = map(int, out.split())
    assert by_tiles >= examples and others == 0


@pytest.mark.parametrize(
    "module, chosen, at_least",
    [
        ("block/test_block_kernel.py", "amx and not float32 and not float16", 14),
        # Not op/test_rounding.py: a Z that rounds to infinity, times a weight of zero, is NaN where Z is bfloat16.
        ("gradient/test_backward.py", "amx and bfloat16", 1),
        ("block/test_block_gates.py", "amx and bfloat16", 10),
        ("network/test_network_scales.py", "amx and bfloat16", 9),
        ("op/test_activation_sizes.py", "amx and in_bfloat16", 8),
        ("op/test_activation_kernels.py", "both_places and bfloat16-amx", 11),
        ("layer/test_training_parts.py", "against_float64 and amx", 1),
        ("native/test_ladder.py", "own_filters or (instruction_set and amx)", 10),
        ("op/test_small_channels.py", "ladder", 1),
        ("plan/test_tune_blocks.py", "whatever_the_plan and amx", 1),
    ],
)
@pytest.mark.usefixtures("op_library")
def test_what_every_instruction_set_has_to_pass(module, chosen, at_least):
    """Blocks with each stage, exact ties, gradients: tests of kernels that take the instruction set as a parameter."""
    check_tests(module, "-k", chosen, at_least=at_least, DWSCONV_TEST_MACHINE=machine("tiles=model"))


SAME_BITS = """
import numpy as np, ml_dtypes
from tf_dwsconv import native
rng = np.random.default_rng(0)
draw = lambda *shape: rng.standard_normal(shape).astype(ml_dtypes.bfloat16)
for h, c, k, r, words in ((13, 70, 45, 3, ("relu6", "none")), (9, 33, 100, 5, ("silu", "hard_swish"))):
    x, d, p = draw(3, h, h + 4, c), draw(r, r, c, 1), draw(1, 1, c, k)
    layer = native.Layer(d, p, depthwise_activation=words[0], activation=words[1])
    whole = layer(x, num_threads=1)
    for threads in (2, 5):
        assert layer(x, num_threads=threads).tobytes() == whole.tobytes()
    assert layer(x[1:2], num_threads=2).tobytes() == whole[1:2].tobytes()
    pixels = h * (h + 4)
    for block in (1, 7, 16, 33, pixels):
        plan = {"block_pixels": block, "block_channels": 32, "threads": 2, "stream": False}
        assert layer(x, num_threads=2, plan=plan).tobytes() == whole.tobytes()
assert native.calls()["amx"] == 18 and sum(native.calls()[isa] for isa in ("generic", "avx2", "avx512")) == 0
# NaN and infinity stay in their pixels, and padding is no number that a NaN in a filter could spoil.
x, d, p = draw(1, 5, 5, 33), draw(1, 1, 33, 1), draw(1, 1, 33, 40)
x[0, 2, 3, 32] = np.nan
y = native.depthwise_sep_conv2d(x, d, p).astype("f")
assert np.isnan(y[0, 2, 3]).all() and np.isnan(y).sum() == 40
"""


def test_the_same_bits_for_any_threads_batch_and_plan():
    check_python(SAME_BITS, DWSCONV_TEST_MACHINE=machine("tiles=model"))


INFO = "import json; from tf_dwsconv import native; print(json.dumps(native.cpu_info()))"


def test_cpu_info_tells_the_way_and_why():
    told = json.loads(check_python(INFO, DWSCONV_TEST_MACHINE=machine("tiles=model")))
    assert told["isas"][-1] == told["isa"] == "amx"
    assert told["bf16_products"] == "tiles" and "model" in told["bf16_reason"]
    told = json.loads(check_python(INFO, DWSCONV_TEST_MACHINE=machine("tiles=model"), DWSCONV_ISA="generic"))
    assert (told["isa"], told["bf16_products"]) == ("generic", "float32")
    own = native.cpu_info()
    assert own["bf16_products"] in ("float32", "vdpbf16ps", "tiles") and own["bf16_reason"]


def test_a_refused_permission_gives_the_next_best_path():
    """As where a hypervisor shows the flag and the system says no: nothing dies, and amx by name is an error."""
    refused = machine("tiles=refused")
    told = json.loads(check_python(INFO, DWSCONV_TEST_MACHINE=refused))
    assert "amx" not in told["isas"] and told["isa"] == told["isas"][-1]
    assert told["bf16_products"] in ("float32", "vdpbf16ps")
    done = run_python(INFO, DWSCONV_TEST_MACHINE=refused, DWSCONV_ISA="amx")
    assert done.returncode == 1
    assert 'DWSCONV_ISA is "amx", which this CPU lacks (the system refused AMX tiles: ' in done.stderr


def test_bench_bf16_compares_bits_and_writes_a_table(tmp_path):
    """The program of make bench-bf16, where the model stands in for the hardware."""
    out = tmp_path / "table.md"
    options = ["--seconds", "0", "--layers", "mobilenetv1_7x1024", "--threads", "1", "--no-peers", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "bench_bf16.py"), *options],
        env=python_environment(DWSCONV_TEST_MACHINE=machine("tiles=model")),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    text = out.read_text(encoding="utf-8")
    assert "60 of 60 random layers have the bits of the model" in text
    assert re.search(r"^\| mobilenetv1_7x1024-1024_n1 \| [\d.]+ \|", text, re.MULTILINE)


FEW_CHANNELS = """
import ml_dtypes, numpy as np
from tf_dwsconv import native
isas = native.cpu_info()["isas"]
assert isas[-1] == "amx"
rng = np.random.default_rng(0)
for channels, multiplier in ((3, 1), (15, 1), (5, 3), (16, 1), (8, 2)):
    x, d, p = (rng.standard_normal(shape).astype(ml_dtypes.bfloat16) for shape in
               ((2, 9, 11, channels), (3, 3, channels, multiplier), (1, 1, channels * multiplier, 40)))
    tiles, vectors = (native.depthwise_sep_conv2d(x, d, p, isa=isa).view(np.uint16) for isa in isas[-1:-3:-1])
    print(channels * multiplier, int(np.array_equal(tiles, vectors)), int(np.count_nonzero(tiles)))
"""


def test_a_pair_of_few_channels_goes_by_vectors():
    """A tile has 32 channels: below 16 vectors take less time, and have the bits of the instruction set below."""
    out = check_python(FEW_CHANNELS, DWSCONV_TEST_MACHINE=machine("tiles=model"))
    same = {int(channels): int(equal) for channels, equal, _ in map(str.split, out.splitlines())}
    assert all(same[channels] for channels in (3, 15))
    assert all(int(line.split()[2]) > 0 for line in out.splitlines())
