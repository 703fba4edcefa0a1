"""The first line of a program: whichever of our names or modules it imports, and whatever else was imported before.

Orders are tried in miniature (`first_line_program.py`): thousands of them, among threads too. A few run with the real
TensorFlow and Keras, each in a process of its own, as importing those takes seconds.
"""

from __future__ import annotations

import ast
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, check_python

import tf_dwsconv
from tf_dwsconv import _registration

MODULES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for path in (ROOT / "tf_dwsconv").rglob("*.py")
    if "__main__" not in path.name
)
# These promise to work without TensorFlow.
PURE = [
    name
    for name in MODULES
    if name.split(".")[1:2] in ([], ["analysis"], ["native"], ["tune"], ["activations"], ["profile"])
    or name.rpartition(".")[2] in ("_arguments", "_registration", "_shapes", "_text", "_tf", "_tf_keras")
    or name.split(".")[1:] in (["_program"], ["_program_shapes"], ["_program_steps"])
    or name.split(".")[1:] in (["_tf", "library"], ["_tf", "onnx"])
]
OTHERS = [f"import {name}" for name in MODULES if name not in PURE]
NAMES = [f"from tf_dwsconv import {name}" for name in (*tf_dwsconv.__all__, "*")]
TENSORFLOW, KERAS, OURS = "import tensorflow", "import keras", "import tf_dwsconv"


def in_miniature(tmp_path, cases):
    """Runs cases of `first_line_program`, and fails where one of them does."""
    program = Path(__file__).with_name("first_line_program.py")
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path)],
        input=json.dumps([{"environment": {}, **case} for case in cases]),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    told = "\n".join(f"{case['lines']} {case['environment']}: {case['problems']}" for case in found[:5])
    assert not found, f"{len(found)} of {len(cases)} cases:\n{told}"


def test_every_first_line(tmp_path):
    """Alone, and in every order with TensorFlow and Keras."""
    before = [[], [TENSORFLOW], [KERAS], [OURS], [OURS, TENSORFLOW], [OURS, KERAS], [TENSORFLOW, OURS], [KERAS, OURS]]
    cases = [{"lines": [[*lines, line]]} for line in (*OTHERS, *NAMES) for lines in before]
    in_miniature(tmp_path, cases)


@pytest.mark.parametrize(
    "environment", [{"TF_USE_LEGACY_KERAS": "1"}, {"KERAS_BACKEND": "jax"}, {"KERAS_BACKEND": "torch"}], ids=str
)
def test_every_first_line_elsewhere(tmp_path, environment):
    """TensorFlow that imports no Keras; a Keras that imports no TensorFlow; one whose backend is not installed."""
    lines = [[*first, line] for line in (*OTHERS, *NAMES) for first in ([], [TENSORFLOW])]
    cases = [{"lines": [order], "environment": environment} for order in lines]
    in_miniature(tmp_path, cases)


def test_no_framework_where_none_is_needed(tmp_path):
    in_miniature(tmp_path, [{"lines": [[f"import {name}"]], "without": True} for name in PURE])


def test_threads(tmp_path):
    """Two and three threads whose first lines meet, with circles of locks that Python has to break."""
    lines = [
        "import tf_dwsconv.layers",
        "import tf_dwsconv.block_layer",
        "import tf_dwsconv.ops",
        "import tf_dwsconv._tf.dispatch",
        "import tf_dwsconv._tf.symbolic",
        "import tf_dwsconv.convert",
        "from tf_dwsconv import DepthwiseSepConv2D",
        "from tf_dwsconv import *",
        OURS,
        KERAS,
        TENSORFLOW,
    ]
    pairs = [[[a], [b]] for a, b in itertools.combinations_with_replacement(lines, 2)]
    triples = [[[a], [b], [c]] for a, b, c in itertools.combinations(lines[:1] + lines[2:3] + lines[5:], 3)]
    later = [[[OURS, *a], [OURS, *b]] for a, b in pairs]
    in_miniature(tmp_path, [{"lines": lines} for lines in (*pairs, *triples, *later)])


@pytest.mark.parametrize("framework", ["keras", "tensorflow"])
def test_an_import_that_began_before_ours(tmp_path, framework):
    """A thread has found its module, which is not in sys.modules yet, when this package begins to watch."""
    theirs = f"""
import importlib.machinery, sys, time
class Slow(importlib.machinery.SourceFileLoader):
    def create_module(self, spec):
        self.__class__ = importlib.machinery.SourceFileLoader
        sys.found = True
        while not any(type(f).__module__ == "tf_dwsconv._registration" for f in sys.meta_path): time.sleep(0.001)
        time.sleep(0.2)  # for the other thread to look into sys.modules
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {framework!r} and not hasattr(sys, "found"):
            spec = importlib.machinery.PathFinder.find_spec(name)
            spec.loader.__class__ = Slow
            return spec
sys.meta_path.insert(0, Finder())
import {framework}"""
    ours = "import sys, time\nwhile not hasattr(sys, 'found'): time.sleep(0.001)\nimport tf_dwsconv"
    in_miniature(tmp_path, [{"lines": [[theirs], [ours]]}])


