"""Exports to ONNX, which has no ops like ours: they end with an error, before a file is written.

Keras and tf2onnx would log an error, and write a file that no runtime loads. The stack shows them while they make their
graph. A `tf.function` that was traced before is not traced again, so it goes unnoticed.
"""

from __future__ import annotations

import sys

MESSAGE = (
    "ONNX has no op for tf_dwsconv's layers. Export tf_dwsconv.to_builtin(model): the same model with stock layers."
)


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
