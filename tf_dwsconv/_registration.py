"""Tells TensorFlow and Keras about this package once they are imported, be it before this package or after.

A SavedModel loads only where its ops are registered, and a .keras file only where its layers are. A user who wrote
`import tf_dwsconv` expects both to work, but importing TensorFlow from here would cost seconds those who want
`tf_dwsconv.native` alone; so this waits for its import.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
import threading
from typing import Any, Optional


def _tell_tensorflow() -> None:
    importlib.import_module("tf_dwsconv.ops")  # registers the gradient
    importlib.import_module("tf_dwsconv.conv_block")
    importlib.import_module("tf_dwsconv._library").load()


def _tell_keras() -> None:
    importlib.import_module("tf_dwsconv.layers")
    importlib.import_module("tf_dwsconv.block_layer")
    keras = sys.modules["keras"]
    if keras.config.backend() == "tensorflow":
        importlib.import_module("tf_dwsconv.symbolic")


_ACTIONS = {"tensorflow": _tell_tensorflow, "keras": _tell_keras}


def _ready(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and not getattr(module.__spec__, "_initializing", False)


def install() -> None:
    """Acts now for what is imported, and later for what is not."""
    waiting = set()
    for name, action in _ACTIONS.items():
        if _ready(name):
            action()
        else:
            waiting.add(name)
    if waiting:
        sys.meta_path.insert(0, _Watcher(waiting))


class _Watcher(importlib.abc.MetaPathFinder):
    """Finds nothing itself: lets the others find a module of `_ACTIONS`, and acts after it has run."""

    def __init__(self, waiting: set):
        self._waiting = waiting
        self._searching = threading.local()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Optional[Any]:
        if name not in self._waiting or getattr(self._searching, "now", False):
            return None
        self._searching.now = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._searching.now = False
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            del spec.loader.exec_module  # leaves the loader as it was
            run(module)
            self._waiting.discard(name)
            if not self._waiting and self in sys.meta_path:
                sys.meta_path.remove(self)
            _ACTIONS[name]()

        spec.loader.exec_module = exec_module
        return spec
