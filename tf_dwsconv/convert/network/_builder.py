"""A program as it grows: tensors, weights and steps, before all is numbered and laid out flat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from tf_dwsconv._program import Input, Output, Program, Weight, check_order
from tf_dwsconv._program_steps import Step, make_step
from tf_dwsconv.convert import _read

Shape = tuple[Optional[int], ...]


class Builder:
    """Collects inputs and steps.

    Attributes:
        inputs: of the program, with sizes that are free for the batch.
        steps: in an order in which they can run.
        shapes: of all tensors, as Keras knows them, by their numbers.
    """

    def __init__(self) -> None:
        self.inputs: list[Input] = []
        self.steps: list[Step] = []
        self.shapes: dict[int, Shape] = {}
        self._weights: list[Any] = []  # arrays, or Keras variables, which are read when the program is finished
        self._places: dict[int, int] = {}

    def _tensor(self, shape: Sequence[Optional[int]]) -> int:
        number = len(self.shapes)
        self.shapes[number] = (None, *shape[1:])
        return number

    def input(self, name: str, shape: Sequence[Optional[int]]) -> int:
        """A new input; returns its number."""
        tensor = self._tensor(shape)
        self.inputs.append(Input(name, tensor, self.shapes[tensor]))
        return tensor

    def weight(self, value: Any) -> int:
        """A weight, an array or a variable; a variable that is given again is the same weight."""
        if id(value) not in self._places:
            self._places[id(value)] = len(self._weights)
            self._weights.append(value)
        return self._places[id(value)]

    def value(self, place: int) -> np.ndarray:
        """A weight, in float64."""
        found = self._weights[place]
        return np.asarray(found, np.float64) if isinstance(found, np.ndarray) else _read.array(found)

    def step(
        self,
        op: str,
        name: str,
        reads: Any,
        result: Sequence[Optional[int]],
        weights: Optional[dict[str, Any]] = None,
        **options: Any,
    ) -> int:
        """A new step; returns the number of its output.

        Args:
            op, name: of the step.
            reads: the number of `x`, or numbers by name.
            result: the output's shape.
            weights: arrays or variables, by name; None for one that is not there.
            options: without those whose value is None.
        """
        reads = dict(reads) if isinstance(reads, dict) else {"x": reads}
        places = {key: self.weight(value) for key, value in (weights or {}).items() if value is not None}
        given = {key: value for key, value in options.items() if value is not None}
        output = self._tensor(result)
        self.steps.append(make_step(op, name, reads, places, given, output))
        return output

    def finish(self, dtype: str, outputs: Sequence[tuple[str, int]]) -> tuple[Program, np.ndarray]:
        """The program, and its flat weights in float64; steps that no output needs are left out."""
        needed = {tensor for _, tensor in outputs}
        steps: list[Step] = []
        for step in reversed(self.steps):
            if step.output in needed:
                needed.update(step.sources)
                steps.insert(0, step)
        names: dict[int, str] = {}
        for step in steps:
            for key, place in step.weights.items():
                names.setdefault(place, f"{step.name}/{key}")
        taken: set[str] = set()
        order: dict[int, int] = {}
        weights, values, offset = [], [np.zeros([0])], 0
        for place, name in names.items():
            value = self.value(place)
            order[place] = len(weights)
            weights.append(Weight(_unique(name, taken), offset, tuple(value.shape)))
            values.append(value.reshape(-1))
            offset += value.size
        numbered = [
            make_step(s.op, s.name, s.reads, {k: order[p] for k, p in s.weights.items()}, s.options, s.output)
            for s in steps
        ]
        taken = set()  # an op may have several results
        named = tuple(Output(_unique(name, taken), tensor) for name, tensor in outputs)
        program = Program(dtype, tuple(self.inputs), named, offset, tuple(weights), tuple(numbered))
        check_order(program)
        return program, np.concatenate(values)


def _unique(name: str, taken: set[str]) -> str:
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found
