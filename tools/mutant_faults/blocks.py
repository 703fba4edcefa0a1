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
        "cc/plan/expand_plan.cc",
        "(last - 1) * p.stride_h - p.pad_top + (p.R - 1) * p.dilation_h + 1",
        "(last - 1) * p.stride_h - p.pad_top + (p.R - 1) * p.dilation_h",
        _WAYS,
    ),
    Fault(
        "one row of the expansion too few above",
        "cc/plan/expand_plan.cc",
        "first * p.stride_h - p.pad_top",
        "first * p.stride_h - p.pad_top + (first > 0)",
        _WAYS,
    ),
    Fault(
        "rows kept for a strip are old ones",
        "cc/cpu/block.cc",
        "(begin - w->begin) * a_row",
        "(begin > w->begin ? begin - w->begin - 1 : 0) * a_row",
        ("block/test_block_ways.py",),
    ),
    Fault(
        "rows kept for a strip are another image's",
        "cc/cpu/block.cc",
        "w->n == n",
        "true",
        ("block/test_block_ways.py",),
        at="if (w->n == n && w->begin <= begin",
    ),
    Fault(
        "a strip that begins anew lacks its last row",
        "cc/cpu/block.cc",
        "Expand(n, have, end, c, channels, w->x, w->a + (have - begin) * a_row);",
        "Expand(n, have, end - (first > 0 && have == begin), c, channels, w->x, w->a + (have - begin) * a_row);",
        ("block/test_block_ways.py",),
    ),
    Fault(
        "a strip's padding is the image's",
        "cc/cpu/block.cc",
        "p_.pad_top + begin - first * p_.stride_h",
        "p_.pad_top",
        ("block/test_block_ways.py",),
    ),
    Fault(
        "an expanded block's factors are the first image's",
        "cc/cpu/block.cc",
        "scale_ + n * scale_stride_",
        "scale_",
        _BLOCK,
    ),
    Fault(
        "the last channel of a block's last share",
        "cc/cpu/block.cc",
        "std::min(p_.K, (share + 1) * step)",
        "std::min(p_.K - (share > 0), (share + 1) * step)",
        ("block/test_block_ways.py",),
    ),
    Fault(
        "the filters of the first piece of channels",
        "cc/cpu/block.cc",
        "c * p_.R * p_.S",
        "0 * p_.R * p_.S",
        ("block/test_block_ways.py",),
    ),
    Fault(
        "factors in TensorFlow's order of channels",
        "cc/cpu/block.cc",
        "scale[n * p.CM() + c * p.M + m]",
        "scale[n * p.CM() + m * p.C + c]",
        _BLOCK,
    ),
    Fault(
        "the pixels left over of a scale are the first",
        "cc/cpu/block.cc",
        "static_cast<const char*>(buffers.input) + (pixels - rest) * pixel",
        "static_cast<const char*>(buffers.input)",
        ("block/test_block_kernel.py", "op/test_rounding.py"),
    ),
    Fault(
        "the pointwise filter's rows in TensorFlow's order",
        "cc/cpu/packed_filters.cc",
        "m * p.C + c",
        "c * p.M + m",
        _LAYER,
        at="PanelRow(P + (c * p.M + m) * p.K + k, n, m * p.C + c, tile_channels, panel);",
    ),
    Fault(
        "the depthwise bias of sub-filters in another order",
        "cc/cpu/packed_filters.cc",
        "depthwise_bias[c * p.M + m]",
        "depthwise_bias[m * p.C + c]",
        _LAYER,
    ),
    Fault(
        "filters packed for one stride serve another",
        "cc/cpu/packed_filters.cc",
        "PackedPixels(repeats ? Repeated(p) : p, kernels.vector_floats),",
        "0,",
        _CACHE,
    ),
    Fault(
        "the cache takes one dtype for another",
        "cc/cpu/packed_filters.cc",
        "static_cast<int64_t>(p.dtype)",
        "int64_t{0}",
        _CACHE,
    ),
    Fault(
        "the cache takes a block with a leading convolution for one without",
        "cc/cpu/block.cc",
        "key.lead = PackKeyOf(LeadProblem(block), isa).main",
        "key.lead = PackKey().main",
        _CACHE,
        same="8 * (block.E > 0) in the key's stages tells them apart, and E follows from the filters' contents",
    ),
    Fault(
        "the cache does not know pixels together",
        "cc/cpu/block.cc",
        "PackKey key = together > 1 ?",
        "PackKey key = false ?",
        ("block/test_block_kernel.py::test_one_filter_for_pixels_together_and_one_by_one",),
    ),
    Fault(
        "the cache does not ask for the kernels of an activation",
        "cc/cpu/packed_filters.cc",
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
