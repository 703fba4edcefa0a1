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
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tf_dwsconv import _arguments

if TYPE_CHECKING:
    import numpy as np

try:
    from tf_dwsconv import _native
except ImportError as error:
    raise ImportError(
        f"tf_dwsconv._native, the compiled half of tf_dwsconv.native, cannot be loaded ({error}). In a checkout, run "
        "`make build`; otherwise reinstall tf_dwsconv for this Python and platform."
    ) from error

if not hasattr(_native, "Network"):
    raise ImportError(
        "tf_dwsconv._native is older than the package around it. In a checkout, run `make build`; otherwise reinstall "
        "tf_dwsconv."
    )

from tf_dwsconv.native._network import Network

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
    strides: int | Sequence[int] = 1,
    padding: str | Sequence[Any] = "SAME",
    dilations: int | Sequence[int] = 1,
    data_format: str = "NHWC",
    depthwise_activation: Any = None,
    activation: Any = None,
    residual: Any = None,
    out: Any = None,
    num_threads: int = 0,
    isa: str | None = None,
    variant: str = "auto",
    plan: Any = None,
) -> np.ndarray:
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
        isa: "generic", "avx2", "avx512" or "amx"; None for the environment's `DWSCONV_ISA`, or else the best that
            this CPU has.
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

    An inverted residual block is one, too, where `expand_filter` is given: `expand_activation(expand(x) + expand_bias)`
    takes the place of x, and is never in memory as a whole.

    Args:
        depthwise_filter: `[R,S,C,M]`.
        pointwise_filter: `[1,1,C*M,K]`, or None: the depthwise convolution alone, without `bias` and `activation`.
        expand_filter: `[1,1,E,C]` of a 1x1 convolution in front, or None. x has E channels then.
        expand_bias: `[C]`, or None.
        expand_activation: behind the expansion; as `depthwise_activation`.
        bias, depthwise_bias, strides, padding, dilations, data_format, depthwise_activation, activation, isa, variant:
            as in `depthwise_sep_conv2d`. `isa` is settled at construction.

    Call arguments:
        x: `[N,H,W,C]` or `[N,C,H,W]`, of the filters' dtype; its batch, height and width may differ between calls.
        out, residual, num_threads, plan: as in `depthwise_sep_conv2d`; `out` may share memory with the filters.

    Raises:
        TypeError, ValueError, MemoryError: as in `depthwise_sep_conv2d`; for the filters, at construction. A step of
            the ladder takes both filters, and no expansion.

    Source of the block: Sandler et al., "MobileNetV2" (2018).
    """

    def __init__(
        self,
        depthwise_filter: Any,
        pointwise_filter: Any,
        *,
        bias: Any = None,
        depthwise_bias: Any = None,
        strides: int | Sequence[int] = 1,
        padding: str | Sequence[Any] = "SAME",
        dilations: int | Sequence[int] = 1,
        data_format: str = "NHWC",
        depthwise_activation: Any = None,
        activation: Any = None,
        expand_filter: Any = None,
        expand_bias: Any = None,
        expand_activation: Any = None,
        isa: str | None = None,
        variant: str = "auto",
    ) -> None:
        activations = depthwise_activation, activation, expand_activation
        options = _options(strides, padding, dilations, data_format, *activations, isa=isa, variant=variant)
        super().__init__(depthwise_filter, pointwise_filter, depthwise_bias, bias, expand_filter, expand_bias, options)


def plan(
    x_shape: Sequence[int],
    depthwise_filter_shape: Sequence[int],
    pointwise_filter_shape: Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: str | Sequence[Any] = "SAME",
    dilations: int | Sequence[int] = 1,
    data_format: str = "NHWC",
    dtype: Any = "float32",
    expand_filter_shape: Any = None,
    num_threads: int = 0,
    isa: str | None = None,
    variant: str = "auto",
) -> dict[str, Any]:
    """How a layer of these shapes is cut into tasks on this machine. Computes nothing.

    Args:
        x_shape: `[N,H,W,C]`, or `[N,C,H,W]` with `data_format="NCHW"`.
        depthwise_filter_shape: `[R,S,C,M]`.
        pointwise_filter_shape: `[1,1,C*M,K]`, or None as in `Layer`.
        expand_filter_shape: `[1,1,E,C]` of an expansion, or None.
        dtype: "float32", "float16", "bfloat16", or a NumPy dtype of those names.
        strides, padding, dilations, data_format, num_threads, isa, variant: as in `depthwise_sep_conv2d`.

    Returns:
        output_shape; flops (a multiply-add counts two); isa; block_pixels and block_channels, the output pixels and
        channels of a task; tasks; threads, those that will be used; scratch_bytes_per_thread; repeats, whether input
        channels are copied once for each multiplier to fill vectors; stream, whether the output is written around the
        caches; tuned, whether `tf_dwsconv.tune` found it; modelled_bytes, what the planner's model says is moved
        between the cores' L2 caches and what lies behind them, with the lines of the output that are fetched to be
        stored into. Blocks, tasks and bytes are 0 for an empty output. Behind an expansion there are in the place of
        the blocks and of modelled_bytes: rows, the output rows of a task; channels, those of the expanded input that
        are computed at a time; by_channels, whether a task takes these channels of whole images.

    Raises:
        TypeError, ValueError: as in `depthwise_sep_conv2d`.
    """
    options = _options(strides, padding, dilations, data_format, None, None, isa=isa, variant=variant)
    shapes = _shapes(x_shape, depthwise_filter_shape, pointwise_filter_shape, expand_filter_shape)
    return _native.plan(shapes, _word(dtype), options, num_threads)


def traffic(
    x_shape: Sequence[int],
    depthwise_filter_shape: Sequence[int],
    pointwise_filter_shape: Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: str | Sequence[Any] = "SAME",
    dilations: int | Sequence[int] = 1,
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
        ImportError: the library of the simulation is missing.
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
    return _lab().traffic(shapes, _word(dtype), options, plan, sizes)


def cpu_info() -> dict[str, Any]:
    """What the kernels know of this CPU.

    Returns:
        isas, those it has, least first; isa, the one in use (`DWSCONV_ISA`, or the best); bf16, whether `vdpbf16ps`
        is there and faster than products of floats; bf16_products, how the isa in use multiplies bfloat16: by "tiles",
        by "vdpbf16ps" or as "float32"; bf16_reason, why so, with the rates where they were measured; cores, those this
        process may run on; l1d_bytes, l2_bytes and l3_bytes of one core, 0 where unknown.

    Raises:
        ValueError: `DWSCONV_ISA` is no ISA, or one that this CPU lacks.
    """
    return _native.cpu_info()


def calls() -> dict[str, int]:
    """How often this process ran the kernels of each ISA, and under "pack" how often it packed filters.

    Under "network" the calls of networks, and under "network_by_image" those in which each thread took images of its
    own through the first steps. Under "network_means_of_rows" the means whose rows a convolution had added up as it
    made them; under "network_parts_in_place" the tensors that lay where they were to be concatenated,
    or where they were cropped; under "network_products" the products of two tensors.

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
            "In a checkout, run `make build`; otherwise reinstall tf_dwsconv."
        ) from error
    return _lab


