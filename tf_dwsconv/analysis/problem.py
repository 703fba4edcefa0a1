"""The shape of one depthwise-separable (DWS) convolution, and the checks that every part of the analysis shares."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
from typing import Any, Union

import numpy as np

from tf_dwsconv._arguments import as_integer

_ITEMSIZES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
DTYPES = tuple(_ITEMSIZES)
_MAX_WINDOW_TAPS = 1 << 26  # of one axis: they are listed one by one, 8 bytes each


def integer(name: str, value: Any, minimum: int = 1) -> int:
    """`value` as a Python int, or an error that names the argument."""
    number = as_integer(value)
    if number is None:
        raise TypeError(f"{name} must be an integer; given {value!r} of type {type(value).__name__}")
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}; given {number}")
    return number


def positive(name: str, value: Any) -> float:
    """`value` as a finite positive float, or an error that names the argument."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number; given {value!r} of type {type(value).__name__}")
    value = float(value)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite; given {value}")
    return value


def choice(name: str, value: Any, allowed: Any) -> Any:
    """`value` if it is one of the words `allowed`."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(map(repr, allowed))}; given {value!r}")
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; given {value!r}")
    return value


def itemsize(dtype: Any) -> int:
    """Bytes of one element of `dtype`: float64, float32, bfloat16, float16 or int8.

    >>> itemsize("bfloat16")
    2
    """
    name = dtype if isinstance(dtype, str) else getattr(dtype, "name", None) or getattr(dtype, "__name__", None)
    if name is None:
        raise TypeError(f"dtype must be a name or a dtype; given {dtype!r}")
    if name not in _ITEMSIZES:
        raise ValueError(f"dtype must be one of {', '.join(_ITEMSIZES)}; given {name!r}")
    return _ITEMSIZES[name]


def pair(name: str, value: Any, minimum: int = 1) -> tuple[int, int]:
    """An int, or a pair of them (height, width), as a pair."""
    if isinstance(value, (list, tuple)):
        if len(value) != 2:
            raise ValueError(f"{name} must be an integer or a pair (height, width); given {value!r}")
        return integer(f"{name}[0]", value[0], minimum), integer(f"{name}[1]", value[1], minimum)
    value = integer(name, value, minimum)
    return value, value


@dataclasses.dataclass(frozen=True)
class Axis:
    """A spatial axis: `out` windows of `taps` taps, `stride` apart, over `size` elements after `before` padded ones."""

    size: int
    taps: int
    stride: int
    dilation: int
    before: int
    out: int

    @property
    def extent(self) -> int:
        """Elements from the first tap of a window to its last."""
        return (self.taps - 1) * self.dilation + 1

    @functools.cached_property
    def _inside(self):
        """[out, taps] indices into the input, and which of them are not padding."""
        index = (
            np.arange(self.out, dtype=np.int64)[:, None] * self.stride
            - self.before
            + np.arange(self.taps, dtype=np.int64) * self.dilation
        )
        return index, (index >= 0) & (index < self.size)

    @functools.cached_property
    def touched(self) -> int:
        """Input elements that some window reads."""
        index, inside = self._inside
        return int(np.unique(index[inside]).size)

    @functools.cached_property
    def taps_used(self) -> int:
        """Taps that fall inside the input for some window."""
        return int(self._inside[1].any(axis=0).sum())

    @functools.cached_property
    def valid_taps(self) -> int:
        """(window, tap) pairs that read the input and not the padding."""
        return int(self._inside[1].sum())

    @functools.cached_property
    def has_anchor(self) -> bool:
        """Whether one tap reads the input in every window, so that windows and input elements can be paired off."""
        return bool(self._inside[1].all(axis=0).any())


def _axis(name, size, taps, stride, dilation, padding):
    extent = (taps - 1) * dilation + 1
    if padding == "SAME":
        out = -(-size // stride)
        before = max((out - 1) * stride + extent - size, 0) // 2
    else:
        before, after = (0, 0) if padding == "VALID" else padding
        span = size + before + after - extent
        if span < 0:
            raise ValueError(
                f"the window spans {extent} of the {name}, more than the {size + before + after} there are "
                f"with padding={padding!r}; make R, S or dilation smaller or use padding='SAME'"
            )
        out = span // stride + 1
    if out * taps > _MAX_WINDOW_TAPS:
        raise ValueError(
            f"the {name} has {out} windows of {taps} taps; the analysis takes at most "
            f"{_MAX_WINDOW_TAPS} together: make H, W, R, S or padding smaller"
        )
    return Axis(size, taps, stride, dilation, before, out)


@dataclasses.dataclass(frozen=True)
class Problem:
    """One DWS convolution: `Y = pointwise(depthwise(X))`.

    The input X is [N, H, W, C], the depthwise filter D [R, S, C, M], the intermediate Z [N, Ho, Wo, C*M], the
    pointwise filter P [C*M, K] and the output Y [N, Ho, Wo, K]. Biases and activations move nothing to speak of and
    are left out throughout.

    Args:
        N, H, W, C: batch, input rows, columns and channels.
        K: output channels.
        R, S: rows and columns of the depthwise filter.
        M: depth multiplier.
        stride, dilation: an int, or a pair (height, width).
        padding: "SAME", "VALID", or ((top, bottom), (left, right)).

    Raises:
        TypeError, ValueError: an argument that is not a positive integer, an unknown padding, or a window larger than
            the padded input. The message names the argument.

    Example:

    >>> problem = Problem(N=1, H=224, W=224, C=128, K=128)
    >>> problem.Ho, problem.pixels, problem.sizes["P"]
    (224, 50176, 16384)
    """

    N: int
    H: int
    W: int
    C: int
    K: int
    R: int = 3
    S: int = 3
    M: int = 1
    stride: Union[int, tuple[int, int]] = 1
    dilation: Union[int, tuple[int, int]] = 1
    padding: Union[str, tuple[tuple[int, int], tuple[int, int]]] = "SAME"

    def __post_init__(self) -> None:
        for name in ("N", "H", "W", "C", "K", "R", "S", "M"):
            object.__setattr__(self, name, integer(name, getattr(self, name)))
        for name in ("stride", "dilation"):
            object.__setattr__(self, name, pair(name, getattr(self, name)))
        padding = self.padding
        if isinstance(padding, str):
            padding = choice("padding", padding.upper(), ("SAME", "VALID"))
        else:
            try:
                (top, bottom), (left, right) = padding
            except (TypeError, ValueError):
                raise ValueError(
                    f"padding must be 'SAME', 'VALID' or ((top, bottom), (left, right)); given {padding!r}"
                ) from None
            padding = (
                (integer("padding top", top, 0), integer("padding bottom", bottom, 0)),
                (integer("padding left", left, 0), integer("padding right", right, 0)),
            )
        object.__setattr__(self, "padding", padding)
        self.height, self.width  # noqa: B018  (a window that does not fit raises here and not later)

    @functools.cached_property
    def height(self) -> Axis:
        """The `Axis` down the image."""
        padding = self.padding if isinstance(self.padding, str) else self.padding[0]
        return _axis("height", self.H, self.R, self.stride[0], self.dilation[0], padding)

    @functools.cached_property
    def width(self) -> Axis:
        """The `Axis` across the image."""
        padding = self.padding if isinstance(self.padding, str) else self.padding[1]
        return _axis("width", self.W, self.S, self.stride[1], self.dilation[1], padding)

    @property
    def Ho(self) -> int:
        """Output rows."""
        return self.height.out

    @property
    def Wo(self) -> int:
        """Output columns."""
        return self.width.out

    @property
    def CM(self) -> int:
        """Channels of the intermediate."""
        return self.C * self.M

    @property
    def pixels(self) -> int:
        """Output pixels of the whole batch, N * Ho * Wo."""
        return self.N * self.Ho * self.Wo

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """The shapes of X, D and P as the kernels take them."""
        return (self.N, self.H, self.W, self.C), (self.R, self.S, self.C, self.M), (1, 1, self.CM, self.K)

    @property
    def sizes(self) -> dict[str, int]:
        """Elements of each array, by its letter."""
        return {
            "X": self.N * self.H * self.W * self.C,
            "D": self.R * self.S * self.CM,
            "Z": self.pixels * self.CM,
            "P": self.CM * self.K,
            "Y": self.pixels * self.K,
        }

    def __str__(self) -> str:
        extra = "".join(
            f" {word}{a}x{b}" for word, (a, b) in (("s", self.stride), ("d", self.dilation)) if (a, b) != (1, 1)
        )
        multiplier = f" M={self.M}" if self.M != 1 else ""
        padding = "" if self.padding == "SAME" else f" {self.padding}"
        return f"{self.N}x{self.H}x{self.W}x{self.C} -> {self.K}, {self.R}x{self.S}{extra}{multiplier}{padding}"


def check_problem(problem: Any) -> Problem:
    """`problem`, or a TypeError."""
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be an analysis.Problem; given {type(problem).__name__}")
    return problem
