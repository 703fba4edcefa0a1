"""Programs: networks as lists of steps over numbered tensors, as docs/program.md has them.

`Program` is one as plain data, read from its text and written to it. What can be checked without shapes is checked here
and in `_program_steps`; `_program_shapes` does the rest. A program comes out of a file, so nothing in it is trusted.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from typing import Any, Optional

from tf_dwsconv import _arguments
from tf_dwsconv._program_steps import Place, Step, make_step, step_data

FORMAT, VERSION = "tf_dwsconv.program", 1
DTYPES = ("float32", "bfloat16", "float16")
MOST_TENSORS = 2**20
MOST_WEIGHTS = 2**40


@dataclasses.dataclass(frozen=True)
class Input:
    """A tensor that a call brings; None in its shape is a size that the call decides. The first axis is the batch."""

    name: str
    tensor: int
    shape: tuple[Optional[int], ...]


@dataclasses.dataclass(frozen=True)
class Output:
    name: str
    tensor: int


@dataclasses.dataclass(frozen=True)
class Weight:
    """Where a weight stands in the flat weights."""

    name: str
    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Program:
    """A checked program. `count`: elements of the flat weights."""

    dtype: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    count: int
    weights: tuple[Weight, ...]
    steps: tuple[Step, ...]

    @classmethod
    def from_text(cls, text: Any) -> Program:
        """Reads a program.

        Raises:
            TypeError: `text` is no string.
            ValueError: it is no program, or of a version that this package does not know.
        """
        if not isinstance(text, str):
            raise TypeError(f"`program` must be the text of a program; given a {type(text).__name__}.")
        try:
            data = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"`program` must be JSON; {str(error) or type(error).__name__}; given {text!r:.80}."
            ) from None
        return _read(data)

    @functools.cached_property
    def text(self) -> str:
        data = {
            "format": FORMAT,
            "version": VERSION,
            "dtype": self.dtype,
            "inputs": [dataclasses.asdict(given) for given in self.inputs],
            "outputs": [dataclasses.asdict(output) for output in self.outputs],
            "weights": {"count": self.count, "tensors": [dataclasses.asdict(weight) for weight in self.weights]},
            "steps": [step_data(step) for step in self.steps],
        }
        return json.dumps(data, separators=(",", ":"), allow_nan=False)

    def pieces(self, values: Any) -> list:
        """The weights one by one, out of a flat NumPy array."""
        return [values[weight.offset : weight.offset + weight.size].reshape(weight.shape) for weight in self.weights]

    def with_dtype(self, dtype: str) -> Program:
        return self if dtype == self.dtype else dataclasses.replace(self, dtype=dtype)


def _no_constant(word: str) -> Any:
    raise ValueError(f"it has no {word}")


def _read(data: Any) -> Program:
    place = Place()
    place.fields(data, "`program`", ("format", "version", "dtype", "inputs", "outputs", "weights", "steps"))
    if data["format"] != FORMAT:
        raise place.error("format", repr(FORMAT), data["format"])
    if data["version"] != VERSION or isinstance(data["version"], bool):
        raise place.error("version", f"{VERSION}, which this package reads", data["version"])
    if data["dtype"] not in DTYPES:
        raise place.error("dtype", f"one of {', '.join(DTYPES)}", data["dtype"])
    inputs = tuple(_read_input(given, i) for i, given in enumerate(place.items(data["inputs"], "inputs")))
    place.fields(data["weights"], "weights", ("count", "tensors"))
    count = place.integer(data["weights"]["count"], "weights.count", 0, MOST_WEIGHTS)
    tensors = place.items(data["weights"]["tensors"], "weights.tensors")
    weights = tuple(_read_weight(given, i, count) for i, given in enumerate(tensors))
    steps = tuple(_read_step(given, i) for i, given in enumerate(place.items(data["steps"], "steps")))
    outputs = tuple(_read_output(given, i) for i, given in enumerate(place.items(data["outputs"], "outputs")))
    program = Program(data["dtype"], inputs, outputs, count, weights, steps)
    check_order(program)
    return program


def _read_input(data: Any, i: int) -> Input:
    place = Place(f"input {i}: ")
    place.fields(data, "it", ("name", "tensor", "shape"))
    sizes = place.items(data["shape"], "shape")
    numbers = [0 if size is None else _arguments.as_integer(size) for size in sizes]
    if not sizes or any(number is None or not 0 <= number < 2**62 for number in numbers):
        raise place.error("shape", "one or more sizes >= 0, or null", sizes)
    tensor = place.integer(data["tensor"], "tensor", 0, MOST_TENSORS)
    return Input(place.text(data["name"], "name"), tensor, tuple(sizes))


def _read_output(data: Any, i: int) -> Output:
    place = Place(f"output {i}: ")
    place.fields(data, "it", ("name", "tensor"))
    return Output(place.text(data["name"], "name"), place.integer(data["tensor"], "tensor", 0, MOST_TENSORS))


def _read_weight(data: Any, i: int, count: int) -> Weight:
    place = Place(f"weight {i}: ")
    place.fields(data, "it", ("name", "offset", "shape"))
    sizes = tuple(place.integer(size, "shape", 0, MOST_WEIGHTS) for size in place.items(data["shape"], "shape"))
    weight = Weight(place.text(data["name"], "name"), place.integer(data["offset"], "offset", 0, count), sizes)
    if weight.offset + weight.size > count:
        raise place.error("offset and shape", f"inside the {count} weights", (weight.offset, list(sizes)))
    return weight


def _read_step(data: Any, i: int) -> Step:
    name = data.get("name") if isinstance(data, dict) else None
    place = Place(f"step {i} {name!r}: " if isinstance(name, str) else f"step {i}: ")
    if not isinstance(data, dict) or not {"op", "name", "output"} <= set(data):
        raise place.error("it", "an object with op, name and output", data)
    rest = {key: value for key, value in data.items() if key not in ("op", "name", "output", "weights")}
    reads: dict[str, Any] = {}
    for key in [key for key in ("x", "y", "gate", "residual") if key in rest]:
        reads[key] = place.integer(rest.pop(key), key, 0, MOST_TENSORS)
    if "xs" in rest:
        reads["xs"] = tuple(place.integer(t, "xs", 0, MOST_TENSORS) for t in place.items(rest.pop("xs"), "xs"))
    weights = data.get("weights", {})
    if not isinstance(weights, dict):
        raise place.error("weights", "an object", weights)
    weights = {key: place.integer(index, f"weights.{key}", 0, MOST_TENSORS) for key, index in weights.items()}
    output = place.integer(data["output"], "output", 0, MOST_TENSORS)
    return make_step(data["op"], place.text(name, "name"), reads, weights, rest, output, place)


def check_order(program: Program) -> None:
    """Holds what steps read to what is there by then, and weights to the list of them.

    Raises:
        ValueError: naming the step.
    """
    names = [weight.name for weight in program.weights]
    if len(set(names)) != len(names):
        raise ValueError(f"names of weights must differ; {max(names, key=names.count)!r} is there twice.")
    end = 0
    for weight in sorted(program.weights, key=lambda weight: weight.offset):
        if weight.size and weight.offset < end:
            raise ValueError(f"weights must not overlap; {weight.name!r} begins inside another one.")
        end = max(end, weight.offset + weight.size)
    there: set[int] = set()
    for given in program.inputs:
        if given.tensor in there:
            raise ValueError(f"inputs must be tensors of their own; {given.tensor} is given twice.")
        there.add(given.tensor)
    for i, step in enumerate(program.steps):
        where = f"step {i} {step.name!r}: "
        for source in step.sources:
            if source not in there:
                raise ValueError(f"{where}tensor {source} must be an input, or written by an earlier step.")
        for key, index in step.weights.items():
            if index >= len(program.weights):
                raise ValueError(f"{where}weights.{key} must be below {len(program.weights)}; given {index}.")
        if step.output in there:
            raise ValueError(f"{where}output must be a tensor that nothing else writes; given {step.output}.")
        there.add(step.output)
    for output in program.outputs:
        if output.tensor not in there:
            raise ValueError(f"output {output.name!r}: tensor {output.tensor} must be an input, or written by a step.")