def _use_ladder(variant: str) -> None:
    """Makes the steps of the ladder known to the kernels; raises ImportError where one cannot run here."""
    _native.use_ladder(_lab().ladder)
    missing = _lab().load_openmp() if variant == "openmp" else ""
    if missing:
        raise ImportError(
            f'`variant` "openmp" needs OpenMP\'s runtime, which cannot be loaded ({missing}). On Debian, run '
            "apt-get install libgomp1."
        )


def _is_plain(value: Any) -> bool:
    kind = type(value)
    return kind is int or kind is str or value is None or (kind is tuple and all(map(_is_plain, value)))


def _options(*arguments: Any, isa: Any, variant: Any) -> _native.Options:
    """Strides, padding, dilations, data_format and both activations, checked and translated."""
    # Checking takes longer than a small layer. Only exact types are looked up: True, 1.0 and 1 are equal as keys.
    make = _known_options if _is_plain((*arguments, isa, variant)) else _make_options
    return make(isa, variant, *arguments)


def _make_options(
    isa: Any,
    variant: Any,
    strides: Any,
    padding: Any,
    dilations: Any,
    data_format: Any,
    middle: Any,
    last: Any,
    expand: Any = None,
) -> _native.Options:
    for name, value in (("isa", isa), ("variant", variant)):
        if not isinstance(value, str) and not (name == "isa" and value is None):
            raise TypeError(f"`{name}` must be a word; given {value!r} of type {type(value).__name__}.")
    if variant in LADDER and variant != "fused":
        _use_ladder(variant)
    padding = _four_pairs(padding, data_format)
    attributes = _arguments.attributes_of(strides, padding, dilations, data_format, middle, last)
    of_layer = dict(zip(attributes._fields[:7], attributes))  # the others are a block's
    expand_activation = _arguments.require(expand, "expand_activation")
    return _native.Options(isa=isa, variant=variant, expand_activation=expand_activation, **of_layer)


_known_options = functools.lru_cache(maxsize=256)(_make_options)


def _four_pairs(padding: Any, data_format: Any) -> Any:
    """`padding`, with the pairs of batch and channels put in where only those of height and width are given."""
    if isinstance(padding, (list, tuple)) and len(padding) == 2:
        window = list(padding)
        return [(0, 0), (0, 0), *window] if data_format == "NCHW" else [(0, 0), *window, (0, 0)]
    return padding


def _word(dtype: Any) -> str:
    return dtype if isinstance(dtype, str) else getattr(dtype, "name", getattr(dtype, "__name__", repr(dtype)))


def _shapes(x: Any, depthwise_filter: Any, pointwise_filter: Any, expand_filter: Any = None) -> list[list[int] | None]:
    """The shapes of `plan` and `traffic`, as lists of integers."""
    given = {
        "x_shape": x,
        "depthwise_filter_shape": depthwise_filter,
        "pointwise_filter_shape": pointwise_filter,
        "expand_filter_shape": expand_filter,
    }
    shapes: list[list[int] | None] = []
    for argument, shape in given.items():
        if shape is None and argument in ("pointwise_filter_shape", "expand_filter_shape"):
            shapes.append(None)
            continue
        try:
            shapes.append([size.__index__() for size in shape])
        except (AttributeError, TypeError):
            raise TypeError(f"`{argument}` must be a sequence of integers; given {shape!r}.") from None
        if not all(0 <= size < 2**63 for size in shapes[-1]):
            raise ValueError(f"`{argument}` must hold sizes from 0 to 2**63 - 1; given {shape!r}.")
    return shapes
