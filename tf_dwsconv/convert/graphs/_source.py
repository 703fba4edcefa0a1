"""Opens a SavedModel or a frozen GraphDef: each signature as one graph of its own, inlined and frozen."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Callable, Optional, Union

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.python.framework import op_def_registry

from tf_dwsconv.convert.graphs import _freeze
from tf_dwsconv.convert.graphs._choices import take_defaults
from tf_dwsconv.convert.graphs._inline import inline
from tf_dwsconv.convert.graphs._nodes import Nodes, tensor_of

PathLike = Union[str, os.PathLike]
DEFAULT = "serving_default"
_FILES = ("saved_model.pb", "saved_model.pbtxt")


@dataclasses.dataclass
class Signature:
    """One signature.

    inputs, outputs: tensors by key; what they are is in `specs` and `results`. captures: what the graph reads of the
    model around it, by the names of placeholders. effects: nodes that run in each call. like: the name of an earlier
    signature that is the same one under another name.
    """

    name: str
    nodes: Nodes
    inputs: dict[str, str]
    specs: dict[str, tf.TensorSpec]
    outputs: dict[str, str]
    results: dict[str, tf.TensorSpec]
    captures: dict[str, Any]
    effects: list[str]
    like: Optional[str] = None


@dataclasses.dataclass
class Source:
    """What was opened.

    signatures: those to be converted. original: gives a signature as it was, by name: a function, or a `Signature`.
    loaded: the model, where there is one. left: what of it is left out, in words.
    """

    signatures: list[Signature]
    original: Callable[[str], Any]
    loaded: Any = None
    left: list[str] = dataclasses.field(default_factory=list)


def open_source(
    path: PathLike,
    signatures: Optional[Iterable[str]] = None,
    tags: Optional[Sequence[str]] = None,
    inputs: Optional[Sequence[str]] = None,
    outputs: Optional[Sequence[str]] = None,
) -> Source:
    """Reads a SavedModel's folder, or a file with a GraphDef.

    Args:
        path: of the folder, or of the file.
        signatures: names of those to read; None for all.
        tags: of the graph to read, where a SavedModel holds several.
        inputs, outputs: tensors of a GraphDef, by name; None for its placeholders, and for what nothing reads.

    Raises:
        TypeError, ValueError: an argument that cannot be, by name; a file that cannot be read.
    """
    source = _checked_path(path)
    given = {"signatures": signatures, "tags": tags, "inputs": inputs, "outputs": outputs}
    for argument, names in given.items():
        if isinstance(names, str) or (names is not None and not hasattr(names, "__iter__")):
            raise TypeError(f"`{argument}` must be a list of names; given {names!r} of type {type(names).__name__}.")
    if source.is_dir():
        if inputs is not None or outputs is not None:
            raise ValueError("`inputs` and `outputs` are of a GraphDef's file; a SavedModel has signatures.")
        return _open_saved_model(source, signatures, tags)
    if tags is not None or signatures is not None:
        raise ValueError(f"`signatures` and `tags` are of SavedModels; given {os.fspath(path)!r}, a file.")
    return _open_graph_def(source, inputs, outputs)


def is_saved_model(path: PathLike) -> bool:
    """Whether a folder holds a SavedModel."""
    return any((Path(path) / name).is_file() for name in _FILES)


def _checked_path(path: PathLike) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"`source` must be a path; given {path!r:.80} of type {type(path).__name__}.")
    source = Path(path)
    if not source.exists():
        raise ValueError(f"there is no file or folder {os.fspath(path)!r}.")
    if source.is_file() and source.name in _FILES:
        source = source.parent
    if source.is_dir() and not is_saved_model(source):
        raise ValueError(f"{os.fspath(path)!r} is no SavedModel: there is no {_FILES[0]} in it.")
    return source


def in_short(error: BaseException) -> str:
    """An error in one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 300 else words[:300] + " ..."


