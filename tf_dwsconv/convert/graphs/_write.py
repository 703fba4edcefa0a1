"""Writes signatures as a SavedModel, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo

from tf_dwsconv.convert.graphs._nodes import Nodes, node_of
from tf_dwsconv.convert.graphs._source import PathLike, Signature, Source, in_short, is_saved_model


def check_target(target: PathLike, source: PathLike, overwrite: bool) -> Path:
    """The folder to write, before anything is computed.

    Raises:
        TypeError, ValueError: it cannot be written, or something is there already.
    """
    if not isinstance(target, (str, os.PathLike)):
        raise TypeError(f"`target` must be a path; given {target!r:.80} of type {type(target).__name__}.")
    path = Path(target).absolute()
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {str(path.parent)!r} to write {os.fspath(target)!r} to.")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"the folder {str(path.parent)!r} of {os.fspath(target)!r} cannot be written to.")
    if path.exists():
        is_there = isinstance(source, (str, os.PathLike)) and Path(source).exists()
        same = " (it is the input)" if is_there and path.samefile(source) else ""
        if not overwrite:
            raise ValueError(f"{os.fspath(target)!r} exists{same}; --overwrite, or `overwrite=True`, writes over it.")
        if not path.is_dir():
            raise ValueError(f"{os.fspath(target)!r} is a file; a SavedModel is a folder.")
        if any(path.iterdir()) and not is_saved_model(path):
            raise ValueError(f"{os.fspath(target)!r} is no SavedModel, and would be deleted; name another folder.")
        if is_there and Path(source).resolve().is_relative_to(path.resolve()) and not path.samefile(source):
            raise ValueError(f"{os.fspath(target)!r} holds the input, which would be deleted; name another folder.")
    return path


def write(source: Source, target: Path, check: Optional[Callable[[Source, str], None]] = None) -> None:
    """Writes a SavedModel.

    Args:
        source: with the signatures as they are to be.
        target: the folder; one that is there is replaced at the end.
        check: is called with the source and the new folder before that takes its place; what it raises leaves all as it
            was.

    Raises:
        ValueError: TensorFlow cannot write it.
    """
    functions: dict[str, Any] = {}
    for signature in source.signatures:
        functions[signature.name] = function(signature) if signature.like is None else functions[signature.like]
    module = tf.Module()
    if any(signature.captures for signature in source.signatures):
        module.kept = source.loaded  # variables, tables and files that the graphs go on to read
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        made = Path(folder) / "model"
        try:
            tf.saved_model.save(module, str(made), signatures=functions)
        except Exception as error:  # as of a graph that is larger than a message may be
            raise ValueError(f"the converted graph cannot be saved: {in_short(error)}") from error
        if check is not None:
            check(source, str(made))
        if target.exists():
            shutil.rmtree(target)
        os.replace(made, target)


def function(signature: Signature) -> Any:
    """A signature as a function that TensorFlow can call and save."""
    nodes, outputs = _with_effects(signature)
    graph_def = nodes.graph_def

    def build() -> None:
        graph = tf.compat.v1.get_default_graph()
        inside = {f"{name}:0": graph.capture(outside) for name, outside in signature.captures.items()}
        tf.import_graph_def(graph_def, input_map=inside, name="")

    wrapped = tf.compat.v1.wrap_function(build, [])
    keys = sorted(signature.inputs)
    feeds = [wrapped.graph.get_tensor_by_name(signature.inputs[key]) for key in keys]
    # Sizes that TensorFlow cannot infer anew, as of a table's result, are those that they were.
    fetches = {
        key: TensorInfo(name=ref, dtype=spec.dtype.as_datatype_enum, tensor_shape=spec.shape.as_proto())
        for (key, ref), spec in zip(outputs.items(), signature.results.values())
    }
    found = wrapped.prune(feeds, fetches, input_signature=((), {key: signature.specs[key] for key in keys}))
    found._arg_keywords, found._num_positional_args = keys, int(len(keys) == 1)
    return found


def _with_effects(signature: Signature) -> tuple[Nodes, dict[str, str]]:
    """The graph, and its outputs behind the nodes that are to run in each call whether they are read or not."""
    nodes = signature.nodes.copy()
    effects = [f"^{name}" for name in signature.effects if name in nodes.by_name]
    outputs = dict(zip(signature.outputs, signature.nodes.fetches))
    if effects:
        for key, ref in outputs.items():
            node = tf.compat.v1.NodeDef(name=nodes.new_name(f"{node_of(ref)}/result"), op="Identity")
            node.input.extend([ref, *effects])
            node.attr["T"].type = signature.results[key].dtype.as_datatype_enum
            nodes.add(node)
            outputs[key] = f"{node.name}:0"
    return nodes, outputs
