"""Texts of programs for tests."""

from __future__ import annotations

import json
import math


def program(steps, inputs, outputs, weights=(), dtype="float32", **others):
    """The text of a program; `inputs`: shapes by tensor, `weights`: shapes in their order."""
    tensors, offset = [], 0
    for i, shape in enumerate(weights):
        tensors.append({"name": f"w{i}", "offset": offset, "shape": list(shape)})
        offset += math.prod(shape)
    data = {
        "format": "tf_dwsconv.program",
        "version": 1,
        "dtype": dtype,
        "inputs": [{"name": f"in{t}", "tensor": t, "shape": list(shape)} for t, shape in inputs.items()],
        "outputs": [{"name": f"out{t}", "tensor": t} for t in outputs],
        "weights": {"count": offset, "tensors": tensors},
        "steps": [{"name": f"s{i}", **step} for i, step in enumerate(steps)],
    }
    return json.dumps({**data, **others})
