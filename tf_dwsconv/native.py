"""The fused kernels on NumPy arrays, without TensorFlow.

>>> import numpy as np
>>> from tf_dwsconv import native
>>> x = np.ones((1, 8, 8, 4), np.float32)
>>> depthwise_filter = np.ones((3, 3, 4, 2), np.float32)
>>> pointwise_filter = np.ones((1, 1, 8, 16), np.float32)
>>> native.depthwise_sep_conv2d(x, depthwise_filter, pointwise_filter, strides=2, activation="relu").shape
(1, 4, 4, 16)

Where one layer is called often, `Layer` packs its filters once:

>>> layer = native.Layer(depthwise_filter, pointwise_filter, strides=2, activation="relu")
>>> y = np.empty((1, 4, 4, 16), np.float32)
>>> layer(x, out=y) is y
True

Arrays are float32, float16 or bfloat16 (of `ml_dtypes`), all of one dtype; sums are kept in float32. What is not
C-contiguous, or not aligned to its elements, is copied first. Everything here may be called from several threads at
once, and other Python threads run while a kernel does.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from tf_dwsconv import _arguments

try:
    from tf_dwsconv import _native
except ImportError as error:
    raise ImportError(
        f"tf_dwsconv._native, the compiled half of tf_dwsconv.native, cannot be loaded ({error}). In a checkout, run "
        "`make build`; otherwise reinstall tf_dwsconv for this Python and platform."
    ) from error

__all__ = ["LADDER", "Layer", "Network", "calls", "cpu_info", "depthwise_sep_conv2d", "plan", "traffic"]

# Values of `variant`, slowest first.
LADDER = ("naive", "reordered", "unrolled", "blocked", "simd", "openmp", "fused_unblocked", "fused")


def depthwise_sep_conv2d(
    x: Any,
    depthwise_filter: Any,
    pointwise_filter: Any,
    *,
    bias: Any = None,
    depthwise_bias: Any = None,
    strides: Any = 1,
    padding: Any = "SAME",
    dilations: Any = 1,
    data_format: str = "NHWC",
    depthwise_activation: Any = None,
    activation: Any = None,
    residual: Any = None,
    out: Any = None,
    num_threads: int = 0,
    isa: str | None = None,
    variant: str = "auto",
    plan: Any = None,
) -> Any:
    """`activation(pointwise(depthwise_activation(depthwise(x) + depthwise_bias)) + bias + residual)`.

    Args:
        x: `[N,H,W,C]`, or `[N,C,H,W]` with `data_format="NCHW"`. N may be 0.
        depthwise_filter: `[R,S,C,M]`.
        pointwise_filter: `[1,1,C*M,K]`.
        bias: `[K]`, or None.
        depthwise_bias: `[C*M]`, or None.
        strides: an integer, or a pair (height, width).
        padding: "SAME" or "VALID" in any case; or explicit: four pairs (before, after), one for each axis in the order
            of `data_format`, or the two pairs of height and width alone.
        dilations: an integer, or a pair (height, width). May be combined with strides.
        data_format: "NHWC" or "NCHW".
        depthwise_activation: between the convolutions: None, a word of `tf_dwsconv.activations.WORDS`, or a pair
            such as `("leaky_relu", slope)` (see `tf_dwsconv.activations.parse`).
        activation: at the end; as `depthwise_activation`.
        residual: added before `activation`; of the output's shape, or None.
        out: where to put the result: a C-contiguous, writeable array of the output's shape and dtype, which shares no
            memory with the other arrays, except that it may be `residual` itself. None for a new array.
        num_threads: 0 for the environment's `DWSCONV_NUM_THREADS`, or else all cores this process may run on. The
            result is the same bit for bit whatever the number.
        isa: "generic", "avx2" or "avx512"; None for the environment's `DWSCONV_ISA`, or else the best this CPU has.
        variant: "auto", the fastest, by a plan of `tf_dwsconv.tune` where there is one; "fused", the fused kernel by
            the planner's plan; "reference", plain loops with double sums; or another of `LADDER`, the steps that lead
            up to "fused", each with one optimization more than the one before (docs/ladder.md). Every variant takes
            every argument but `plan`. "naive" to "simd" run on one thread, whatever `num_threads` says, and "naive" to
            "openmp" allocate the intermediate tensor.
        plan: None, or how to cut the layer into tasks instead: a dict with the `block_pixels`, `block_channels`,
            `threads` and `stream` that `plan` below tells of, whose dicts may be given too. The result is the same bit
            for bit. Goes with the variants "auto" and "fused".

    Returns:
        `out`, or a new array: `[N,Ho,Wo,K]` or `[N,K,Ho,Wo]`, of the dtype of x.

    Raises:
        TypeError: an argument of a wrong type, or a dtype that is not one of the three or not that of the others.
        ValueError: an argument of a wrong shape or value; a window larger than the padded x; an `isa` that this CPU
            does not have.
        MemoryError: no memory for the result or for working buffers.
        ImportError: a step of the ladder, where OpenMP's runtime is missing.

    Source: the depthwise and pointwise halves are `tf.nn.separable_conv2d`'s; Chollet, "Xception" (CVPR 2017).
    """
    options = _options(
        strides, padding, dilations, data_format, depthwise_activation, activation, isa=isa, variant=variant
    )
    return _native.forward(
        x, depthwise_filter, pointwise_filter, depthwise_bias, bias, residual, out, num_threads, options, plan
    )


class Layer(_native.Layer):
    """One layer with its filters packed at construction: a later change of the arrays is not seen.

    Args:
        depthwise_filter: `[R,S,C,M]`.
        pointwise_filter: `[1,1,C*M,K]`.
        bias, depthwise_bias, strides, padding, dilations, data_format, depthwise_activation, activation, isa, variant:
            as in `depthwise_sep_conv2d`. `isa` is settled at construction.

    Call arguments:
        x: `[N,H,W,C]` or `[N,C,H,W]`, of the filters' dtype; its batch, height and width may differ between calls.
        out, residual, num_threads, plan: as in `depthwise_sep_conv2d`; `out` may share memory with the filters.

    Raises:
        TypeError, ValueError, MemoryError: as in `depthwise_sep_conv2d`; for the filters, at construction.
    """

    def __init__(
        self,
        depthwise_filter: Any,
        pointwise_filter: Any,
        *,
        bias: Any = None,
        depthwise_bias: Any = None,
        strides: Any = 1,
        padding: Any = "SAME",
        dilations: Any = 1,
        data_format: str = "NHWC",
        depthwise_activation: Any = None,
        activation: Any = None,
        isa: str | None = None,
        variant: str = "auto",
    ):
        options = _options(
            strides, padding, dilations, data_format, depthwise_activation, activation, isa=isa, variant=variant
        )
        super().__init__(depthwise_filter, pointwise_filter, depthwise_bias, bias, options)


class Network(_native.Network):
    """A whole network from a file (docs/program.md), run without TensorFlow.

    >>> network = Network("mobilenet_v2.safetensors")  # doctest: +SKIP
    >>> probabilities = network(images)  # doctest: +SKIP

    `str(network)` is its program: a JSON text, a line for each step. `inputs` and `outputs` are lists of dicts with the
    name, the shape (None for a size that each call brings) and the dtype of each tensor.

    Args:
        path: the file, as `tf_dwsconv.save_network` writes it.
        isa: as in `depthwise_sep_conv2d`.

    Call arguments:
        x: an array of the network's dtype; where it has several inputs, a list of arrays in the order of `inputs`, or
            a dict by their names. Sizes that `inputs` shows as None may differ between calls.
        out: where to put the result: a C-contiguous, writeable array of the output's shape and dtype that shares no
            memory with x, or a list of those, one for each of `outputs`. None for new arrays.
        num_threads: as in `depthwise_sep_conv2d`.
        Returns `out`, or a new array; a list of them where there are several outputs.

    Raises:
        OSError: the file cannot be opened.
        TypeError, ValueError: a file that is broken or holds no program; an array of a wrong dtype or shape.
        MemoryError: no memory for the weights, the result or what lies between the steps.

    Source: Keras models, by `tf_dwsconv.convert`.
    """

    def __init__(self, path: Any, *, isa: str | None = None):
        path = os.fspath(path)
        with open(path, "rb"):  # for Python's own errors
            pass
        super().__init__(os.fsencode(path), isa)

    @classmethod
    def from_program(cls, text: str, weights: Any, *, isa: str | None = None) -> Network:
        """The network of a program's text and its flat weights, an array `[count]` of the program's dtype.

        Raises:
            TypeError, ValueError: a text that is no program; weights of a wrong dtype or shape.
        """
        network = cls.__new__(cls)
        _native.Network.__init__(network, text, weights, isa)
        return network

    def profile(self, x: Any, num_threads: int = 0, repeats: int = 10) -> list[dict[str, Any]]:
        """What each step takes: the least of `repeats` calls, each step by itself.

        Args:
            x, num_threads: as in a call.
            repeats: how often the network runs, besides once to warm up.

        Returns:
            a dict for each step: step (its number), op, name, shape (of its output), ms, gflops (10^9 operations a
            second, a multiply-add counting two), gbs (10^9 bytes a second of all that it reads and writes once).
        """
        return super().profile(x, num_threads, repeats)


def plan(
    x_shape: Any,
    depthwise_filter_shape: Any,
    pointwise_filter_shape: Any,
    *,
    strides: Any = 1,
    padding: Any = "SAME",
    dilations: Any = 1,
    data_format: str = "NHWC",
    dtype: Any = "float32",
    num_threads: int = 0,
    isa: str | None = None,
    variant: str = "auto",
) -> dict[str, Any]:
    """How a layer of these shapes is cut into tasks on this machine. Computes nothing.

    Args:
        x_shape: `[N,H,W,C]`, or `[N,C,H,W]` with `data_format="NCHW"`.
        depthwise_filter_shape: `[R,S,C,M]`.
        pointwise_filter_shape: `[1,1,C*M,K]`.
        dtype: "float32", "float16", "bfloat16", or a NumPy dtype of those names.
        strides, padding, dilations, data_format, num_threads, isa, variant: as in `depthwise_sep_conv2d`.

    Returns:
        output_shape; flops (a multiply-add counts two); isa; block_pixels and block_channels, the output pixels and
        channels of a task; tasks; threads, those that will be used; scratch_bytes_per_thread; repeats, whether input
        channels are copied once for each multiplier to fill vectors; stream, whether the output is written around the
        caches; tuned, whether `tf_dwsconv.tune` found it; modelled_bytes, what the planner's model says is moved
        between the cores' L2 caches and what lies behind them, with the lines of the output that are fetched to be
        stored into. Blocks, tasks and bytes are 0 for an empty output.

    Raises:
        TypeError, ValueError: as in `depthwise_sep_conv2d`.
    """
    options = _options(strides, padding, dilations, data_format, None, None, isa=isa, variant=variant)
    shapes = _shapes(x_shape, depthwise_filter_shape, pointwise_filter_shape)
    return _native.plan(*shapes, _word(dtype), options, num_threads)


def traffic(
    x_shape: Any,
    depthwise_filter_shape: Any,
    pointwise_filter_shape: Any,
    *,
    strides: Any = 1,
    padding: Any = "SAME",
    dilations: Any = 1,
    dtype: Any = "float32",
    isa: str | None = None,
    plan: Any = None,
    l1d_bytes: int = 0,
    l2_bytes: int = 0,
    l3_bytes: int = 0,
) -> dict[str, Any]:
    """What a layer of these shapes moves through the caches of one core, by simulation.

    The kernels' own loops run the plan on one thread, but report every load and store to simulated caches (write-back,
    least recently used out first; 8, 8 and 16 ways) in place of computing. The caches are empty at the start, and what
    is dirty at the end is written back. Prefetchers are not simulated. A layer takes about the time that it takes for
    real on one thread; nothing of its size is allocated but the filters.

    Args:
        x_shape: `[N,H,W,C]`.
        depthwise_filter_shape: `[R,S,C,M]`.
        pointwise_filter_shape: `[1,1,C*M,K]`.
        dtype: as in `plan`.
        strides, padding, dilations, isa, plan: as in `depthwise_sep_conv2d`.
        l1d_bytes, l2_bytes, l3_bytes: caches of another machine, which is then planned for; 0 for this CPU's.

    Returns:
        beyond_l2 and memory: bytes that were "read" into L2 (into L3) from what lies behind it and "written" back, each
        a dict by array: "x", "filters" (packed, with biases), "y" and "z", the intermediate. "y" is read too where its
        lines are fetched to be stored into. modelled_bytes, as in `plan`; isa, block_pixels, block_channels, threads
        and stream, the plan.

    Raises:
        TypeError, ValueError: as in `depthwise_sep_conv2d`; a cache of less than a line for each of its ways; an empty
            output.
        MemoryError: no memory for the filters or for the simulated caches.
        ImportError: OpenMP's runtime, which the library of the simulation needs, is missing.
    """
    options = _options(strides, padding, dilations, "NHWC", None, None, isa=isa, variant="fused")
    shapes = _shapes(x_shape, depthwise_filter_shape, pointwise_filter_shape)
    sizes = []
    for name, size, ways in (("l1d_bytes", l1d_bytes, 8), ("l2_bytes", l2_bytes, 8), ("l3_bytes", l3_bytes, 16)):
        if isinstance(size, bool) or not hasattr(size, "__index__"):
            raise TypeError(f"`{name}` must be an integer; given {size!r}.")
        size = size.__index__()
        if size != 0 and not 64 * ways <= size <= 2**34:
            raise ValueError(f"`{name}` must be 0 (this CPU's) or from {64 * ways} to 2**34; given {size}.")
        sizes.append(size)
    return _lab().traffic(*shapes, _word(dtype), options, plan, sizes)


def cpu_info() -> dict[str, Any]:
    """What the kernels know of this CPU.

    Returns:
        isas, those it has, least first; isa, the one in use (`DWSCONV_ISA`, or the best); bf16, whether it multiplies
        bfloat16; cores, those this process may run on; l1d_bytes, l2_bytes and l3_bytes of one core, 0 where unknown.

    Raises:
        ValueError: `DWSCONV_ISA` is no ISA, or one that this CPU lacks.
    """
    return _native.cpu_info()


def calls() -> dict[str, int]:
    """How often this process ran the kernels of each ISA, and under "pack" how often it packed filters.

    Under "network" the calls of networks, and under "network_by_image" those in which each thread took images of its
    own through the first steps.

    Counts the calls through this module: TensorFlow's op has counters of its own.
    """
    return _native.calls()


@functools.cache
def _lab() -> Any:
    """The module of what is measured alone: the ladder's steps and the simulated caches."""
    try:
        from tf_dwsconv import _lab
    except ImportError as error:
        raise ImportError(
            f"tf_dwsconv._lab, which has the steps of the ladder and the simulated caches, cannot be loaded ({error}). "
            "It needs OpenMP's runtime: on Debian, apt-get install libgomp1."
        ) from error
    return _lab


