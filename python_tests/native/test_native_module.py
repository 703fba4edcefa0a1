"""tf_dwsconv.native as a module: threads, memory, imports, what it tells of the CPU and of plans."""

from __future__ import annotations

import threading
import time

import ml_dtypes
import numpy as np
import pytest
import reference
from conftest import check_python
from in_threads import in_threads
from native_support import ISAS, SHAPE, D, P, X, arrays

from tf_dwsconv import native


def test_calls_from_many_threads():
    """One layer and many functions at once, with images of their own."""
    case, _, tensors, _ = arrays({**SHAPE, "bias": True})
    layer = native.Layer(**tensors)

    def work(seed):
        for step in range(40):
            height = 3 + (seed * 7 + step) % 20
            x = np.random.default_rng(seed).standard_normal((1, height, 9, SHAPE["C"])).astype(np.float32)
            expected = reference.forward(x, case[1]) if step % 10 == 0 else layer(x, num_threads=1)
            scale = np.abs(expected).max()
            np.testing.assert_allclose(layer(x, num_threads=step % 3), expected, rtol=0, atol=1e-4 * scale)
            y = native.depthwise_sep_conv2d(x, **tensors, num_threads=step % 3)
            np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4 * scale)

    in_threads(work, range(8))


def test_other_python_threads_run_while_a_kernel_does():
    layer = native.Layer(np.ones((3, 3, 64, 1), np.float32), np.ones((1, 1, 64, 64), np.float32), variant="reference")
    x = np.ones((1, 160, 160, 64), np.float32)
    ticks, done = [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    ticker = threading.Thread(target=tick)
    ticker.start()
    begin = time.perf_counter()
    layer(x, num_threads=1)
    end = time.perf_counter()
    done.set()
    ticker.join()
    inside = [t for t in ticks if begin + 0.1 * (end - begin) < t < end - 0.1 * (end - begin)]
    assert end - begin > 0.05, "too short to tell"
    assert len(inside) >= 5


def test_many_calls_do_not_grow_memory():
    check_python(
        """
import resource
import numpy as np
from tf_dwsconv import native
d, p, b = np.ones((3, 3, 32, 1), "f"), np.ones((1, 1, 32, 48), "f"), np.ones(48, "f")
x, out = np.ones((1, 20, 20, 32), "f"), np.empty((1, 20, 20, 48), "f")
layer = native.Layer(d, p, bias=b)
def calls(n):
    for i in range(n):
        layer(x[:, : 5 + i % 16])
        layer(x, out=out, residual=out)
        native.depthwise_sep_conv2d(x[..., ::1], d, p, bias=b)
        try:
            layer(x[0])
        except ValueError:
            pass
        native.Layer(d, p)
calls(300)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
calls(2000)
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 << 10
"""
    )


def test_needs_no_tensorflow_and_is_quick_to_import():
    check_python(
        """
import sys, time
import numpy
begin = time.perf_counter()
from tf_dwsconv import native
seconds = time.perf_counter() - begin
loaded = {"tensorflow", "keras", "ml_dtypes", "scipy"} & set(sys.modules)
assert not loaded, loaded
assert seconds < 2, seconds
d, p = numpy.ones((3, 3, 2, 1), "f"), numpy.ones((1, 1, 2, 5), "f")
assert native.depthwise_sep_conv2d(numpy.ones((1, 4, 4, 2), "f"), d, p)[0, 1, 1, 0] == 18
assert "tensorflow" not in sys.modules
"""
    )


def test_without_the_lab_only_the_ladder_and_the_simulation_are_missing():
    check_python(
        """
import sys
sys.modules["tf_dwsconv._lab"] = None
import numpy
from tf_dwsconv import native
x, d, p = numpy.ones((1, 4, 4, 2), "f"), numpy.ones((3, 3, 2, 1), "f"), numpy.ones((1, 1, 2, 5), "f")
for variant in ("auto", "fused", "reference"):
    assert native.depthwise_sep_conv2d(x, d, p, variant=variant)[0, 1, 1, 0] == 18
for call in (
    lambda: native.depthwise_sep_conv2d(x, d, p, variant="simd"),
    lambda: native.Layer(d, p, variant="openmp"),
    lambda: native.traffic(x.shape, d.shape, p.shape),
):
    try:
        call()
    except ImportError as error:
        assert "_lab" in str(error) and "make build" in str(error), error
    else:
        raise AssertionError("no error")
"""
    )


def test_without_openmp_only_its_step_of_the_ladder_is_missing(tmp_path):
    """As in a slim image, where there is no libgomp.so.1."""
    (tmp_path / "libgomp.so.1").write_bytes(b"no library")
    check_python(
        """
import numpy
from tf_dwsconv import native
x, d, p = numpy.ones((1, 4, 4, 2), "f"), numpy.ones((3, 3, 2, 1), "f"), numpy.ones((1, 1, 2, 5), "f")
for variant in native.LADDER:
    if variant != "openmp":
        assert native.depthwise_sep_conv2d(x, d, p, variant=variant)[0, 1, 1, 0] == 18
assert native.traffic(x.shape, d.shape, p.shape)["memory"]
for call, first in ((native.depthwise_sep_conv2d, (x,)), (native.Layer, ())):
    try:
        call(*first, d, p, variant="openmp")
    except ImportError as error:
        assert "libgomp.so.1" in str(error) and "libgomp1" in str(error), error
    else:
        raise AssertionError("no error")
""",
        LD_LIBRARY_PATH=str(tmp_path),
    )


def test_without_the_compiled_module_the_error_says_what_to_do():
    check_python(
        """
import sys
sys.modules["tf_dwsconv._native"] = None
try:
    import tf_dwsconv.native
except ImportError as error:
    assert "make build" in str(error) and "reinstall" in str(error), error
else:
    raise AssertionError("imported")
"""
    )


def test_cpu_info(monkeypatch):
    info = native.cpu_info()
    assert info["isas"][0] == "generic"
    assert info["isa"] == info["isas"][-1]
    assert info["cores"] >= 1
    assert min(info[key] for key in ("l1d_bytes", "l2_bytes", "l3_bytes")) >= 0
    for isa in ISAS:
        monkeypatch.setenv("DWSCONV_ISA", isa)
        assert native.cpu_info()["isa"] == isa
    monkeypatch.setenv("DWSCONV_ISA", "sse9")
    for call in (native.cpu_info, lambda: native.depthwise_sep_conv2d(X, D, P), lambda: native.Layer(D, P)):
        with pytest.raises(ValueError, match="DWSCONV_ISA"):
            call()


def test_plan():
    plan = native.plan((2, 56, 56, 64), (3, 3, 64, 1), (1, 1, 64, 128), strides=2, num_threads=2)
    assert plan["output_shape"] == (2, 28, 28, 128)
    assert plan["flops"] == 2 * 2 * 28 * 28 * 64 * (9 + 128)
    assert plan["isa"] == ISAS[-1]
    assert 1 <= plan["threads"] <= 2
    assert 1 <= plan["block_pixels"] <= 28 * 28
    assert 1 <= plan["block_channels"] <= 128
    assert plan["tasks"] == 2 * -(-28 * 28 // plan["block_pixels"]) * -(-128 // plan["block_channels"])
    assert plan["scratch_bytes_per_thread"] < 2 << 20
    assert (
        native.plan([1, 4, 4, 2], [3, 3, 2, 1], [1, 1, 2, 5], dtype=ml_dtypes.bfloat16, isa="generic")["isa"]
        == "generic"
    )
    # Shapes that fit 64 bits and no memory are planned all the same.
    assert native.plan((2**20, 2**10, 2**10, 4), (3, 3, 4, 1), (1, 1, 4, 4))["flops"] == 2 * 2**40 * 4 * 13
