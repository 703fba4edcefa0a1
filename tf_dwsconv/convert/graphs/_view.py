"""How a node of a GraphDef is put into the view, as all that read nodes do it."""

from __future__ import annotations

from typing import Any

from tf_dwsconv.convert.graphs._nodes import attribute


def layer_name(node: Any, suffix: str = "") -> str:
    # As `_reader.keras_name`; that module imports this one.
    return f"{node.name}{suffix}".replace("/", "\\")


def settings(reader: Any, node: Any, suffix: str = "") -> dict:
    return {"name": layer_name(node, suffix), "dtype": reader.dtype(f"{node.name}:0")}


def done(reader: Any, node: Any, result: Any, *others: Any) -> None:
    """Says that the result of a node is a tensor of the view, and that others are read with it."""
    reader.put(f"{node.name}:0", result)
    reader.read |= {node.name, *(other.name for other in others)}


def named(node: Any, result: Any) -> Any:
    """A result of one of Keras' ops, which then has the name of the node."""
    result._keras_history.operation.name = layer_name(node)
    return result


def layout_of(node: Any) -> str:
    return "channels_first" if attribute(node, "data_format").s == b"NCHW" else "channels_last"
