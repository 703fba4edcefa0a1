"""Importing the package, and loading its op library: once, the right one, or none with one clear warning."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import PACKAGE, check_python, run_python

USE = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import numpy as np, tensorflow as tf, tf_dwsconv
    x, d, p = (np.ones(s, "float32") for s in ((1, 5, 5, 2), (3, 3, 2, 1), (1, 1, 2, 3)))
    for _ in range(3):
        y = tf_dwsconv.depthwise_sep_conv2d(x, d, p)
    assert float(y[0, 2, 2, 0]) == 18.0
warned = [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning) and "tf_dwsconv" in str(w.message)]
print("warned", len(warned), *warned)
print("library", tf_dwsconv.build_info()["op_library"])
"""


@pytest.fixture
def copy(tmp_path):
    """The package in another place, with files that a test may change."""
    shutil.copytree(PACKAGE, tmp_path / "tf_dwsconv", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def use(copy, program=USE, **environment):
    return check_python(f"import sys\nsys.path.insert(0, {str(copy)!r})\n" + program, **environment)


def test_import_brings_neither_tensorflow_nor_keras():
    program = """
import sys
import tf_dwsconv, tf_dwsconv.native
assert not {"tensorflow", "keras", "scipy"} & set(sys.modules), sorted(sys.modules)
try:
    tf_dwsconv.nonsense
except AttributeError as error:
    print(error)
"""
    assert "has no attribute 'nonsense'" in check_python(program)


def test_works_where_tensorflow_is_not_installed():
    program = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "keras"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
import numpy as np, tf_dwsconv.native
y = tf_dwsconv.native.depthwise_sep_conv2d(*(np.ones(s, "f4") for s in ((1, 5, 5, 2), (3, 3, 2, 1), (1, 1, 2, 3))))
assert y[0, 2, 2, 0] == 18
print(tf_dwsconv.build_info()["reason"])
"""
    assert "TensorFlow is not installed" in check_python(program)


@pytest.mark.parametrize("first", ["keras", "tf_dwsconv", "tensorflow"])
def test_registered_whatever_is_imported_first(first):
    program = f"""
import {first}
import tf_dwsconv, keras, tensorflow as tf
from tensorflow.python.framework import op_def_registry, ops
assert op_def_registry.get("TfDwsconv>DepthwiseSepConv2D") is not None
assert ops.gradient_registry.lookup("TfDwsconv>DepthwiseSepConv2D")
assert keras.saving.get_registered_object("tf_dwsconv>DepthwiseSepConv2D") is tf_dwsconv.DepthwiseSepConv2D
import importlib.util, inspect, sys
assert inspect.getsource(keras) and keras.__spec__.loader.__class__.__name__ == "SourceFileLoader"
assert "exec_module" not in vars(keras.__spec__.loader)
assert not [f for f in sys.meta_path if type(f).__module__.startswith("tf_dwsconv")]
print("registered")
"""
    assert "registered" in check_python(program)


def test_library_loads_without_a_word(copy):
    out = use(copy)
    assert "warned 0" in out and f"library {copy}" in out


def test_the_variable_asks_for_stock_ops_without_a_word(copy):
    out = use(copy, DWSCONV_DISABLE="1")
    assert "warned 0" in out and "library None" in out


def test_missing_library(copy):
    (copy / "tf_dwsconv" / "_dwsconv_ops.so").unlink()
    out = use(copy)
    assert "warned 1" in out and "make build" in out and "library None" in out


def test_another_tensorflow_minor(copy):
    """The library is not even opened: it is rubbish here, and the warning is of the version."""
    info = copy / "tf_dwsconv" / "_build_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "tensorflow": "2.16.1"}))
    (copy / "tf_dwsconv" / "_dwsconv_ops.so").write_bytes(b"rubbish")
    out = use(copy)
    assert "warned 1" in out and "built for TensorFlow 2.16.1" in out and "library None" in out


def test_library_that_does_not_load(copy):
    (copy / "tf_dwsconv" / "_dwsconv_ops.so").write_bytes(b"rubbish")
    out = use(copy)
    assert "warned 1" in out and "does not load" in out


def test_no_record_of_the_build(copy):
    (copy / "tf_dwsconv" / "_build_info.json").unlink()
    out = use(copy)
    assert "warned 1" in out and "_build_info.json" in out


def test_library_loaded_before_from_another_path(copy):
    """A second copy would register every kernel twice, and then no call works; the loaded one serves."""
    library = PACKAGE / "_dwsconv_ops.so"
    out = use(copy, f"import tensorflow as tf\ntf.load_op_library({str(library)!r})\n" + USE)
    assert "warned 0" in out and f"library {library}" in out


def test_loading_twice_from_two_paths_does_break_tensorflow(copy):
    """What the guard is for; should TensorFlow learn to cope, the guard can go."""
    program = f"""
import tensorflow as tf
op = tf.load_op_library({str(PACKAGE / "_dwsconv_ops.so")!r}).tf_dwsconv_depthwise_sep_conv2d
op(tf.ones([1, 5, 5, 2]), tf.ones([3, 3, 2, 1]), tf.ones([1, 1, 2, 3]), [], [], [])
print("works")
tf.load_op_library({str(copy / "tf_dwsconv" / "_dwsconv_ops.so")!r})
op(tf.ones([1, 6, 6, 2]), tf.ones([3, 3, 2, 1]), tf.ones([1, 1, 2, 3]), [], [], [], strides=[2, 2])  # a new kernel
"""
    done = run_python(program)
    assert "works" in done.stdout
    assert done.returncode != 0 and "Multiple OpKernel" in done.stderr
