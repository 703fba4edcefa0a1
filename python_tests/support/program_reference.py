"""Programs (docs/program.md) for tests: a builder, the file, and an interpreter in float64 NumPy.

The interpreter is written from the page alone. Where the dtype is of 16 bits it rounds each tensor to it, as memory
does.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import reference

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
FILE_WORDS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


class Builder:
    """A program, step by step; weights are rounded to its dtype at once."""

    def __init__(self, dtype: str = "float32"):
        self.dtype = dtype
        self.program = {"format": "tf_dwsconv.program", "version": 1, "dtype": dtype, "inputs": [], "outputs": []}
        self.program.update(weights={"count": 0, "tensors": []}, steps=[])
        self._flat: list = []
        self._tensors = 0

    def _new(self) -> int:
        self._tensors += 1
        return self._tensors - 1

    def input(self, shape, name: str = "") -> int:
        tensor = self._new()
        entry = {"name": name or f"input_{tensor}", "tensor": tensor, "shape": list(shape)}
        self.program["inputs"].append(entry)
        return tensor

    def weight(self, array) -> int:
        """The index of a new weight."""
        array = np.asarray(array).astype(DTYPES[self.dtype])
        weights = self.program["weights"]
        index = len(weights["tensors"])
        weights["tensors"].append({"name": f"w{index}", "offset": weights["count"], "shape": list(array.shape)})
        weights["count"] += array.size
        self._flat.append(array.reshape(-1))
        return index

    def step(self, op: str, *xs: int, weights: dict | None = None, **attributes) -> int:
        """A step and its output's tensor; arrays in `weights` become weights."""
        step = {"op": op, "name": f"{op}_{len(self.program['steps'])}", "output": self._new()}
        step.update({"xs": list(xs)} if op == "concatenate" else {"x": xs[0]}, **attributes)
        if len(xs) > 1 and op != "concatenate":
            step["y"] = xs[1]
        if weights:
            step["weights"] = {name: self.weight(array) for name, array in weights.items()}
        self.program["steps"].append(step)
        return step["output"]

    def output(self, *tensors: int) -> Builder:
        for tensor in tensors:
            self.program["outputs"].append({"name": f"output_{len(self.program['outputs'])}", "tensor": tensor})
        return self

    @property
    def text(self) -> str:
        return json.dumps(self.program)

    @property
    def weights(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, DTYPES[self.dtype]), *self._flat])

    def save(self, path: Path) -> Path:
        """The file of the program."""
        item = self.weights.itemsize
        header = {"__metadata__": {"tf_dwsconv.program": self.text}}
        for weight in self.program["weights"]["tensors"]:
            begin = weight["offset"] * item
            end = begin + int(np.prod(weight["shape"])) * item
            header[weight["name"]] = {
                "dtype": FILE_WORDS[self.dtype],
                "shape": weight["shape"],
                "data_offsets": [begin, end],
            }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        path.write_bytes(struct.pack("<Q", len(text)) + text + self.weights.tobytes())
        return path

    def expect(self, *inputs, keep: list | None = None) -> list:
        """The outputs in float64; every tensor that a step makes is added to `keep`."""
        return run(self.program, self.weights, inputs, keep)


def run(program: dict, weights: np.ndarray, inputs, keep: list | None = None) -> list:
    flat = weights.astype(np.float64)
    arrays = [
        flat[w["offset"] : w["offset"] + int(np.prod(w["shape"]))].reshape(w["shape"])
        for w in program["weights"]["tensors"]
    ]
    tensors = {entry["tensor"]: np.asarray(x).astype(np.float64) for entry, x in zip(program["inputs"], inputs)}
    for step in program["steps"]:
        of_step = {name: arrays[index] for name, index in step.get("weights", {}).items()}
        y = OPS[step["op"]](step, tensors, of_step)
        tensors[step["output"]] = y.astype(DTYPES[program["dtype"]]).astype(np.float64)
        if program["dtype"] == "float32":
            tensors[step["output"]] = y
        if keep is not None:
            keep.append(tensors[step["output"]])
    return [tensors[entry["tensor"]] for entry in program["outputs"]]


