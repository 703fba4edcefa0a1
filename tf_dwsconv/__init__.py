"""Fused depthwise-separable convolutions for Keras and TensorFlow.

    layer = tf_dwsconv.DepthwiseSepConv2D(64, 3)           # replaces keras.layers.SeparableConv2D
    y = tf_dwsconv.depthwise_sep_conv2d(x, depthwise_filter, pointwise_filter)
    fused = tf_dwsconv.convert(model)                      # a whole Keras model, batch norms folded
    tf_dwsconv.native                                      # the same kernels on NumPy arrays, without TensorFlow
    tf_dwsconv.analysis                                    # FLOPs, communication bounds, tilings
    tf_dwsconv.tune                                        # faster plans, found by measuring on this machine

Importing this package imports neither TensorFlow nor Keras. It registers the op, its gradient and the layers' names in
saved models with them as soon as they are imported, in either order.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tf_dwsconv import _registration

if TYPE_CHECKING:  # what __getattr__ imports, for type checkers and editors
    from tf_dwsconv import activations, analysis, layers, native, ops, tune
    from tf_dwsconv.convert import Converter, convert_saved_model, save_network, to_builtin
    from tf_dwsconv.layers import (
        DepthwiseSepConv2D,
        FusedBatchNormalization,
        FusedConvBlock,
        FusedDepthwiseConv2D,
        FusedNetwork,
    )
    from tf_dwsconv.ops import depthwise_sep_conv2d

    convert: Converter  # a module that can be called

__version__ = "0.2.0"

_WHERE = {
    "DepthwiseSepConv2D": "layers",
    "FusedBatchNormalization": "layers",
    "FusedConvBlock": "layers",
    "FusedDepthwiseConv2D": "layers",
    "FusedNetwork": "layers",
    "convert_saved_model": "convert",
    "depthwise_sep_conv2d": "ops",
    "save_network": "convert",
    "to_builtin": "convert",
}
_FRAMEWORK = {"convert": "keras", "layers": "keras", "ops": "tensorflow"}
_MODULES = ("activations", "analysis", "convert", "layers", "native", "ops", "tune")

__all__ = [
    "DepthwiseSepConv2D",
    "FusedBatchNormalization",
    "FusedConvBlock",
    "FusedDepthwiseConv2D",
    "FusedNetwork",
    "activations",
    "analysis",
    "build_info",
    "convert",
    "convert_saved_model",
    "depthwise_sep_conv2d",
    "layers",
    "native",
    "ops",
    "save_network",
    "to_builtin",
    "tune",
]


if not TYPE_CHECKING:  # which would believe any name

    def __getattr__(name: str) -> Any:
        where = _WHERE.get(name, name)
        if name not in _WHERE and name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if where in _FRAMEWORK:
            _registration.bring(_FRAMEWORK[where])
        module = importlib.import_module(f"{__name__}.{where}")
        value = globals()[name] = module if name in _MODULES else getattr(module, name)
        return value


def __dir__() -> list[str]:
    return sorted(__all__)


def build_info() -> dict[str, Any]:
    """What this package is, and whether its op library runs here.

    Returns:
        A dict: `version` of the package; `op_library`, its path, or None where stock ops compute; `reason`, why it is
        None, else ""; `tensorflow`, the installed version or None; `built`, what the build recorded: the TensorFlow and
        the instruction sets it was for, the compiler.

    Example:

    >>> import tf_dwsconv
    >>> sorted(tf_dwsconv.build_info())
    ['built', 'op_library', 'reason', 'tensorflow', 'version']
    """
    from tf_dwsconv._tf import library

    info: dict[str, Any] = {"version": __version__, "built": library.read_build_info(), "op_library": None}
    try:
        import tensorflow as tf
    except ImportError:
        return {**info, "tensorflow": None, "reason": "TensorFlow is not installed."}
    state = library.load()
    info.update(tensorflow=tf.version.VERSION, op_library=state.path, reason=state.reason)
    if library.disabled():
        info.update(op_library=None, reason="DWSCONV_DISABLE is set.")
    return info


_registration.install()
