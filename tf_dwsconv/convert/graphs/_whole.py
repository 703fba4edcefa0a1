"""A signature that is one network as a whole, as the program that `native.Network` runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tf_dwsconv._program import Input, Output, Program
from tf_dwsconv._tf.library import NETWORK_OP_NAME
from tf_dwsconv.convert.graphs._nodes import IDENTITIES
from tf_dwsconv.convert.graphs._ours import Ours
from tf_dwsconv.convert.graphs._source import Signature

_NOTHING = ("Placeholder", "PlaceholderWithDefault", "Const", "NoOp", *IDENTITIES)


def program_of(signatures: list[Signature]) -> tuple[Program, np.ndarray]:
    """The program of the only signature, with its inputs and outputs by their keys, and the flat weights.

    Raises:
        ValueError: there are several signatures, or one is not wholly a network; names the node that stands outside.
    """
    found = [signature for signature in signatures if signature.like is None]
    if len(found) != 1:
        names = ", ".join(repr(signature.name) for signature in found)
        raise ValueError(f"`signatures` must be one name; the model has {names}.")
    return _of(found[0])


def _of(signature: Signature) -> tuple[Program, np.ndarray]:
    operations = list(signature.nodes.operations())
    networks = [op for op in operations if op.type == NETWORK_OP_NAME]
    others = [op for op in operations if op.type not in (*_NOTHING, NETWORK_OP_NAME)]
    if others:
        raise ValueError(
            f"the signature {signature.name!r} holds {others[0].name!r} ({others[0].type}), which stands outside its "
            "networks, so it is not one network. Put it in front of the model or behind it, in code of yours."
        )
    if len(networks) != 1:
        raise ValueError(f"the signature {signature.name!r} must be one network; it holds {len(networks)}.")
    ours = Ours(signature.nodes, networks[0])
    program = Program.from_text(ours.layer.program)
    results = {t.name: output.tensor for t, output in zip(networks[0].outputs, program.outputs)}
    reads = {_source(t).name: given for t, given in zip(ours.tensors, program.inputs)}
    if len(reads) != len(program.inputs):
        raise ValueError(f"the signature {signature.name!r} gives its network one tensor twice.")
    tensors = {t.name: t for op in operations for t in op.outputs}
    unused = max(*results.values(), *(t.tensor for t in program.inputs), *(s.output for s in program.steps)) + 1
    inputs = []
    for key, name in signature.inputs.items():
        given = reads.get(name) or Input(key, unused + len(inputs), _free(signature.specs[key].shape))
        inputs.append(dataclasses.replace(given, name=key))
    numbers = {**{name: given.tensor for name, given in reads.items()}, **results}
    ends = {key: _source(tensors[name]).name for key, name in signature.outputs.items()}
    outputs = [Output(key, numbers[name]) for key, name in ends.items()]
    whole = dataclasses.replace(program, inputs=tuple(inputs), outputs=tuple(outputs))
    return whole, np.asarray(ours.program_values, np.float64)


def _source(tensor: Any) -> Any:
    """What a tensor is another name of."""
    while tensor.op.type in IDENTITIES:
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor


def _free(shape: Any) -> tuple:
    """A shape of any number of pictures."""
    return (None, *shape.as_list()[1:])