def _open_saved_model(path: Path, names: Any, tags: Any) -> Source:
    try:
        loaded = tf.saved_model.load(str(path), tags=None if tags is None else list(tags))
    except Exception as error:  # of whatever a broken file, other tags or an op that is not registered lead to
        raise ValueError(f"{str(path)!r} cannot be loaded: {in_short(error)}") from error
    there = dict(loaded.signatures)
    if names is None:
        names = list(there)
    unknown = sorted(set(names) - set(there))
    if unknown or not names:
        given = f"; given {', '.join(map(repr, unknown))}" if unknown else ""
        raise ValueError(f"`signatures` must be of {', '.join(map(repr, sorted(there))) or '(none are there)'}{given}.")
    found = [_signature(name, there[name]) for name in names]
    kept = set().union(*(_freeze.written(s.nodes, s.captures) for s in found))
    left: list[str] = []
    for signature in found:
        left += take_defaults(signature.nodes)
        _freeze_references(signature, loaded)
        _freeze.freeze(signature.nodes, signature.captures, kept)
        _freeze.plain(signature.nodes)
        signature.captures = {name: t for name, t in signature.captures.items() if name in signature.nodes.by_name}
    _find_same(found)
    left += [f"the signature {name!r}, which was not asked for" for name in there if name not in names]
    left += [f"the function {name!r}, which is no signature" for name in _functions(loaded) if name not in there]
    return Source(found, loaded.signatures.__getitem__, loaded, left)


def _freeze_references(signature: Signature, loaded: Any) -> None:
    """Makes constants of reference variables, which TensorFlow 1 keeps inside the graph."""
    variables = [node for node in signature.nodes if node.op in ("VariableV2", "Variable")]
    readers = signature.nodes.readers()
    for node in variables:
        definitions = [op_def_registry.get(reader.op) for reader in readers[f"{node.name}:0"]]
        if any(definition is None or any(arg.is_ref for arg in definition.input_arg) for definition in definitions):
            raise ValueError(
                f"the signature {signature.name!r} writes the reference variable {node.name!r}, which TensorFlow 2 "
                "cannot save; name other signatures."
            )
        with loaded.graph.as_default():
            value = tf.identity(loaded.graph.get_tensor_by_name(f"{node.name}:0"))
        _freeze.make_constant(node, loaded.prune([], [value])()[0].numpy())


def _functions(loaded: Any) -> list[str]:
    """Names of the functions that a model has as attributes."""
    kinds = (tf.types.experimental.GenericFunction, tf.types.experimental.ConcreteFunction)
    return sorted(name for name, value in vars(loaded).items() if isinstance(value, kinds) and name[0] != "_")


def _find_same(signatures: list[Signature]) -> None:
    """Says which signatures are the same: exports give one function several names."""
    seen: dict[Any, str] = {}
    for signature in signatures:
        graph = signature.nodes.graph_def.SerializeToString(deterministic=True)
        captured = tuple(sorted((name, id(outside)) for name, outside in signature.captures.items()))
        outputs = tuple(zip(signature.outputs, signature.nodes.fetches))
        key = (graph, captured, tuple(signature.inputs.items()), outputs, tuple(signature.effects))
        signature.like = seen.get(key)
        seen.setdefault(key, signature.name)


def _signature(name: str, function: Any) -> Signature:
    captured = list(function.captured_inputs)
    tensors = list(function.inputs)
    given, inner = tensors[: len(tensors) - len(captured)], tensors[len(tensors) - len(captured) :]
    keys, results = list(function._arg_keywords), function.structured_outputs
    if len(keys) != len(given) or not isinstance(results, dict) or len(results) != len(function.outputs):
        raise ValueError(f"the signature {name!r} has inputs or outputs that are no plain tensors.")
    effects = [op.name for op in function.graph.control_outputs]
    inputs = {key: tensor.name for key, tensor in zip(keys, given)}
    outputs = {key: tensor.name for key, tensor in zip(sorted(results), function.outputs)}
    kept = [*effects, *(tensor.op.name for tensor in given)]
    nodes = Nodes(function.graph.as_graph_def(), outputs.values(), kept)
    inline(nodes, function.graph)
    specs = {key: tf.TensorSpec(tensor.shape, tensor.dtype, name=key) for key, tensor in zip(keys, given)}
    shapes = {key: tf.TensorSpec(t.shape, t.dtype, name=key) for key, t in zip(sorted(results), function.outputs)}
    captures = {tensor.op.name: outside for tensor, outside in zip(inner, captured)}
    return Signature(name, nodes, inputs, specs, outputs, shapes, captures, effects)


