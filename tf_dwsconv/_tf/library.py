"""Finds the op library, loads it once, and says why where it cannot.

A caller gets the op, or None where stock ops have to compute; `warn_once` has told the user why.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
import threading
import warnings
from pathlib import Path
from typing import Any, Callable, Optional

OP_NAME = "TfDwsconv>DepthwiseSepConv2D"
GRADIENT_OP_NAME = "TfDwsconv>DepthwiseSepConv2DGrad"
BLOCK_OP_NAME = "TfDwsconv>ConvBlock"
NETWORK_OP_NAME = "TfDwsconv>Network"
CAST_OP_NAME = "TfDwsconv>CastWeights"
BLOCK_GRADIENT_OP_NAME = "TfDwsconv>ConvBlockGrad"
BATCH_NORM_OP_NAME = "TfDwsconv>BatchNorm"
BATCH_NORM_GRADIENT_OP_NAME = "TfDwsconv>BatchNormGrad"
LIBRARY = Path(__file__).parents[1] / "_dwsconv_ops.so"

# Written by the build beside the library: loading it into another TensorFlow than it was built for may end the process.
BUILD_INFO = LIBRARY.with_name("_build_info.json")

_lock = threading.RLock()
_state: Optional[_State] = None
_warned: set = set()


class StockOpsWarning(RuntimeWarning):
    """Stock TensorFlow ops compute what the fused kernel was asked for; the message says why."""


class _State:
    """The outcome of loading: the module of op wrappers, or the reason why there is none."""

    op = gradient_op = block_op = network_op = cast_op = batch_norm_ops = block_gradient_op = None

    def __init__(self, module: Any = None, path: Optional[str] = None, reason: str = ""):
        self.module, self.path, self.reason = module, path, reason
        if module is not None:
            self.op: Optional[Callable] = module.tf_dwsconv_depthwise_sep_conv2d
            self.gradient_op: Optional[Callable] = module.tf_dwsconv_depthwise_sep_conv2d_grad
            self.block_op: Optional[Callable] = module.tf_dwsconv_conv_block
            # A library of an older build has none; then the steps of a program are ops of their own.
            self.network_op: Optional[Callable] = getattr(module, "tf_dwsconv_network", None)
            # Likewise; then TensorFlow casts.
            self.cast_op: Optional[Callable] = getattr(module, "tf_dwsconv_cast_weights", None)
            # Likewise; then TensorFlow differentiates.
            self.block_gradient_op: Optional[Callable] = getattr(module, "tf_dwsconv_conv_block_grad", None)
            # Likewise; then TensorFlow normalises.
            norm, gradient = (getattr(module, f"tf_dwsconv_batch_norm{end}", None) for end in ("", "_grad"))
            self.batch_norm_ops: Optional[tuple] = None if norm is None else (norm, gradient)


def warn_once(key: str, message: str) -> None:
    """Warns the first time that `key` is given in this process."""
    with _lock:
        if key in _warned:
            return
        _warned.add(key)
    warnings.warn(message, StockOpsWarning, stacklevel=4)


def disabled() -> bool:
    """Whether the environment asks for stock ops."""
    return os.environ.get("DWSCONV_DISABLE", "") not in ("", "0")


def op() -> Optional[Callable]:
    """The op's wrapper; or None, after one warning, where stock ops have to compute."""
    state = _state or load()
    if state.op is None:
        warn_once("library", f"tf_dwsconv computes with stock TensorFlow ops: {state.reason}")
        return None
    # Asked for by the user, who needs no warning.
    return None if disabled() else state.op


def gradient_op() -> Optional[Callable]:
    """The gradient op's wrapper, or None as `op`."""
    return None if op() is None else load().gradient_op


def block_op() -> Optional[Callable]:
    """The wrapper of the block's op, or None as `op`."""
    return None if op() is None else load().block_op


def network_op() -> Optional[Callable]:
    """The wrapper of the op that runs whole programs, or None as `op`."""
    return None if op() is None else load().network_op


def cast_op() -> Optional[Callable]:
    """The wrapper of the op that casts weights, or None as `op`."""
    return None if op() is None else load().cast_op


def batch_norm_ops() -> Optional[tuple]:
    """The wrappers of the batch norm's op and of its gradient's, or None as `op` or where there is a GPU."""
    return None if op() is None or _has_gpu() else load().batch_norm_ops


def block_gradient_op() -> Optional[Callable]:
    """The wrapper of the gradient op of blocks, or None as `op` or where there is a GPU."""
    return None if op() is None or _has_gpu() else load().block_gradient_op


@functools.cache
def _has_gpu() -> bool:
    """Whether TensorFlow may place an op on a GPU, for which the library has not all kernels."""
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def load() -> _State:
    """Loads the library if no call has yet, and tells how that went."""
    global _state
    importlib.import_module("tensorflow")  # its lock before ours: importing it may end in a call of this
    with _lock:
        if _state is None:
            _state = _load()
        return _state


def _load() -> _State:
    import tensorflow as tf
    from tensorflow.python.framework import op_def_registry

    path = str(LIBRARY.resolve())
    if op_def_registry.get(OP_NAME) is not None:
        # Somebody loaded it before us. A second copy from another path would register the kernels twice, and after that
        # every call of the op fails; the same file again is harmless.
        loaded = _mapped_libraries()
        if len(loaded) != 1:
            return _State(reason=f"{OP_NAME} is registered already, by a library that is not {path}.")
        path = loaded[0]
    else:
        if not os.path.exists(path):
            return _State(reason=f"{LIBRARY.name} is not in {LIBRARY.parent}; `make build` makes it.")
        built_for = read_build_info().get("tensorflow")
        if built_for is None:
            return _State(reason=f"{BUILD_INFO} does not say which TensorFlow the op library was built for.")
        if _minor(built_for) != _minor(tf.version.VERSION):
            return _State(reason=_mismatch(built_for, tf.version.VERSION))
    try:
        module = tf.load_op_library(path)
        return _State(module, path)
    except (tf.errors.OpError, OSError, RuntimeError, AttributeError) as error:
        return _State(reason=f"{path} does not load: {str(error).splitlines()[0]}")


def read_build_info() -> dict[str, Any]:
    """What the build recorded of itself; empty where there is no record."""
    try:
        return json.loads(BUILD_INFO.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


def _mismatch(built_for: str, installed: str) -> str:
    """What is wrong where the op library is for another TensorFlow, and which wheel or TensorFlow would fit."""
    ours, theirs = ".".join(_minor(built_for)), ".".join(_minor(installed))
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return (
        f"its op library was built for TensorFlow {built_for}, and {installed} is installed. Install the wheel of "
        f"tf_dwsconv whose name has +tf{theirs}-{python}, or build one (DWSCONV_TENSORFLOW={theirs} pip install .), or "
        f"install TensorFlow {ours} (pip install 'tensorflow~={ours}.0')."
    )


def _mapped_libraries() -> list[str]:
    """Files of our library's name that are mapped into this process."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            fields = [line.rstrip("\n").split(maxsplit=5) for line in maps]
    except OSError:
        return []
    return sorted({parts[5] for parts in fields if len(parts) == 6 and os.path.basename(parts[5]) == LIBRARY.name})
