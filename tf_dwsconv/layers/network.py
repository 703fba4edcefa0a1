"""The Keras layer of a whole network, or of a large part of one, which `tf_dwsconv.convert` makes."""

from __future__ import annotations

from typing import Any

import keras

from tf_dwsconv import _program_shapes, _tf_keras
from tf_dwsconv._program import DTYPES, Program
from tf_dwsconv.layers._described import Described
from tf_dwsconv.layers._shared import check_backend, value

if keras.config.backend() == "tensorflow":
    from tf_dwsconv._tf import dispatch
    from tf_dwsconv._tf import program as programs


@keras.saving.register_keras_serializable(package="tf_dwsconv")
class FusedNetwork(Described, _tf_keras.NotInside, keras.layers.Layer):
    """A network as one op: a program of steps, which runs from its inputs to its outputs without TensorFlow between.

    `tf_dwsconv.convert` makes these layers, one for each large part of a model that a program can compute; you need not
    write programs by hand. All weights lie in one variable, which trains or is frozen as a whole. The gradient is
    computed step by step: to train, use `convert(model, fuse="blocks")`, which keeps a layer for each block. Like
    `DepthwiseSepConv2D`, it stays out of XLA.

    Args:
        program: the text of a program, docs/program.md.
        **kwargs: of `keras.layers.Layer`: `name`, `dtype`, `trainable`, ...

    Input shape:
        One tensor, or a list of as many as the program has inputs, each of the shape that the program gives.

    Output shape:
        One tensor, or a list of as many as the program has outputs.

    Returns:
        Tensors of the layer's compute dtype: float32, bfloat16 or float16.

    Raises:
        ValueError: a text that is no program, a dtype that programs do not have, inputs whose number or shapes do not
            fit, or a Keras backend other than TensorFlow.
        TypeError: `program` is no text, or inputs are of another dtype than the weights.

    Example:

    >>> import keras
    >>> import tf_dwsconv
    >>> model = keras.Sequential([
    ...     keras.Input((16, 16, 8)), keras.layers.SeparableConv2D(8, 3), keras.layers.SeparableConv2D(4, 3)])
    >>> [network] = tf_dwsconv.convert(model).layers
    >>> type(network).__name__, [tuple(weight.shape) for weight in network.weights]
    ('FusedNetwork', [(252,)])
    """

    def __init__(self, program: str | Program, **kwargs: Any) -> None:
        check_backend("FusedNetwork", "stock layers")
        super().__init__(**kwargs)
        given = program if isinstance(program, Program) else Program.from_text(program)
        if self.compute_dtype not in DTYPES:
            raise ValueError(f"`dtype` must compute in one of {', '.join(DTYPES)}; given {self.compute_dtype}.")
        if not given.inputs or not given.outputs:
            raise ValueError("`program` must have an input and an output.")
        self._program = given.with_dtype(self.compute_dtype)
        self.supports_jit = False

    def describe(self) -> str:
        count = len(self._program.steps)
        return f"{count} step{'s' * (count != 1)}"

    @property
    def program(self) -> str:
        """The text of the program, in the layer's compute dtype."""
        return self._program.text

    def _split(self, inputs: Any) -> list:
        """What the layer was called with, tensors or shapes, as a list."""
        if len(self._program.inputs) == 1 and not (isinstance(inputs, list) and len(inputs) == 1):
            return [inputs]
        if not isinstance(inputs, (list, tuple)):
            names = [given.name for given in self._program.inputs]
            raise ValueError(
                f"`inputs` must be a list of {len(names)} tensors, {names}; given a {type(inputs).__name__}."
            )
        return list(inputs)

    def _joined(self, outputs: list) -> Any:
        return outputs[0] if len(outputs) == 1 else outputs

    def build(self, input_shape: Any) -> None:
        self._refuse_caller()
        self.compute_output_shape(input_shape)  # raises where shapes do not fit
        self.values = self.add_weight(name="values", shape=(self._program.count,), initializer="zeros")

    def call(self, inputs: Any) -> Any:
        _tf_keras.refuse_inputs(inputs)
        tensors = [dispatch.convert(t, "inputs", None) for t in self._split(inputs)]
        values = value(self.values, tensors[0].dtype)
        for tensor in tensors[1:]:
            dispatch.convert(tensor, "inputs", tensors[0].dtype)
        return self._joined(programs.run(self._program, tensors, values))

    def compute_output_shape(self, input_shape: Any) -> Any:
        shapes = [input_shape] if _is_shape(input_shape) else input_shape
        found = _program_shapes.infer(self._program, [tuple(shape) for shape in shapes])
        return self._joined([tuple(found[output.tensor]) for output in self._program.outputs])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "program": self._program.text}


def _is_shape(input_shape: Any) -> bool:
    return all(size is None or isinstance(size, int) for size in input_shape)
