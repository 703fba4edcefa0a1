"""The file of a network: its program and its weights as docs/program.md has them, in the layout of safetensors."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_dwsconv._arguments import numpy_dtype
from tf_dwsconv._keras_graph import Graph, functional
from tf_dwsconv._program import Input, Output, Program
from tf_dwsconv.convert import _read
from tf_dwsconv.layers import FusedNetwork

_TYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_ALIGNMENT = 64


def program_of(model: Any) -> tuple[Program, np.ndarray]:
    """The program that a whole model is, with the model's inputs and outputs, and its flat weights.

    Raises:
        ValueError: the model is not wholly one network; names the layer that stands outside.
    """
    graph = Graph(model)
    networks = [node for node in graph.nodes if type(node.operation) is FusedNetwork]
    others = [node for node in graph.nodes if type(node.operation) not in (FusedNetwork, keras.layers.Identity)]
    if others or len(networks) != 1:
        raise ValueError(_outside(networks, others))
    [node] = networks
    program = Program.from_text(node.operation.program)
    numbers = {id(t): given.tensor for t, given in zip(node.arguments.keras_tensors, program.inputs)}
    numbers.update({id(t): output.tensor for t, output in zip(node.outputs, program.outputs)})
    unused = max([*numbers.values(), *(step.output for step in program.steps)]) + 1
    inputs = []
    for t in functional(model).inputs:
        if id(t) not in numbers:
            numbers[id(t)], unused = unused, unused + 1
        inputs.append(Input(t.name, numbers[id(t)], (None, *t.shape[1:])))
    for other in graph.nodes:
        if type(other.operation) is keras.layers.Identity:
            numbers[id(other.outputs[0])] = numbers[id(other.arguments.keras_tensors[0])]
    names = functional(model).output_names
    outputs = [Output(name, numbers[id(t)]) for name, t in zip(names, functional(model).outputs)]
    whole = Program(program.dtype, tuple(inputs), tuple(outputs), program.count, program.weights, program.steps)
    return whole, _read.array(node.operation.values)


def _outside(networks: list, others: list) -> str:
    if not networks:
        return "`model` holds no FusedNetwork; give what tf_dwsconv.convert(model) returns, with fuse='network'."
    if not others:
        return f"`model` must be one FusedNetwork; it holds {len(networks)}, {networks[0].operation.name!r} among them."
    layer = others[0].operation
    return (
        f"`model` holds {layer.name!r} of class {type(layer).__name__}, which a program cannot compute, so the model "
        "is not one network. Put it in front of the model or behind it, in code of yours."
    )


def write(program: Program, values: np.ndarray, path: Any, overwrite: bool) -> None:
    """Writes the file whole or not at all. Raises as `check_path`."""
    target = check_path(path, overwrite)
    with tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=f".{target.name}-") as folder:
        whole = Path(folder) / "network"
        with open(whole, "wb") as file:
            file.write(_header(program))
            file.write(values.astype(numpy_dtype(program.dtype)).tobytes())
        os.replace(whole, target)


def check_path(path: Any, overwrite: bool) -> Path:
    """The path of a file to write.

    Raises:
        TypeError: `path` is no path.
        ValueError: there is a file and `overwrite` is not set, or no folder to write to.
    """
    try:
        target = Path(os.fspath(path))
    except TypeError:
        raise TypeError(f"`path` must be a path; given {path!r:.80} of type {type(path).__name__}.") from None
    if target.is_dir():
        raise ValueError(f"`path` must be a file; {str(target)!r} is a folder.")
    if target.exists() and not overwrite:
        raise ValueError(f"`path` {str(target)!r} exists; overwrite=True writes over it.")
    if not target.absolute().parent.is_dir():
        raise ValueError(f"`path` must be in a folder that exists; given {str(target)!r}.")
    return target


def _header(program: Program) -> bytes:
    size = numpy_dtype(program.dtype).itemsize
    entries: dict[str, Any] = {"__metadata__": {"tf_dwsconv.program": program.text}}
    for weight in program.weights:
        ends = [weight.offset * size, (weight.offset + weight.size) * size]
        entries[weight.name] = {"dtype": _TYPES[program.dtype], "shape": list(weight.shape), "data_offsets": ends}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)  # so that weights begin at a cache line
    return len(text).to_bytes(8, "little") + text