def test_other_ways_to_import(tmp_path):
    """Reloads, walks over all modules, `python -m`, a pickle, `help`."""
    again = "import importlib, sys\nfor name in [n for n in sys.modules if n.startswith('tf_dwsconv')]:\n    "
    again += "importlib.reload(sys.modules[name])"
    walk = "import pkgutil, tf_dwsconv\nfor m in pkgutil.walk_packages(tf_dwsconv.__path__, 'tf_dwsconv.'):\n    "
    walk += "'__main__' in m.name or __import__(m.name)"
    orders = [[OURS, again], [OURS, again, KERAS], [walk], [walk, again], [KERAS, walk], [OURS, KERAS, again]]
    find = "import importlib.util\nassert importlib.util.find_spec('keras').name == 'keras'"
    program = "import runpy; runpy.run_module('tf_dwsconv.block_layer', run_name='__main__')"
    unpickle = "import pickle; pickle.loads(b'\\x80\\x04ctf_dwsconv.block_layer\\nFusedConvBlock\\n.')"
    text = "import pydoc, tf_dwsconv; assert 'depthwise_sep_conv2d' in pydoc.render_doc(tf_dwsconv)"
    orders += [[OURS, find, KERAS], [program], [unpickle], [text]]
    in_miniature(tmp_path, [{"lines": [order]} for order in orders])


def imports_of(name: str) -> list:
    """Our modules that one of them imports when it is made, or a folder's modules do that are not that folder's."""
    path = ROOT / "tf_dwsconv" / name.replace(".", "/")
    found = []
    for file in path.glob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
        source = ast.parse(file.read_text(encoding="utf-8"))
        for node in itertools.chain.from_iterable(n.body if isinstance(n, ast.If) else [n] for n in source.body):
            if isinstance(node, ast.ImportFrom) and node.module in ("tf_dwsconv", "tf_dwsconv._tf"):
                room = node.module.removeprefix("tf_dwsconv").removeprefix(".")
                found += [f"{room}.{alias.name}".removeprefix(".") for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module.startswith("tf_dwsconv."):
                found.append(node.module.removeprefix("tf_dwsconv."))
    return [needed for needed in found if needed.partition(".")[0] != name]


def test_the_list_of_modules_is_in_order():
    """Each imports none but those before it; and those that are not in the list need neither TensorFlow nor Keras."""
    listed = [name for names in _registration._MODULES.values() for name in names]
    for i, name in enumerate(listed):
        for needed in imports_of(name):
            assert needed in listed[:i] or f"tf_dwsconv.{needed}" in PURE, f"{name} imports {needed}"


# What a program finds when its first line is over, with the real ones.
CHECK = """
import sys
assert "keras" in sys.modules and "tensorflow" in sys.modules
from tensorflow.python.framework import op_def_registry, ops
for name in ("TfDwsconv>DepthwiseSepConv2D", "TfDwsconv>DepthwiseSepConv2DGrad", "TfDwsconv>ConvBlock",
    "TfDwsconv>Network", "TfDwsconv>CastWeights"):
    assert op_def_registry.get(name) is not None, name
    assert ops.gradient_registry.lookup(name), name
import keras, tf_dwsconv
for name in ("DepthwiseSepConv2D", "FusedConvBlock", "FusedNetwork"):
    assert keras.saving.get_registered_object(f"tf_dwsconv>{name}") is getattr(tf_dwsconv, name), name
assert keras.saving.get_registered_object("tf_dwsconv>DepthwiseSepConv2DOp") is not None
assert not [f for f in sys.meta_path if type(f).__module__.startswith("tf_dwsconv")]
assert type(keras.__spec__.loader).__name__ == "SourceFileLoader" == type(keras.__loader__).__name__
print("all is there")
"""
THREADS = """
import threading
lines = ["import tf_dwsconv.block_layer", "from tf_dwsconv import DepthwiseSepConv2D", "import keras"]
failed = []
start = threading.Barrier(3)
def run(line):
    start.wait()
    try:
        exec(line, {})
    except BaseException as error:
        failed.append((line, repr(error)))
threads = [threading.Thread(target=run, args=(line,)) for line in lines]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failed, failed
"""


@pytest.mark.usefixtures("op_library")
@pytest.mark.parametrize(
    "first, environment",
    [
        ("from tf_dwsconv import DepthwiseSepConv2D", {}),
        ("import tensorflow\nimport tf_dwsconv.layers", {"TF_USE_LEGACY_KERAS": "1"}),
        (THREADS, {}),
    ],
    ids=["name", "legacy", "threads"],
)
def test_with_the_real_ones(first, environment):
    assert "all is there" in check_python(first + CHECK, **environment)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers(method):
    """A worker's first line is what unpickles its task."""
    program = f"""
import multiprocessing, pickle, sys
import tf_dwsconv

class Task:  # becomes a layer's class in the worker, without importing it here
    def __reduce__(self):
        return pickle.loads, (b"\\x80\\x04ctf_dwsconv.block_layer\\nFusedConvBlock\\n.",)

with multiprocessing.get_context("{method}").Pool(1) as pool:
    print(pool.apply(str, (Task(),)))
assert "tensorflow" not in sys.modules
"""
    assert "tf_dwsconv.layers.block.FusedConvBlock" in check_python(program)