def _is_plain(value: Any) -> bool:
    kind = type(value)
    return kind is int or kind is str or value is None or (kind is tuple and all(map(_is_plain, value)))


def _options(*arguments: Any, isa: Any, variant: Any) -> _native.Options:
    """Strides, padding, dilations, data_format and both activations, checked and translated."""
    # Checking takes longer than a small layer. Only exact types are looked up: True, 1.0 and 1 are equal as keys.
    make = _known_options if _is_plain((*arguments, isa, variant)) else _make_options
    return make(isa, variant, *arguments)


def _make_options(
    isa: Any, variant: Any, strides: Any, padding: Any, dilations: Any, data_format: Any, *activations: Any
) -> _native.Options:
    for name, value in (("isa", isa), ("variant", variant)):
        if not isinstance(value, str) and not (name == "isa" and value is None):
            raise TypeError(f"`{name}` must be a word; given {value!r} of type {type(value).__name__}.")
    if variant in LADDER and variant != "fused":
        _native.use_ladder(_lab().ladder)
    padding = _four_pairs(padding, data_format)
    attributes = _arguments.attributes_of(strides, padding, dilations, data_format, *activations)
    of_layer = dict(zip(attributes._fields[:7], attributes))  # the others are a block's
    return _native.Options(isa=isa, variant=variant, **of_layer)


