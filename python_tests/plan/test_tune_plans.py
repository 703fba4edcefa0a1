"""Plans given with a call, and tuned ones in use: the same bits, and what cannot be is refused."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import check_python
from tune_support import SHAPES, arrays, cache, choice, odd_choice, tuning  # noqa: F401

from tf_dwsconv import native, tune
from tf_dwsconv.tune import _cache, _search


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_results_are_the_same_bit_for_bit(dtype):
    """Whatever the plan, on every instruction set: blocks, shares, threads, stores."""
    import ml_dtypes

    x, depthwise, pointwise = arrays(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    for isa in native.cpu_info()["isas"]:
        expected = native.depthwise_sep_conv2d(x, depthwise, pointwise, isa=isa, variant="fused")
        layer = native.Layer(depthwise, pointwise, isa=isa)
        plan = {name: native.plan(*SHAPES, dtype=dtype, isa=isa, num_threads=2)[name] for name in _search.CHOICES}
        for change in ({"block_pixels": 1}, {"block_pixels": 7}, {"block_pixels": 400}, {"block_channels": 64}):
            y = layer(x, plan={**plan, **change}, num_threads=2)
            np.testing.assert_array_equal(y.view(np.uint8), expected.view(np.uint8))
        y = layer(x, plan={**plan, "threads": 3, "stream": True}, num_threads=3)
        np.testing.assert_array_equal(y.view(np.uint8), expected.view(np.uint8))


def test_results_with_a_tuned_plan(cache):
    """The same as the planner's."""
    _cache.update(cache, [tuning(odd_choice())["line"]])
    assert tune.reload() == 1
    x, depthwise, pointwise = arrays()
    tuned = native.depthwise_sep_conv2d(x, depthwise, pointwise)
    np.testing.assert_array_equal(tuned, native.depthwise_sep_conv2d(x, depthwise, pointwise, variant="fused"))


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"block_pixels": 0}, ValueError, r"block_pixels must be 1 to 400"),
        ({"block_pixels": 401}, ValueError, r"block_pixels must be 1 to 400 \(Ho\*Wo\), but is 401"),
        ({"block_pixels": -(2**63)}, ValueError, "block_pixels must be"),
        ({"block_pixels": 2**63}, ValueError, r"plan\[\"block_pixels\"\] does not fit"),
        ({"block_channels": 0}, ValueError, "block_channels must be 70"),
        ({"block_channels": 33}, ValueError, r"block_channels must be 70 \(K\) or less and a multiple"),
        ({"block_channels": 96}, ValueError, "block_channels must be"),
        ({"threads": 0}, ValueError, "threads must be 1 to 2"),
        ({"threads": 3}, ValueError, "threads must be 1 to 2, but is 3"),
        ({"stream": 2}, ValueError, r"plan\[\"stream\"\] must be True or False"),
        ({"block_pixels": 1.5}, TypeError, r"plan\[\"block_pixels\"\] must be an integer, but is a float"),
    ],
)
def test_a_plan_that_cannot_be(change, error, message):
    """Each is refused by name, before anything is computed."""
    with pytest.raises(error, match=message):
        native.depthwise_sep_conv2d(*arrays(), num_threads=2, plan=choice(**{"threads": 1, **change}))


def test_a_plan_of_another_kind():
    """Not a dict, a part of a plan, a variant without a plan."""
    with pytest.raises(TypeError, match="plan must be None or a dict, but is a int"):
        native.depthwise_sep_conv2d(*arrays(), plan=3)
    with pytest.raises(ValueError, match="lacks block_channels"):
        native.depthwise_sep_conv2d(*arrays(), plan={"block_pixels": 20})
    with pytest.raises(ValueError, match='plan goes with variant "auto" or "fused"'):
        native.depthwise_sep_conv2d(*arrays(), variant="reference", plan=choice())
    whole = native.plan(*SHAPES)  # as it comes
    assert native.depthwise_sep_conv2d(*arrays(), plan=whole).shape == (2, 20, 20, 70)
    assert native.depthwise_sep_conv2d(np.ones((0, 20, 20, 24), "f"), *arrays()[1:], plan=whole).shape[0] == 0


def test_scratch_stays_small():
    """A plan from outside cannot ask for more than 2 MiB a thread."""
    shapes = ((1, 200, 200, 64), (3, 3, 64, 1), (1, 1, 64, 8))
    plan = {**native.plan(*shapes), "block_pixels": 40_000, "threads": 1}
    with pytest.raises(ValueError, match=r"block_pixels must be at most \d+ for the scratch memory"):
        native.depthwise_sep_conv2d(*(np.ones(shape, "f") for shape in shapes), plan=plan)


OP = """
import sys
import numpy as np, tensorflow as tf
import tf_dwsconv
from tf_dwsconv import tune
from tf_dwsconv._tf import library as _library
import ctypes
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
random = np.random.default_rng(1)
x, d, p = (random.uniform(-1, 1, s).astype("float32") for s in {shapes!r})
y = tf_dwsconv.depthwise_sep_conv2d(x, d, p).numpy()
library = ctypes.CDLL(_library.load().path)
library.dwsconv_tuned_calls.restype = ctypes.c_int64
print("tuned", library.dwsconv_tuned_calls())
np.save(sys.argv[2], y)
if len(sys.argv) > 3:
    from pathlib import Path
    Path(sys.argv[3]).unlink()
    print("reloaded", tune.reload())
    tf_dwsconv.depthwise_sep_conv2d(x, d, p)
    print("tuned", library.dwsconv_tuned_calls())
"""


def test_the_op_uses_tuned_plans(op_library, cache, tmp_path):
    """In a new process, with the same bits as without; `reload` reaches the op's library too."""
    threads = min(2, tuning()["threads_limit"])
    odd = {**odd_choice(), "threads": 1}
    _cache.update(cache, [tuning(odd, num_threads=threads)["line"]])
    program = OP.format(shapes=SHAPES)
    told = check_python(program, str(threads), str(tmp_path / "tuned.npy"), str(cache))
    assert told.split() == ["tuned", "1", "reloaded", "0", "tuned", "1"]
    told = check_python(program, str(threads), str(tmp_path / "planned.npy"), DWSCONV_PLAN_CACHE="off")
    assert told.split() == ["tuned", "0"]
    tuned, planned = (np.load(tmp_path / f"{name}.npy") for name in ("tuned", "planned"))
    np.testing.assert_array_equal(tuned, planned)