def _open_graph_def(path: Path, inputs: Any, outputs: Any) -> Source:
    graph_def = _parsed(path)
    try:
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(graph_def, name="")
    except Exception as error:  # as of an op that is not registered
        raise ValueError(f"{str(path)!r} cannot be imported: {in_short(error)}") from error
    operations = graph.get_operations()
    variables = sorted(op.name for op in operations if op.type in ("VariableV2", "Variable", "VarHandleOp"))
    if variables:
        raise ValueError(
            f"{str(path)!r} is not frozen: there are no values of its variables, such as {variables[0]!r}."
        )
    fed = _tensors(graph, inputs, "inputs")
    fed = fed or [op.outputs[0] for op in operations if op.type in ("Placeholder", "PlaceholderV2")]
    read = {tensor.name for op in operations for tensor in op.inputs}
    ends = [op for op in operations if op.outputs and op.inputs and not any(t.name in read for t in op.outputs)]
    fetched = _tensors(graph, outputs, "outputs") or [op.outputs[0] for op in ends]
    if not fetched:
        raise ValueError(f"`outputs` must be given: {str(path)!r} has no node that others lead to.")
    nodes = Nodes(graph_def, [t.name for t in fetched], [t.op.name for t in fed])
    inline(nodes, graph)
    for tensor in fed:
        _make_placeholder(nodes.by_name[tensor.op.name], tensor)
    nodes.prune()
    given = {t.op.name for t in fed}
    missing = [node.name for node in nodes if node.op in ("Placeholder", "PlaceholderV2") and node.name not in given]
    if missing:
        raise ValueError(f"`inputs` must hold {missing[0]!r}, which the outputs need.")
    keys, results = {_key(t): t for t in fed}, {_key(t): t for t in fetched}
    original = Signature(
        DEFAULT,
        nodes,
        {key: t.name for key, t in keys.items()},
        {key: tf.TensorSpec(t.shape, t.dtype, name=key) for key, t in keys.items()},
        {key: t.name for key, t in results.items()},
        {key: tf.TensorSpec(t.shape, t.dtype, name=key) for key, t in results.items()},
        {},
        [],
    )
    signature = dataclasses.replace(original, nodes=nodes.copy())
    left = take_defaults(signature.nodes)
    _freeze.plain(signature.nodes)
    return Source([signature], lambda name: original, left=left)


def _parsed(path: Path) -> Any:
    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise ValueError(f"{str(path)!r} is no frozen graph: it cannot be read as a GraphDef.") from error
    if not graph_def.node:
        raise ValueError(f"{str(path)!r} is no frozen graph: it holds no nodes.")
    _register_names(graph_def)
    return graph_def


def _register_names(graph_def: Any) -> None:
    """Gives fused ops the names under which TensorFlow has them: other tools write them without a line in front."""
    for node in graph_def.node:
        if op_def_registry.get(node.op) is None and op_def_registry.get(f"_{node.op}") is not None:
            node.op = f"_{node.op}"


def _tensors(graph: Any, names: Optional[Sequence[str]], argument: str) -> list:
    found = []
    for name in names or ():
        try:
            found.append(graph.get_tensor_by_name(tensor_of(name)))
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"`{argument}` must be tensors of the graph; given {name!r}, which is none.") from error
    return found


def _make_placeholder(node: Any, tensor: Any) -> None:
    """Makes a node an input: `inputs` may name tensors inside the graph."""
    if not node.op.startswith("Placeholder"):
        del node.input[:]
        node.attr.clear()
        node.op = "Placeholder"
        node.attr["dtype"].type = tensor.dtype.as_datatype_enum
        node.attr["shape"].shape.CopyFrom(tensor.shape.as_proto())


def _key(tensor: Any) -> str:
    """A tensor's key in a signature."""
    name, _, number = tensor.name.rpartition(":")
    return name if number == "0" else f"{name}_{number}"
