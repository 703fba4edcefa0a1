"""Exports to ONNX, which has no ops like ours: they end with an error, before a file is written."""

from __future__ import annotations

import sys

from tf_dwsconv._library import BLOCK_OP_NAME, OP_NAME

MESSAGE = (
    "ONNX has no op for tf_dwsconv's layers. Export tf_dwsconv.to_builtin(model): the same model with stock layers."
)
_known: set[str] = set()


def refuse() -> None:
    """To be called where a fused op is about to stand in a graph.

    Raises:
        ValueError: the graph is made for an export to ONNX.
    """
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module == "keras.src.export.onnx" or module.startswith("tf2onnx."):
            raise ValueError(MESSAGE)
        frame = frame.f_back
    if "tf2onnx.handler" in sys.modules and not _known:
        _register()


def _register() -> None:
    """Makes tf2onnx raise at our ops, for graphs that are made before it is called."""
    from tf2onnx.handler import tf_op

    class Refusal:
        @classmethod
        def version_1(cls, ctx, node, **kwargs):
            raise ValueError(MESSAGE)

    tf_op([OP_NAME, BLOCK_OP_NAME])(Refusal)
    _known.add(tf_op.__module__)
