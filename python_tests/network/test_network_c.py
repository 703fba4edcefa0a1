"""The C interface: the example compiled and run, and the library's functions by ctypes."""

from __future__ import annotations

import ctypes
import os
import subprocess

import numpy as np
import pytest
from conftest import PACKAGE, ROOT
from program_reference import Builder


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("shape", ctypes.POINTER(ctypes.c_int64)), ("rank", ctypes.c_int)]


def tensor(array: np.ndarray) -> Tensor:
    """It points into the array, which has to outlive it."""
    return Tensor(array.ctypes.data, (ctypes.c_int64 * array.ndim)(*array.shape), array.ndim)


@pytest.fixture(scope="module")
def library():
    loaded = ctypes.CDLL(str(PACKAGE / "libtf_dwsconv.so"))
    loaded.dwsconv_load.restype = ctypes.c_void_p
    loaded.dwsconv_load.argtypes = [ctypes.c_char_p]
    loaded.dwsconv_free.argtypes = [ctypes.c_void_p]
    for name in ("last_error", "input_name", "output_name"):
        getattr(loaded, f"dwsconv_{name}").restype = ctypes.c_char_p
    loaded.dwsconv_output_elements.restype = ctypes.c_int64
    return loaded


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A network of one input and one output: (builder, its file)."""
    rng = np.random.default_rng(0)
    builder = Builder()
    x = builder.input([None, None, None, 3], "image")
    weights = {"pointwise_filter": rng.standard_normal((3, 3, 3, 8)) * 0.2, "bias": rng.standard_normal(8)}
    x = builder.step("chain", x, weights=weights, strides=[2, 2], activation={"word": "hard_swish"})
    x = builder.step("dense", builder.step("mean", x), weights={"filter": rng.standard_normal((8, 5))})
    builder.output(builder.step("softmax", x))
    return builder, builder.save(tmp_path_factory.mktemp("network") / "network.safetensors")


def test_example(built, tmp_path):
    """Compiled as C, without a warning, and run as its first lines say."""
    builder, path = built
    program = tmp_path / "run_network"
    command = ["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{PACKAGE}", "-o", str(program)]
    command += [str(ROOT / "examples" / "serving" / "run_network.c"), str(PACKAGE / "libtf_dwsconv.so")]
    subprocess.run(command, check=True)
    x = np.random.default_rng(1).standard_normal((1, 9, 7, 3)).astype(np.float32)
    (tmp_path / "picture.raw").write_bytes(x.tobytes())

    def run(*arguments: object) -> subprocess.CompletedProcess:
        environment = {**os.environ, "LD_LIBRARY_PATH": str(PACKAGE)}
        return subprocess.run(
            [program, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=60
        )

    done = run(path, tmp_path / "picture.raw", 1, 9, 7, 3)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.array(done.stdout.split(), float), builder.expect(x)[0][0], atol=1e-5)
    wrong = run(path, tmp_path / "picture.raw", 1, 9, 7, 2)
    assert wrong.returncode == 1 and 'input "image" must have shape [?,?,?,3]' in wrong.stderr
    wrong = run(tmp_path / "picture.raw", tmp_path / "picture.raw", 1)
    assert wrong.returncode == 1 and "is no file of a program" in wrong.stderr


def test_functions(library, built):
    builder, path = built
    network = ctypes.c_void_p(library.dwsconv_load(os.fsencode(path)))
    assert network.value
    x = np.random.default_rng(2).standard_normal((2, 8, 8, 3)).astype(np.float32)
    given = tensor(x)
    counts = library.dwsconv_input_count(network), library.dwsconv_output_count(network)
    assert (library.dwsconv_dtype_of(network), *counts) == (0, 1, 1)
    assert library.dwsconv_input_name(network, 0) == b"image"
    assert library.dwsconv_output_name(network, 1) is None
    shape = (ctypes.c_int64 * 2)()
    assert library.dwsconv_output_shape(network, ctypes.byref(given), 1, 0, shape, 2) == 2
    assert list(shape) == [2, 5]
    assert library.dwsconv_output_elements(network, ctypes.byref(given), 1, 0) == 10
    y = np.empty((2, 5), np.float32)
    outputs = (ctypes.c_void_p * 1)(y.ctypes.data)
    assert library.dwsconv_run(network, ctypes.byref(given), 1, outputs, 1, 2) == 0
    np.testing.assert_allclose(y, builder.expect(x)[0], atol=1e-5)
    library.dwsconv_free(network)
    library.dwsconv_free(None)


def test_errors(library, built):
    """Each by its result and in words; none ends the process."""
    _, path = built
    assert library.dwsconv_load(b"/nowhere/network") is None
    assert b"cannot open" in library.dwsconv_last_error()
    assert library.dwsconv_load(None) is None
    assert b"path must not be NULL" in library.dwsconv_last_error()
    network = ctypes.c_void_p(library.dwsconv_load(os.fsencode(path)))
    x, y = np.ones((1, 4, 4, 3), np.float32), np.empty((1, 5), np.float32)
    good, outputs = tensor(x), (ctypes.c_void_p * 1)(y.ctypes.data)
    unaligned, nothing = tensor(x), tensor(x)
    unaligned.data += 1
    nothing.rank = 0
    none = (ctypes.c_void_p * 1)(None)
    for arguments, words in [
        ((None, ctypes.byref(good), 1, outputs, 1, 0), b"network must not be NULL"),
        ((network, None, 1, outputs, 1, 0), b"inputs must be an array"),
        ((network, ctypes.byref(good), 0, outputs, 1, 0), b"input"),
        ((network, ctypes.byref(nothing), 1, outputs, 1, 0), b"must have a shape of 1 to 8 sizes; given rank 0"),
        ((network, ctypes.byref(unaligned), 1, outputs, 1, 0), b"input 0 must have memory that is aligned to 4 bytes"),
        ((network, ctypes.byref(good), 1, none, 1, 0), b"output 0 must have memory that is aligned"),
        ((network, ctypes.byref(good), 1, outputs, 2, 0), b"outputs must be 1 pointers; given 2"),
        ((network, ctypes.byref(good), 1, outputs, 1, -1), b"num_threads must be 0"),
    ]:
        assert library.dwsconv_run(*arguments) == -1
        assert words in library.dwsconv_last_error()
    assert library.dwsconv_output_elements(network, ctypes.byref(good), 1, 3) == -1
    assert b"index must be 0 to 0; given 3" in library.dwsconv_last_error()
    library.dwsconv_free(network)
