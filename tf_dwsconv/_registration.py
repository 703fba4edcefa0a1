"""Tells TensorFlow and Keras about this package once they are imported, before this package or after it.

A SavedModel loads only where its ops are registered, and a .keras file only where its layers are. A user who wrote
`import tf_dwsconv` expects both to work, but importing TensorFlow from here would cost seconds those who want
`tf_dwsconv.native` alone; so this waits for its import.

To register is to import the modules of `_MODULES`, which `settle` does in an order in which each needs only those
before it. None of them may be half made then. But a user's line may begin with one of them, whose own first line
imports Keras, and so brings us here. So `settle` stops at one that is being made, and goes on when it is whole
(`_Package`). All is registered when the user's line is over.

This module is on top of the package and not in `_tf`: a thread whose first line imports a module of `_tf` holds that
folder's lock while it waits for the package.

Threads: `settle` runs while Python holds the lock of the module whose import brought it here, Keras say. Another thread
may be at the beginning of one of our modules, hold its lock, and wait for Keras. Python finds such circles. Either it
lets that thread go on with Keras as it is, which is whole but for its lock; or it lets our import fail, and `settle`
leaves the rest to that thread, which comes here when it has made its module. Where `settle` runs because a module of
ours is made, Python still holds that module's lock, and a circle would end some user's import. So there it does not
wait for other threads, and leaves the rest to them.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
import types
import warnings
from collections.abc import Iterator
from typing import Any, Optional

# By what they import: our modules that register something with it, and those that these need. Each imports none of them
# but those before it (a test reads them).
_MODULES = {
    "tensorflow": (
        "_tf.library", "_tf.guard", "_tf.convolutions", "_tf.stock", "_tf.casts", "_tf.signatures", "_tf.dispatch",
        "_tf.gradients", "_tf.batch_norm", "_tf.program_stock", "_tf.program", "ops",
    ),
    "keras": ("_tf.symbolic", "layers"),
}  # fmt: skip
# TensorFlow and Keras where they have run to their end, though their import may not be over.
_ran: set[str] = set()
_searching = threading.local()


def install() -> None:
    """Registers with what is imported already, and waits for what is not."""
    watch(__package__)
    if not _watchers():
        sys.meta_path.insert(0, _Watcher())
    for framework in _MODULES:
        _wait_for_others(framework)
    settle()


def watch(package: str) -> None:
    """Goes on with what is left whenever a module of a package is made."""
    sys.modules[package].__class__ = _Package


def bring(framework: str) -> None:
    """Imports TensorFlow or Keras before one of our modules does: no thread then waits for it with a lock of ours.

    Each of the two imports the other. So this first waits for the one that another thread is importing, and Keras comes
    first, which TensorFlow would import: two threads that begin at opposite ends would meet in the middle.
    """
    for name in reversed(_MODULES):
        _wait_for_others(name)
    if framework == "tensorflow" and not _is_whole(framework) and "TF_USE_LEGACY_KERAS" not in os.environ:
        with contextlib.suppress(ImportError):  # a backend that is not installed; TensorFlow goes on without
            importlib.import_module("keras")
    importlib.import_module(framework)


def settle(waits: bool = True) -> None:
    """Imports our modules, as far as TensorFlow and Keras are there; takes the watcher away when all is done.

    `waits`: for modules that other threads are making. Otherwise those threads go on from there.
    """
    try:
        done = _settle(waits)
    except Exception as error:
        done = False
        # What a user imports is Keras, say, and that works. A user of the layer gets the error itself.
        warnings.warn(f"tf_dwsconv cannot be registered: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)
    if done and _watchers():
        # A new list: another thread may be going through the old one, and would leave out a finder.
        sys.meta_path = [finder for finder in sys.meta_path if not _is_watcher(finder)]


def _settle(waits: bool) -> bool:
    """Whether everything is registered."""
    tensorflow, keras = (_is_whole(name) for name in _MODULES)
    modules: list[str] = []
    if tensorflow:
        modules += _MODULES["tensorflow"]
        if _make(f"{__package__}.{modules[0]}", waits):
            sys.modules[f"{__package__}.{modules[0]}"].load()
    if keras and sys.modules["keras"].config.backend() != "tensorflow":
        modules += _MODULES["keras"][1:]  # the layers refuse, and say why, where somebody makes one
    elif keras and tensorflow:
        modules += _MODULES["keras"]
    return all(_make(f"{__package__}.{name}", waits) for name in modules) and tensorflow and keras


def _make(name: str, waits: bool) -> bool:
    """Imports one of our modules; False where it is being made, by this thread or by one that it does not wait for."""
    if not _is_whole(name) and (waits or name not in sys.modules):
        with _no_circle():
            importlib.import_module(name)
    return _is_whole(name)


@contextlib.contextmanager
def _no_circle() -> Iterator[None]:
    """Goes on where Python refuses to wait for another thread that waits for this one."""
    try:
        yield
    except RuntimeError as error:
        if type(error).__name__ != "_DeadlockError":  # importlib gives it no public name
            raise


def _is_whole(name: str) -> bool:
    module = sys.modules.get(name)
    being_made = getattr(getattr(module, "__spec__", None), "_initializing", False)
    return module is not None and (name in _ran or not being_made)


def _wait_for_others(name: str) -> None:
    """Waits where another thread is importing a module; where it is this thread, there is nothing to wait for.

    The other thread may have only begun to look for it, at finders that were there before our watcher. Only the lock of
    the import tells. So this asks for the module, and our watcher ends that where nobody else had the lock.
    """
    if _is_whole(name) or not (name in sys.modules or _is_watcher(sys.meta_path[0])):
        return
    _searching.unwanted = name
    try:
        with contextlib.suppress(ImportError), _no_circle():
            importlib.import_module(name)
    finally:
        _searching.unwanted = None


def _is_watcher(finder: Any) -> bool:
    """By its module: a class is another one after `importlib.reload`."""
    return type(finder).__module__ == __name__


def _watchers() -> list:
    return [finder for finder in sys.meta_path if _is_watcher(finder)]


class _Package(types.ModuleType):
    """The class of our packages, of which Python makes each module an attribute when it has made it."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        made = f"{self.__name__}.{name}".removeprefix(f"{__package__}.")
        if any(made in names for names in _MODULES.values()) and _watchers():
            settle(waits=False)


class _Watcher:
    """A finder that finds nothing itself: lets the others find TensorFlow or Keras, and settles when that has run."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Optional[Any]:
        if name not in _MODULES or getattr(_searching, "name", None) == name:  # others' finders may ask all finders too
            return None
        if getattr(_searching, "unwanted", None) == name:
            raise ImportError(f"no thread is importing {name}", name=name)
        _searching.name = name
        try:
            found = (finder.find_spec(name, path, target) for finder in list(sys.meta_path) if finder is not self)
            spec = next((spec for spec in found if spec is not None), None)
        finally:
            _searching.name = None
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader:
    """The loader of TensorFlow or Keras, which takes itself out again before the module runs."""

    def __init__(self, loader: Any):
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        _ran.discard(module.__name__)
        self._loader.exec_module(module)
        _ran.add(module.__name__)
        settle()
