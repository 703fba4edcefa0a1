"""Of blocks, and of packed filters and their cache."""

from mutant_faults._fault import Fault

_LAYER = ("native/test_native.py::test_agrees_with_float64",)
_BLOCK = ("block/test_block_kernel.py", "block/test_conv_block.py")
_WAYS = ("block/test_block_ways.py", "block/test_block_kernel.py")
_CACHE = (
    "op/test_filter_keys.py",
    "op/test_filter_cache.py",
    "op/test_filter_cache_kept.py",
    "block/test_block_kernel.py",
)

FAULTS = (
    Fault(
        "one row of the expansion too few below",
        "cc/plan/plan.cc",
        "(last - 1) * c.stride_h - c.pad_top + (c.R - 1) * c.dilation_h + 1",
        "(last - 1) * c.stride_h - c.pad_top + (c.R - 1) * c.dilation_h",
        _WAYS,
    ),
    Fault(
        "one row of the expansion too few above",
        "cc/plan/plan.cc",
        "first * c.stride_h - c.pad_top",
        "first * c.stride_h - c.pad_top + (first > 0)",
        _WAYS,
    ),
    Fault(
        "rows kept for a strip are old ones",
        "cc/cpu/run/expanded.cc",
        "(begin - w->begin) * a_row",
        "(begin > w->begin ? begin - w->begin - 1 : 0) * a_row",
        ("block/test_block_ways.py",),
    ),
    Fault(
        "rows kept for a strip are another image's",
        "cc/cpu/run/expanded.cc",
        "w->n == n",
        "true",
        ("block/test_block_ways.py",),
        at="if (w->n == n && w->begin <= begin",
    ),
    Fault(
        "a strip that begins anew lacks its last row",
        "cc/cpu/run/expanded.cc",
        "Expand(n, have, end, c, channels, w->x, w->a + (have - begin) * a_row);",
        "Expand(n, have, end - (first > 0 && have == begin), c, channels, w->x, w->a + (have - begin) * a_row);",
        ("block/test_block_ways.py",),
    ),
    Fault(
        "a strip's padding is the image's",
        "cc/cpu/run/expanded.cc",
        "chain_.pad_top + begin - first * chain_.stride_h",
        "chain_.pad_top",
        ("block/test_block_ways.py",),
    ),
    Fault(
        "an expanded block's factors are the first image's",
        "cc/cpu/run/call.h",
        "gate_ + n * gate_stride_",
        "gate_",
        _BLOCK,
    ),
    Fault(
        "the last channel of a block's last share",
        "cc/cpu/run/expanded.cc",
        "std::min(chain_.K, (share + 1) * step)",
        "std::min(chain_.K - (share > 0), (share + 1) * step)",
        ("block/test_block_ways.py",),
    ),
    Fault(
        "the filters of the first piece of channels",
        "cc/cpu/run/expanded.cc",
        "c * chain_.R * chain_.S",
        "0 * chain_.R * chain_.S",
        ("block/test_block_ways.py",),
    ),
    Fault(
        "factors in TensorFlow's order of channels",
        "cc/cpu/run/executor.cc",
        "gate[j * c.M + m]",
        "gate[m * c.C + j]",
        _BLOCK,
    ),
    Fault(
        "the pixels left over of a scale are the first",
        "cc/cpu/run/forward.cc",
        "static_cast<const char*>(from) + done",
        "static_cast<const char*>(from)",
        ("block/test_block_kernel.py", "op/test_rounding.py"),
    ),
    Fault(
        "the pointwise filter's rows in TensorFlow's order",
        "cc/cpu/pack.cc",
        "m * C + c",
        "c * M + m",
        _LAYER,
        at="PanelRow(P + (c * M + m) * K + k, n, m * C + c, tile_channels, panel);",
    ),
    Fault(
        "the depthwise bias of sub-filters in another order",
        "cc/cpu/pack.cc",
        "bias[i % C * c.M + m]",
        "bias[m * C + i % C]",
        _LAYER,
    ),
    Fault(
        "filters packed for one stride serve another",
        "cc/cpu/pack.cc",
        "PackedPixels(repeats ? Repeated(chain) : chain, kernels.vector_floats)",
        "0",
        _CACHE,
    ),
    Fault(
        "the cache takes one dtype for another",
        "cc/cpu/pack.cc",
        "static_cast<int64_t>(chain.dtype)",
        "int64_t{0}",
        _CACHE,
    ),
    Fault(
        "the cache takes a block with a leading convolution for one without",
        "cc/cpu/pack.cc",
        "chain.E",
        "0 * chain.E",
        _CACHE,
        at="return {chain.E,",
        same="E follows from the contents of the filters, and a chain without an expansion has fewer",
    ),
    Fault(
        "the cache does not know pixels together",
        "cc/cpu/pack.cc",
        "PixelsTogether(chain)",
        "1",
        ("block/test_block_kernel.py::test_one_filter_for_pixels_together_and_one_by_one",),
        at="PixelsTogether(chain),",
    ),
    Fault(
        "the cache does not ask for the kernels of an activation",
        "cc/cpu/pack.cc",
        "static_cast<int64_t>(reinterpret_cast<intptr_t>(&kernels))",
        "int64_t{0}",
        _CACHE,
        isa="avx512bf16",
    ),
    Fault(
        "the cache trusts the address of what others write",
        "cc/tf/filter_cache.cc",
        "!stable || IsForeign(*filters[i])",
        "false",
        ("op/test_filter_cache.py",),
    ),
    Fault(
        "the cache forgets what foreign filters held",
        "cc/tf/filter_cache.cc",
        "found->second.foreign_hash != lookup.foreign_hash",
        "false",
        ("op/test_filter_cache.py",),
    ),
)
