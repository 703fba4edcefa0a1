"""A SavedModel that answers requests: rows or columns of JSON in, rows or columns of JSON out.

The forms are those of TensorFlow Serving's REST API. Rows: `{"instances": [...]}` gives `{"predictions": [...]}`, one
element for each example. Columns: `{"inputs": ...}` gives `{"outputs": ...}`, whole tensors. Where a signature has
several inputs or outputs, an example (or the columns) is an object by their names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2

import tf_dwsconv  # noqa: F401  registers the ops that the graph holds

DEFAULT = "serving_default"


class RequestError(ValueError):
    """A request that the model cannot answer; the message is for whoever sent it."""


class Served:
    """The signatures of a SavedModel.

    Args:
        folder: of the SavedModel.
    """

    def __init__(self, folder: str):
        self._loaded = tf.saved_model.load(folder)  # held, as it owns the variables
        self.signatures = dict(self._loaded.signatures)
        if not self.signatures:
            raise ValueError(f"the SavedModel in {folder} has no signatures")

    def count_ops(self) -> int:
        """How many ops of tf_dwsconv the signatures' graphs hold."""
        found = 0
        for signature in self.signatures.values():
            graph = signature.graph.as_graph_def()
            nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
            found += sum(node.op.startswith("TfDwsconv>") for node in nodes)
        return found

    def metadata(self) -> dict[str, Any]:
        """Inputs and outputs by signature, as TensorFlow Serving tells them; a size that is free is -1."""
        return {
            name: {
                "inputs": {key: _described(spec) for key, spec in _inputs(signature).items()},
                "outputs": {key: _described(spec) for key, spec in signature.structured_outputs.items()},
                "method_name": "tensorflow/serving/predict",
            }
            for name, signature in self.signatures.items()
        }

    def predict(self, request: Any) -> dict[str, Any]:
        """Answers one request.

        Raises:
            RequestError: it has another form than the API's, or does not fit the signature.
        """
        if not isinstance(request, dict) or ("instances" in request) == ("inputs" in request):
            raise RequestError('the request must be an object with either "instances" or "inputs"')
        signature = self.signatures.get(request.get("signature_name", DEFAULT))
        if signature is None:
            raise RequestError(f'"signature_name" must be one of {", ".join(self.signatures)}')
        specs = _inputs(signature)
        rows = "instances" in request
        given = _columns_of(request["instances"], list(specs)) if rows else _by_name(request["inputs"], list(specs))
        outputs = signature(**{name: _tensor(name, given[name], spec) for name, spec in specs.items()})
        values = {name: tensor.numpy().tolist() for name, tensor in outputs.items()}
        alone = next(iter(values.values())) if len(values) == 1 else None
        if not rows:
            return {"outputs": alone if alone is not None else values}
        if alone is not None:
            return {"predictions": alone}
        return {"predictions": [dict(zip(values, row)) for row in zip(*values.values())]}


def _described(spec: tf.TensorSpec) -> dict[str, Any]:
    sizes = [] if spec.shape.rank is None else [-1 if size is None else size for size in spec.shape]
    shape = {"dim": [{"size": str(size), "name": ""} for size in sizes], "unknown_rank": spec.shape.rank is None}
    return {"dtype": types_pb2.DataType.Name(spec.dtype.as_datatype_enum), "tensor_shape": shape, "name": spec.name}


def _inputs(signature: Any) -> dict[str, tf.TensorSpec]:
    return signature.structured_input_signature[1]


def _by_name(value: Any, names: list[str]) -> dict[str, Any]:
    """The inputs by their names; a single one may come without."""
    if isinstance(value, dict):
        if set(value) != set(names):
            raise RequestError(f"the inputs must be {', '.join(names)}; given {', '.join(map(str, value))}")
        return value
    if len(names) > 1:
        raise RequestError(f"there are several inputs: name them ({', '.join(names)})")
    return {names[0]: value}


def _columns_of(instances: Any, names: list[str]) -> dict[str, list]:
    """The inputs by their names, each a list over the examples."""
    if not isinstance(instances, list) or not instances:
        raise RequestError('"instances" must be a list of one example or more')
    rows = [_by_name(instance, names) for instance in instances]
    return {name: [row[name] for row in rows] for name in names}


def _tensor(name: str, value: Any, spec: tf.TensorSpec) -> tf.Tensor:
    try:
        array = np.asarray(value, spec.dtype.as_numpy_dtype)
    except (ValueError, TypeError, OverflowError):
        raise RequestError(f"input {name} must be numbers of one shape, {spec.dtype.name}") from None
    if not spec.shape.is_compatible_with(array.shape):
        raise RequestError(f"input {name} must have the shape {spec.shape}; given {array.shape}")
    return tf.constant(array, spec.dtype)
