"""TensorFlow's functions on Keras' symbolic tensors, as the ops of `keras.ops` that do the same.

Keras refuses symbolic tensors there, and as the right operand of a variable. Code of users' layers has both. TensorFlow
asks a dispatcher before it gives up on an argument.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Iterator
from typing import Any, Callable, Optional

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend import standardize_data_format
from keras.src.backend.common.stateless_scope import in_stateless_scope
from keras.src.ops.nn import Conv, DepthwiseConv, SeparableConv

ops = keras.ops

_active = threading.local()
_lock = threading.RLock()

_OPERATORS = {"add": ops.add, "sub": ops.subtract, "mul": ops.multiply, "truediv": ops.divide, "matmul": ops.matmul}


@contextlib.contextmanager
def functions() -> Iterator[list]:
    """Lets TensorFlow's functions, operators of variables and convolutions by filters take symbolic tensors.

    That is so in this thread alone. Variables cannot be assigned meanwhile. Yields a list that gets the layers that
    were made of convolutions by filters.
    """
    _register()
    with _lock:  # other threads may compute with the patched classes meanwhile: for them nothing changes
        before = getattr(_active, "made", None)
        made: list = []
        _active.made = made
        try:
            with contextlib.ExitStack() as stack:
                for owner, name, make in _PATCHES:
                    stack.enter_context(_patched(owner, name, make))
                yield made
        finally:
            _active.made = before


def _is_active() -> bool:
    return getattr(_active, "made", None) is not None


@contextlib.contextmanager
def _patched(owner: Any, name: str, make: Callable) -> Iterator[None]:
    """A method of a class in the place of another, which `make` gets."""
    is_own, old = name in vars(owner), getattr(owner, name)
    setattr(owner, name, make(old))
    try:
        yield
    finally:
        setattr(owner, name, old) if is_own else delattr(owner, name)


def _operator(function: Callable) -> Callable:
    def make(old: Callable) -> Callable:
        def operator(self: Any, other: Any) -> Any:
            return function(self, other) if isinstance(other, keras.KerasTensor) and _is_active() else old(self, other)

        return operator

    return make


def _guarded(old: Callable) -> Callable:
    def assign(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_active() and not in_stateless_scope():  # Keras' own symbolic calls have such scopes
            raise RuntimeError(f"it assigns to the variable {self.path!r}")
        return old(self, *args, **kwargs)

    return assign


def _by_layer(make_layer: Callable) -> Callable:
    def make(old: Callable) -> Callable:
        def symbolic_call(self: Any, x: Any, *filters: Any) -> Any:
            if not _is_active() or len(x.shape) != 4 or any(isinstance(f, keras.KerasTensor) for f in filters):
                return old(self, x, *filters)
            options = {key: getattr(self, key) for key in ("strides", "padding", "data_format", "dilation_rate")}
            arrays = [np.array(ops.convert_to_numpy(ops.cast(f, "float32"))) for f in filters]
            size = arrays[0].shape[:2]
            made, _active.made = _active.made, None  # the new layer's variables may be assigned
            try:
                layer = make_layer(x, arrays, size, use_bias=False, dtype=x.dtype, **options)
                y = layer(x)
                for variable, array in zip(layer.weights, arrays):
                    variable.assign(array)
            finally:
                _active.made = made
            made.append(layer)
            return y

        return symbolic_call

    return make


def _dense(x: Any, arrays: Any, size: Any, **options: Any) -> Any:
    channels = x.shape[-1 if standardize_data_format(options["data_format"]) == "channels_last" else 1]
    return keras.layers.Conv2D(arrays[0].shape[-1], size, groups=channels // arrays[0].shape[2], **options)


def _depthwise(x: Any, arrays: Any, size: Any, **options: Any) -> Any:
    return keras.layers.DepthwiseConv2D(size, depth_multiplier=arrays[0].shape[-1], **options)


def _separable(x: Any, arrays: Any, size: Any, **options: Any) -> Any:
    multiplier = arrays[0].shape[-1]
    return keras.layers.SeparableConv2D(arrays[1].shape[-1], size, depth_multiplier=multiplier, **options)


_PATCHES = [
    *((keras.Variable, f"__{word}__", _operator(function)) for word, function in _OPERATORS.items()),
    (keras.Variable, "assign", _guarded),
    (Conv, "symbolic_call", _by_layer(_dense)),
    (DepthwiseConv, "symbolic_call", _by_layer(_depthwise)),
    (SeparableConv, "symbolic_call", _by_layer(_separable)),
]


class _Dispatcher(tf.__internal__.dispatch.GlobalOpDispatcher):
    def handle(self, op: Any, args: Any, kwargs: Any) -> Any:
        rule = _RULES.get(op) if _is_active() else None
        if rule is None or not any(isinstance(v, keras.KerasTensor) for v in keras.tree.flatten((args, kwargs))):
            return self.NOT_SUPPORTED
        given = inspect.signature(op).bind(*args, **kwargs).arguments
        given.pop("name", None)
        try:
            return rule(**given)
        except TypeError:  # an argument that the rule does not have
            return self.NOT_SUPPORTED


_dispatcher: list = []


def _register() -> None:
    if not _dispatcher:
        _dispatcher.append(_Dispatcher())
        _dispatcher[0].register()


def _converted(value: Any, dtype: Any = None, dtype_hint: Any = None) -> Any:
    return value if dtype is None else _cast(value, dtype)


def _cast(x: Any, dtype: Any) -> Any:
    dtype = keras.backend.standardize_dtype(tf.as_dtype(dtype).name)
    return x if keras.backend.standardize_dtype(x.dtype) == dtype else ops.cast(x, dtype)


def _same(input: Any) -> Any:
    return input


def _of_two(function: Callable) -> Callable:
    return lambda x, y: function(x, y)


def _of_x(function: Callable) -> Callable:
    return lambda x: function(x)


def _of_features(function: Callable) -> Callable:
    return lambda features: function(features)


def _add_n(inputs: Any) -> Any:
    total = inputs[0]
    for other in inputs[1:]:
        total = ops.add(total, other)
    return total


def _reduction(function: Callable) -> Callable:
    return lambda input_tensor, axis=None, keepdims=False: function(input_tensor, axis=axis, keepdims=bool(keepdims))


def _matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    x, y = (ops.swapaxes(t, -1, -2) if turned else t for t, turned in ((a, transpose_a), (b, transpose_b)))
    return ops.matmul(x, y)


def _einsum(equation: str, inputs: Any) -> Any:
    return ops.einsum(equation, *inputs)


def _silu(features: Any, beta: float = 1.0) -> Any:
    return ops.silu(features) if beta == 1.0 else features * ops.sigmoid(features * beta)


def _gelu(features: Any, approximate: bool = False) -> Any:
    return ops.gelu(features, approximate=approximate)


def _softmax(logits: Any, axis: Optional[int] = None) -> Any:
    return ops.softmax(logits, axis=-1 if axis is None else axis)


def _split(value: Any, num_or_size_splits: Any, axis: int = 0) -> Any:
    if isinstance(num_or_size_splits, int):
        return list(ops.split(value, num_or_size_splits, axis=axis))
    sizes = [int(size) for size in num_or_size_splits]
    rest = value.shape[axis]
    if -1 in sizes and rest is not None:
        sizes[sizes.index(-1)] = rest - sum(sizes) - 1
    if min(sizes) < 0:
        raise TypeError("a size that is not known")
    return list(ops.split(value, [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)], axis=axis))


def _pad(tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: Any = 0) -> Any:
    pairs = [[int(number) for number in pair] for pair in paddings]
    values = {"constant_values": constant_values} if mode.upper() == "CONSTANT" else {}
    return ops.pad(tensor, pairs, mode=mode.lower(), **values)


def _resize(images: Any, size: Any, method: str = "bilinear") -> Any:
    size = tuple(int(number) for number in size)
    return ops.image.resize(images, size, interpolation=method, data_format="channels_last")


def _pool(function: Callable) -> Callable:
    return lambda input, ksize, strides, padding: function(
        input, _pair(ksize), _pair(strides), _word(padding), data_format="channels_last"
    )


def _pair(value: Any) -> Any:
    return tuple(value[1:3]) if isinstance(value, (list, tuple)) and len(value) == 4 else value


def _norm(tensor: Any, ord: Any = "euclidean", axis: Any = None, keepdims: Any = None) -> Any:
    return ops.norm(tensor, None if ord == "euclidean" else ord, axis=axis, keepdims=bool(keepdims))


def _conv2d(input: Any, filters: Any, strides: Any, padding: Any, dilations: Any = None) -> Any:
    return ops.conv(input, filters, _pair(strides), _word(padding), "channels_last", _pair(dilations or 1))


def _depthwise_conv2d(input: Any, filter: Any, strides: Any, padding: Any, dilations: Any = None) -> Any:
    return ops.depthwise_conv(input, filter, _pair(strides), _word(padding), "channels_last", _pair(dilations or 1))


def _word(padding: Any) -> str:
    if not isinstance(padding, str):
        raise TypeError("padding by numbers")
    return padding.lower()


def _reshape(tensor: Any, shape: Any) -> Any:
    return ops.reshape(tensor, tuple(-1 if size is None else int(size) for size in shape))


def _squeeze(input: Any, axis: Any = None) -> Any:
    return ops.squeeze(input, axis=tuple(axis) if isinstance(axis, list) else axis)


_FUNCTIONS: dict[Any, Callable] = {
    tf.convert_to_tensor: _converted,
    tf.cast: _cast,
    tf.identity: _same,
    tf.stop_gradient: lambda input: ops.stop_gradient(input),
    tf.shape: lambda input: tuple(input.shape),
    **{
        getattr(tf, name): _of_two(getattr(ops, name))
        for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum")
    },
    tf.add_n: _add_n,
    tf.matmul: _matmul,
    tf.einsum: _einsum,
    **{getattr(tf, f"reduce_{name}"): _reduction(getattr(ops, name)) for name in ("mean", "sum", "max", "min")},
    tf.nn.relu: _of_features(ops.relu),
    tf.nn.relu6: _of_features(ops.relu6),
    tf.nn.elu: _of_features(ops.elu),
    tf.nn.softplus: _of_features(ops.softplus),
    tf.nn.silu: _silu,
    tf.nn.leaky_relu: lambda features, alpha=0.2: ops.leaky_relu(features, negative_slope=alpha),
    tf.nn.gelu: _gelu,
    tf.nn.softmax: _softmax,
    **{getattr(tf, word): _of_x(getattr(ops, word)) for word in ("sigmoid", "tanh", "square", "sqrt", "exp")},
    tf.math.rsqrt: _of_x(ops.rsqrt),
    tf.clip_by_value: lambda t, clip_value_min, clip_value_max: ops.clip(t, clip_value_min, clip_value_max),
    tf.norm: _norm,
    tf.concat: lambda values, axis: ops.concatenate(values, axis=axis),
    tf.split: _split,
    tf.reshape: _reshape,
    tf.transpose: lambda a, perm=None: ops.transpose(a, perm),
    tf.squeeze: _squeeze,
    tf.expand_dims: lambda input, axis: ops.expand_dims(input, axis),
    tf.pad: _pad,
    tf.image.resize: _resize,
    tf.nn.max_pool2d: _pool(ops.max_pool),
    tf.nn.avg_pool2d: _pool(ops.average_pool),
    tf.nn.conv2d: _conv2d,
    tf.nn.depthwise_conv2d: _depthwise_conv2d,
    tf.nn.depth_to_space: lambda input, block_size: ops.nn.depth_to_space(input, block_size),
}


def _wrapped(function: Any) -> Iterator[Any]:
    """A function, and those that it wraps: the dispatcher gets one of them."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


_RULES = {inner: rule for function, rule in _FUNCTIONS.items() for inner in _wrapped(function)}