def activate(x, spec, slopes=None):
    word = (spec or {"word": "none"})["word"]
    if word == "prelu":
        return np.where(x < 0, slopes * x, x)
    if word in ("relu", "leaky_relu"):
        most, threshold = spec.get("max_value"), spec.get("threshold", 0.0)
        alpha = spec.get("alpha", 0.2) if word == "leaky_relu" else 0.0
        above = x if most is None else np.minimum(x, most)
        return np.where(x > threshold, above, alpha * (x - threshold))
    return reference.ACTIVATIONS[word](x, (spec or {}).get("alpha", 0.2))


def _geometry(step, default):
    padding = step.get("padding", default)
    return padding.upper() if isinstance(padding, str) else padding


def _windows(x, window, strides, dilations, padding, fill):
    """`[N, Ho, Wo, R, S, C]` of what lies under each window, `fill` outside."""
    pads = (padding, padding) if isinstance(padding, str) else padding
    (ho, top), (wo, left) = (
        reference.window(x.shape[1 + i], window[i], strides[i], dilations[i], pads[i]) for i in range(2)
    )
    y = np.full((x.shape[0], ho, wo, *window, x.shape[3]), fill, np.float64)
    for p, q, r, s in np.ndindex(ho, wo, *window):
        h, w = p * strides[0] - top + r * dilations[0], q * strides[1] - left + s * dilations[1]
        if 0 <= h < x.shape[1] and 0 <= w < x.shape[2]:
            y[:, p, q, r, s] = x[:, h, w]
    return y


def _dense_filter(kernel, groups):
    """[R, S, C/groups, K] as [R, S, C, K], group by group."""
    *window, channels, filters = kernel.shape
    dense = np.zeros((*window, channels * groups, filters))
    for g in range(groups):
        own = slice(g * filters // groups, (g + 1) * filters // groups)
        dense[:, :, g * channels : (g + 1) * channels, own] = kernel[..., own]
    return dense


def _chain(step, tensors, weights):
    x = tensors[step["x"]]
    if "expand_filter" in weights:
        x = x @ weights["expand_filter"][0, 0] + weights.get("expand_bias", 0.0)
        x = activate(x, step.get("expand_activation"), weights.get("expand_slopes"))
    strides, dilations = step.get("strides", (1, 1)), step.get("dilations", (1, 1))
    padding = _geometry(step, "same")
    pointwise = weights.get("pointwise_filter")
    if "depthwise_filter" in weights:
        d = weights["depthwise_filter"]
        under = _windows(x, d.shape[:2], strides, dilations, padding, 0.0)
        x = np.einsum("npqrsc,rscm->npqcm", under, d)
        x = x.reshape(*x.shape[:3], -1) + weights.get("depthwise_bias", 0.0)
        x = activate(x, step.get("depthwise_activation"), weights.get("depthwise_slopes"))
    elif pointwise is not None and (pointwise.shape[:2] != (1, 1) or {"strides", "padding", "groups"} & set(step)):
        under = _windows(x, pointwise.shape[:2], strides, dilations, padding, 0.0)
        x = under.reshape(*under.shape[:3], -1)
        pointwise = _dense_filter(pointwise, step.get("groups", 1))
        pointwise = pointwise.reshape(1, 1, -1, pointwise.shape[3])
    if step.get("normalize"):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + step.get("epsilon", 1e-3))
    if "gate" in step:
        x = x * tensors[step["gate"]].reshape(x.shape[0], 1, 1, -1)
    if pointwise is not None:
        x = x @ pointwise[0, 0] + weights.get("bias", 0.0)
    if "residual" in step:
        x = x + tensors[step["residual"]]
    return activate(x, step.get("activation"), weights.get("slopes"))


def _dense(step, tensors, weights):
    y = tensors[step["x"]] @ weights["filter"] + weights.get("bias", 0.0)
    return activate(y + (tensors[step["residual"]] if "residual" in step else 0.0), step.get("activation"))


