"""Imports of this package in all orders, with TensorFlow and Keras in miniature: what `test_first_line.py` runs.

The package is copied as a skeleton: `__init__` and `_registration` as they are, of every other module the imports and
the names alone. TensorFlow and Keras are a few lines that import each other as the real ones do, and have their names
at the end, so that nobody gets by with one that is half made. Thousands of orders then take seconds, and each finds a
process in which nothing was imported before.

    python first_line_program.py FOLDER < CASES

CASES is a JSON list of {"lines": [[...], ...], "environment": {...}}: the lines of one thread or of several. Where a
case has `"without": true`, its lines must import neither TensorFlow nor Keras. Prints a JSON list of what went wrong.
"""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import json
import os
import sys
import threading
import time
import traceback
import types
import warnings
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "tf_dwsconv"

TENSORFLOW = """
import importlib, os, pause
pause.here()
name = "tensorflow"
try:  # as TensorFlow does, with an error that nobody sees
    if not os.environ.get("TF_USE_LEGACY_KERAS"):
        importlib.import_module("keras.src.optimizers")
except (ImportError, AttributeError):
    pass
pause.here()
is_whole = True
"""
KERAS = """
import os, types, pause
backend = os.environ.get("KERAS_BACKEND", "tensorflow")
if backend == "torch":
    raise ModuleNotFoundError("No module named 'torch'", name="torch")
if backend == "tensorflow":
    import tensorflow
    tensorflow.name
pause.here()
registered = {}

def register_keras_serializable(package):
    def decorate(cls):
        registered[cls.__name__] = cls
        return cls
    return decorate

saving = types.SimpleNamespace(register_keras_serializable=register_keras_serializable)
config = types.SimpleNamespace(backend=lambda: backend)
pause.here()
is_whole = True
"""


def skeleton(source: str) -> str:
    """The imports of a module and the names that it defines; what it decorates for Keras stays so."""
    body: list = []
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            decorators = [d for d in node.decorator_list if ast.unparse(d).startswith("keras.saving.")]
            body.append(ast.ClassDef(node.name, [], [], [ast.Pass()], decorators))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            body += [ast.Assign([t], ast.Constant(None)) for t in targets if isinstance(t, ast.Name)]
        elif isinstance(node, (ast.Import, ast.ImportFrom, ast.If, ast.Try)):
            body.append(node)
    imported = ast.unparse(ast.fix_missing_locations(ast.Module(body, [])))
    check = "import sys as _sys, pause as _pause\n_pause.here()\n"
    for name in ("tensorflow", "keras"):
        if any(isinstance(n, ast.Import) and n.names[0].name == name for n in body):
            check += f"assert _sys.modules[{name!r}].is_whole, '{name} is half made'\n"
    return f"{imported}\n{check}"


def write(folder: Path) -> None:
    """The package's skeleton and the miniatures."""
    for path in sorted(PACKAGE.rglob("*.py")):
        target = folder / "tf_dwsconv" / path.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        source = path.read_text(encoding="utf-8")
        whole = path in (PACKAGE / "__init__.py", PACKAGE / "_tf" / "__init__.py", PACKAGE / "_registration.py")
        target.write_text(source if whole else skeleton(source), encoding="utf-8")
    for name, source in (("tensorflow", TENSORFLOW), ("keras", KERAS)):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(source, encoding="utf-8")


class Anything:
    """Finds the modules of TensorFlow and Keras that the miniatures lack, and our compiled one; each has every name."""

    def find_spec(self, name, path=None, target=None):
        if name.startswith(("tensorflow.", "keras.")) or name in ("tf_dwsconv._native", "tf_dwsconv._lab"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__getattr__ = lambda name: self.attribute(module.__name__, name)

    @staticmethod
    def attribute(module, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


FINDERS = list(sys.meta_path)


class Case:
    """One process, as far as imports go."""

    def __init__(self, lines: list, environment: dict, without: bool = False):
        self.lines, self.environment, self.without = lines, environment, without
        self.problems: list = []

    def run(self) -> list:
        for name in list(sys.modules):
            if name.split(".")[0] in ("tensorflow", "keras", "tf_dwsconv"):
                del sys.modules[name]
        sys.meta_path[:] = [*FINDERS, Anything()]
        for name in ("KERAS_BACKEND", "TF_USE_LEGACY_KERAS"):
            os.environ.pop(name, None)
        os.environ.update(self.environment)
        # Threads give way at some places and not at others, so that they meet in many ways.
        sys.modules["pause"].here = (lambda: time.sleep(0.0005)) if len(self.lines) > 1 else (lambda: None)
        threads = [threading.Thread(target=self._execute, args=(lines,), daemon=True) for lines in self.lines]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
        if any(thread.is_alive() for thread in threads):
            self.problems.append("a thread hangs")
            return self.problems
        if self.without and {"tensorflow", "keras"} & set(sys.modules):
            self.problems.append("TensorFlow or Keras was imported")
        self._execute(["import tf_dwsconv", "import keras", "import tensorflow"])
        self._look()
        return self.problems

    def _execute(self, lines: list) -> None:
        for line in lines:
            try:
                exec(line, {})
            except Exception as error:
                expected = self.environment.get("KERAS_BACKEND") == "torch" and "torch" in str(error)
                if not expected and not self._is_a_circle_of_theirs(error):
                    self.problems.append(f"{line}: {traceback.format_exc(limit=-3)}")

    def _is_a_circle_of_theirs(self, error: Exception) -> bool:
        """TensorFlow and Keras import each other, so threads whose own lines begin with them can meet in the middle."""
        theirs = {line for lines in self.lines for line in lines} & {"import tensorflow", "import keras"}
        locks = ("_ModuleLock('keras')", "_ModuleLock('tensorflow')")
        return bool(theirs) and type(error).__name__ == "_DeadlockError" and any(lock in str(error) for lock in locks)

    def _look(self) -> None:
        """All is registered, and nobody watches any more."""
        backend = self.environment.get("KERAS_BACKEND", "tensorflow")
        registration = importlib.import_module("tf_dwsconv._registration")
        needed = {*registration._MODULES["tensorflow"]}
        if backend != "torch":  # which is not installed, so there is no Keras
            needed |= {*registration._MODULES["keras"]} - ({"_tf.symbolic"} if backend == "jax" else set())
            classes = {"DepthwiseSepConv2D", "FusedConvBlock", "FusedNetwork"} | (
                {"DepthwiseSepConv2DOp"} if backend != "jax" else set()
            )
            missing = classes - set(sys.modules["keras"].registered)
            if missing:
                self.problems.append(f"Keras does not know {sorted(missing)}")
            if registration._watchers():
                self.problems.append("the watcher stays")
        names = [f"tf_dwsconv.{name}" for name in needed]
        half = [name for name in names if name not in sys.modules or not registration._is_whole(name)]
        if half:
            self.problems.append(f"not imported, or half made: {half}")
        for name in {"keras", "tensorflow"} & set(sys.modules):
            loader = sys.modules[name].__spec__.loader
            if type(loader) is not importlib.machinery.SourceFileLoader:
                self.problems.append(f"the loader of {name} is {loader}")


def main() -> None:
    folder = Path(sys.argv[1])
    write(folder)
    sys.path.insert(0, str(folder))
    sys.modules["pause"] = types.ModuleType("pause")
    sys.setswitchinterval(1e-5)
    found = []
    for case in json.load(sys.stdin):
        problems = Case(**case).run()
        if problems:
            found.append({**case, "problems": problems})
            if "a thread hangs" in problems:
                break
    json.dump(found, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # a thread that hangs would keep the process


if __name__ == "__main__":
    main()