_known_options = functools.lru_cache(maxsize=256)(_make_options)


def _four_pairs(padding: Any, data_format: Any) -> Any:
    """`padding`, with the pairs of batch and channels put in where only those of height and width are given."""
    if isinstance(padding, (list, tuple)) and len(padding) == 2:
        window = list(padding)
        return [(0, 0), (0, 0), *window] if data_format == "NCHW" else [(0, 0), *window, (0, 0)]
    return padding


def _word(dtype: Any) -> str:
    return dtype if isinstance(dtype, str) else getattr(dtype, "name", getattr(dtype, "__name__", repr(dtype)))


def _shapes(x: Any, depthwise_filter: Any, pointwise_filter: Any) -> list[list[int]]:
    """The three shapes of `plan` and `traffic`, as lists of integers."""
    given = {"x_shape": x, "depthwise_filter_shape": depthwise_filter, "pointwise_filter_shape": pointwise_filter}
    shapes = []
    for argument, shape in given.items():
        try:
            shapes.append([size.__index__() for size in shape])
        except (AttributeError, TypeError):
            raise TypeError(f"`{argument}` must be a sequence of integers; given {shape!r}.") from None
        if not all(0 <= size < 2**63 for size in shapes[-1]):
            raise ValueError(f"`{argument}` must hold sizes from 0 to 2**63 - 1; given {shape!r}.")
    return shapes