def _pool(reduce, fill):
    def op(step, tensors, weights):
        strides = step.get("strides", step["window"])
        geometry = (step["window"], strides, (1, 1), _geometry(step, "valid"))
        return reduce(_windows(tensors[step["x"]], *geometry, fill), (3, 4))

    return op


def _reduce(reduce):
    def op(step, tensors, weights):
        return reduce(tensors[step["x"]], (1, 2), keepdims=step.get("keepdims", False))

    return op


def _binary(function):
    def op(step, tensors, weights):
        y = tensors[step["y"]] if "y" in step else weights["y"]
        return activate(function(tensors[step["x"]], y), step.get("activation"))

    return op


def _normalize(step, tensors, weights):
    x = tensors[step["x"]]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + step.get("epsilon", 1e-3))
    return x * weights.get("gamma", 1.0) + weights.get("beta", 0.0)


def _softmax(step, tensors, weights):
    x = np.exp(tensors[step["x"]] - tensors[step["x"]].max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def _matmul(step, tensors, weights):
    x, y = (np.swapaxes(tensors[step[k]], -1, -2) if step.get(f"transpose_{k}") else tensors[step[k]] for k in "xy")
    return np.einsum("...mc,...cp->...mp", x, y)


def _pad(step, tensors, weights):
    return np.pad(tensors[step["x"]], step["paddings"], constant_values=step.get("value", 0.0))


def _resize(step, tensors, weights):
    x = tensors[step["x"]]
    for axis in (1, 2):
        size = x.shape[axis]
        out = step["size"][axis - 1] if "size" in step else size * step["scale"][axis - 1]
        at = (np.arange(out) + 0.5) * size / out
        if step["method"] == "nearest":
            x = np.take(x, np.minimum(np.floor(at).astype(int), size - 1), axis)
            continue
        low = np.floor(at - 0.5)
        part = (at - 0.5 - low).reshape([-1 if a == axis else 1 for a in range(4)])
        first, second = (np.clip(low + i, 0, size - 1).astype(int) for i in range(2))
        x = np.take(x, first, axis) * (1 - part) + np.take(x, second, axis) * part
    return x


def _reshape(step, tensors, weights):
    before, after = step.get("pictures", (1, 1))
    return tensors[step["x"]].reshape(tensors[step["x"]].shape[0] // before * after, *step["shape"])


def _crop(step, tensors, weights):
    x = tensors[step["x"]]
    return x[tuple(slice(a, size - b) for size, (a, b) in zip(x.shape, step["croppings"]))]


def _depth_to_space(step, tensors, weights):
    """Pixel by pixel of a block."""
    x, (rows, columns) = tensors[step["x"]], step["block"]
    n, h, w, channels = x.shape
    each = channels // (rows * columns)
    y = np.zeros((n, h * rows, w * columns, each))
    for i, j in np.ndindex(rows, columns):
        at = (i * columns + j) * each
        y[:, i::rows, j::columns] = x[..., at : at + each]
    (top, bottom), (left, right) = step.get("croppings", ((0, 0), (0, 0)))
    return y[:, top : y.shape[1] - bottom, left : y.shape[2] - right]


OPS = {
    "chain": _chain,
    "dense": _dense,
    "max_pool": _pool(np.max, -np.inf),
    "average_pool": _pool(np.nanmean, np.nan),
    "mean": _reduce(np.mean),
    "max": _reduce(np.max),
    "add": _binary(np.add),
    "subtract": _binary(np.subtract),
    "multiply": _binary(np.multiply),
    "maximum": _binary(np.maximum),
    "minimum": _binary(np.minimum),
    "activation": lambda s, t, w: activate(t[s["x"]], s.get("activation"), w.get("slopes")),
    "power": lambda s, t, w: np.power(t[s["x"]], s["exponent"]),
    "normalize": _normalize,
    "softmax": _softmax,
    "matmul": _matmul,
    "concatenate": lambda s, t, w: np.concatenate([t[x] for x in s["xs"]], s["axis"]),
    "pad": _pad,
    "resize": _resize,
    "reshape": _reshape,
    "crop": _crop,
    "transpose": lambda s, t, w: np.transpose(t[s["x"]], s["axes"]),
    "depth_to_space": _depth_to_space,
}
