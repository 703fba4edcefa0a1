"""The faults that mutants.py plants, and the tests that should notice each.

Texts are those of the sources to the letter; where one is no longer there, --check fails, and a test with it. Good and
bad texts of C++ are two expressions of one type, or two statements that declare nothing: one of them is chosen when the
program runs.
"""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """One fault.

    name: what is wrong with it. file: from the root. good, bad: the text, and what takes its place. tests: files of
    python_tests/, or tests in them. at: the text around `good` that is in the file once; "" where `good` is. same: why
    it changes nothing that a test could see; "" where it does. isa: the instruction set that it needs, one of those of
    `native.cpu_info()` or avx512bf16; "" for none.
    """

    name: str
    file: str
    good: str
    bad: str
    tests: tuple[str, ...]
    at: str = ""
    same: str = ""
    isa: str = ""


_LAYER = ("test_native.py",)
_BLOCK = ("test_conv_block.py", "test_block_kernel.py", "test_block_ways.py")
_WAYS = ("test_block_ways.py", "test_block_kernel.py")
_FORWARD_WAYS = ("test_forward_ways.py",)
_ROUNDING = ("test_rounding.py",)
_CACHE = ("test_filter_cache.py", "test_filter_cache_kept.py", "test_block_kernel.py", "test_filter_keys.py")
_PLANNER = ("test_planner.py",)
_BACKWARD = ("test_backward.py", "test_gradients.py")
_CONVERT = ("test_convert.py", "test_convert_graphs.py", "test_convert_folding.py")

_KERNELS = (
    Fault(
        "residual after the activation, tail",
        "cc/cpu/pointwise_body.h",
        "if (residual) value = value + LoadN(residual + at, n);\n        StoreN(y + at, Apply(value, end.clamp), n);",
        "value = Apply(value, end.clamp);\n        if (residual) value = value + LoadN(residual + at, n);\n"
        "        StoreN(y + at, value, n);",
        _LAYER,
    ),
    Fault(
        "residual after the activation, whole vectors",
        "cc/cpu/pointwise_body.h",
        "if (residual) value = value + Load(residual + at);\n        value = Apply(value, end.clamp);",
        "value = Apply(value, end.clamp);\n        if (residual) value = value + Load(residual + at);",
        _LAYER,
    ),
    Fault(
        "no activation in the last row of a tile",
        "cc/cpu/pointwise_body.h",
        "rows * kTileChannels",
        "(rows - 1) * kTileChannels",
        _LAYER,
        at="ActivateRow(sums, rows * kTileChannels, a.activation);",
    ),
    Fault(
        "a tile's panel of the channels before",
        "cc/cpu/pointwise_body.h",
        "k * CeilDiv(a.cm, kPair) * kPair",
        "(k > 0 ? k - kTileChannels : k) * CeilDiv(a.cm, kPair) * kPair",
        _LAYER,
    ),
    Fault(
        "the first tap inside, rounded down",
        "cc/cpu/depthwise_body.h",
        "CeilDiv(-start, dilation)",
        "-start / dilation",
        _LAYER,
    ),
    Fault(
        "pixels at the left edge taken for inner ones",
        "cc/cpu/depthwise_body.h",
        "CeilDiv(p.pad_left, p.stride_w)",
        "p.pad_left / p.stride_w",
        _LAYER,
    ),
    Fault(
        "one inner pixel less at the right",
        "cc/cpu/depthwise_body.h",
        "room / p.stride_w + 1",
        "room / p.stride_w",
        _LAYER,
        same="the loop of pixels at the edge gives the same bits, only slower",
    ),
    Fault(
        "edge columns one row too far down",
        "cc/cpu/depthwise_body.h",
        "room / p.stride_h + 1",
        "room / p.stride_h + 2",
        _LAYER,
    ),
    Fault(
        "all sub-filters are the first",
        "cc/cpu/depthwise_body.h",
        "a.filter + m * a.channel_stride * row.taps",
        "a.filter",
        _LAYER,
    ),
    Fault(
        "the depthwise bias of the first channels in the tail",
        "cc/cpu/depthwise_interior_body.h",
        "row.bias + c",
        "row.bias",
        _LAYER,
        at="InteriorChannels<T, Z, kS, kStride, kPixels, true>(row, x + c, c_end - c, filter, row.bias + c, z + c);",
    ),
    Fault(
        "filters of edge pixels begin at the first column",
        "cc/cpu/depthwise_interior_body.h",
        "(r * row.S + s0) * kV",
        "r * row.S * kV",
        _LAYER,
    ),
    Fault(
        "a dense window past the bottom",
        "cc/cpu/rows_body.h",
        "h + last_line < p.H",
        "h + last_line <= p.H",
        _BLOCK,
        at="inside && h >= 0 && h + last_line < p.H;",
    ),
    Fault(
        "dense windows without their dilation",
        "cc/cpu/rows_body.h",
        "w + s * p.dilation_w",
        "w + s",
        _BLOCK,
    ),
    Fault(
        "the copy's residual of the next pixel",
        "cc/cpu/rows_body.h",
        "if (residual != nullptr) residual += a.cm;",
        "if (residual != nullptr) residual += a.z_stride;",
        _BLOCK,
    ),
    Fault("norm without epsilon", "cc/cpu/rows_body.h", "variance + epsilon", "variance", _BLOCK),
    Fault(
        "norm over the lanes past the last channel",
        "cc/cpu/rows_body.h",
        "SumLanes(term(LoadN(z + c, n - c)), n - c)",
        "SumLanes(term(LoadN(z + c, n - c)), kV)",
        _BLOCK,
    ),
    Fault(
        "the first channels' factors in the tail",
        "cc/cpu/rows_body.h",
        "LoadN(factors + whole, rest)",
        "LoadN(factors, rest)",
        _BLOCK,
    ),
    Fault(
        "the first image's factors for all",
        "cc/cpu/fused.cc",
        "stages_.scale + n * stages_.scale_stride",
        "stages_.scale",
        _BLOCK,
    ),
    Fault(
        "the last channel of a layer's last share",
        "cc/cpu/fused.cc",
        "std::min(problem_.K, args.k_begin + plan_.block_channels)",
        "std::min(problem_.K - (args.k_begin > 0), args.k_begin + plan_.block_channels)",
        (*_FORWARD_WAYS, *_LAYER),
    ),
    Fault(
        "nothing is fetched ahead",
        "cc/cpu/fused.cc",
        "args.ahead_bytes = end - begin;",
        "args.ahead_bytes = 0;",
        _LAYER,
        same="what is fetched ahead is only there sooner",
    ),
    Fault(
        "stores around the caches off their alignment",
        "cc/cpu/fused.cc",
        "OnCacheLines(buffers.output)",
        "true",
        _FORWARD_WAYS,
        at="problem.K * item_ % 64 == 0 && OnCacheLines(buffers.output)",
        isa="avx2",
    ),
    Fault(
        "stores around the caches of odd rows",
        "cc/cpu/fused.cc",
        "problem.K * item_ % 64 == 0",
        "true",
        _FORWARD_WAYS,
        isa="avx2",
    ),
    Fault(
        "each group of images is the first",
        "cc/cpu/fused.cc",
        "static_cast<const char*>(buffers.input) + n * x_bytes",
        "static_cast<const char*>(buffers.input)",
        _FORWARD_WAYS,
    ),
    Fault(
        "each group's residual is the first",
        "cc/cpu/fused.cc",
        "static_cast<const char*>(buffers.residual) + n * y_bytes",
        "static_cast<const char*>(buffers.residual)",
        _FORWARD_WAYS,
    ),
    Fault(
        "each group's factors are the first",
        "cc/cpu/fused.cc",
        "run(inner, n, inside)",
        "run(inner, 0, inside)",
        _FORWARD_WAYS,
    ),
)

_BLOCKS = (
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
        ("test_block_ways.py",),
    ),
    Fault(
        "rows kept for a strip are another image's",
        "cc/cpu/block.cc",
        "w->n == n",
        "true",
        ("test_block_ways.py",),
        at="if (w->n == n && w->begin <= begin",
    ),
    Fault(
        "a strip that begins anew lacks its last row",
        "cc/cpu/block.cc",
        "Expand(n, have, end, c, channels, w->x, w->a + (have - begin) * a_row);",
        "Expand(n, have, end - (first > 0 && have == begin), c, channels, w->x, w->a + (have - begin) * a_row);",
        ("test_block_ways.py",),
    ),
    Fault(
        "a strip's padding is the image's",
        "cc/cpu/block.cc",
        "p_.pad_top + begin - first * p_.stride_h",
        "p_.pad_top",
        ("test_block_ways.py",),
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
        ("test_block_ways.py",),
    ),
    Fault(
        "the filters of the first piece of channels",
        "cc/cpu/block.cc",
        "c * p_.R * p_.S",
        "0 * p_.R * p_.S",
        ("test_block_ways.py",),
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
        ("test_block_kernel.py", "test_rounding.py"),
    ),
)

_FILTERS = (
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
        "PackedPixels(p, kernels_->vector_floats) == packed_pixels_",
        "true",
        _CACHE,
    ),
    Fault(
        "the cache takes one dtype for another",
        "cc/tf/filter_cache.cc",
        "static_cast<int64_t>(p.dtype)",
        "int64_t{0}",
        _CACHE,
    ),
    Fault(
        "the cache takes a block of one stride for another",
        "cc/tf/filter_cache.cc",
        "block.main.stride_w == 1",
        "true",
        _CACHE,
    ),
    Fault(
        "the cache does not know pixels together",
        "cc/tf/filter_cache.cc",
        "PixelsTogether(block) > 1",
        "false",
        _CACHE,
    ),
    Fault(
        "the cache does not ask for the kernels of an activation",
        "cc/tf/filter_cache.cc",
        "block.main.float_between || !IsClamp(block.main.mid.kind)",
        "false",
        _CACHE,
        isa="avx512bf16",
    ),
    Fault(
        "the cache trusts the address of what others write",
        "cc/tf/filter_cache.cc",
        "!stable || IsForeign(*filters[i])",
        "false",
        _CACHE,
    ),
    Fault(
        "the cache forgets what foreign filters held",
        "cc/tf/filter_cache.cc",
        "found->second.foreign_hash != lookup.foreign_hash",
        "false",
        _CACHE,
    ),
)

_PLANS = (
    Fault(
        "small problems on all threads",
        "cc/plan/planner.cc",
        "flops / kFlopsPerThread",
        "static_cast<double>(machine.threads)",
        _PLANNER,
        at="std::clamp<double>(flops / kFlopsPerThread, 1.0, machine.threads)",
    ),
    Fault(
        "blocks larger than their scratch",
        "cc/plan/planner.cc",
        "(plan.scratch_bytes > most || plan.scratch_bytes + rows_bytes > room)",
        "(plan.scratch_bytes < 0 || rows_bytes < 0)",
        _PLANNER,
    ),
    Fault(
        "output channels never shared",
        "cc/plan/planner.cc",
        "std::min<int64_t>(panels, threads)",
        "std::min<int64_t>(1, threads)",
        _PLANNER,
    ),
    Fault(
        "never around the caches",
        "cc/plan/planner.cc",
        "kShareOfL3 * static_cast<double>(machine.l3_bytes)",
        "1e300",
        _PLANNER,
    ),
    Fault(
        "tuned plans are for any height",
        "cc/plan/plan_key.h",
        "p.H",
        "int64_t{0}",
        ("test_tune_plans.py", "test_tune_file.py"),
        at="          p.H,\n",
    ),
)

_GRADIENTS = (
    Fault(
        "the last image of a chunk is left out",
        "cc/cpu/backward_task.cc",
        "n < (chunk + 1) * p.N / plan.chunks",
        "n < (chunk + 1) * p.N / plan.chunks - (chunk > 0)",
        _BACKWARD,
    ),
    Fault(
        "no rows of dZ above a piece",
        "cc/cpu/backward_task.cc",
        "std::max<int64_t>(0, begin - plan_.history)",
        "begin",
        _BACKWARD,
    ),
    Fault(
        "one row too few of dZ kept",
        "cc/cpu/backward_task.cc",
        "dz_ + rows * dz_row_",
        "dz_ + (rows - 1) * dz_row_",
        _BACKWARD,
    ),
    Fault(
        "the bias's gradient for each block of channels",
        "cc/cpu/backward_task.cc",
        "block_ == 0",
        "block_ > 0",
        _BACKWARD,
    ),
    Fault(
        "the mask between the halves by its result",
        "cc/cpu/backward_task.cc",
        "DerivativeFromInput(p_.mid)",
        "false",
        _BACKWARD,
    ),
    Fault(
        "a phase of rows without its last",
        "cc/cpu/backward_task.cc",
        "(stop - h + p_.stride_h - 1) / p_.stride_h",
        "(stop - h) / p_.stride_h",
        _BACKWARD,
    ),
    Fault(
        "taps that lie outside are multiplied",
        "cc/cpu/backward_filters.cc",
        "used && c < g.channels",
        "c < g.channels",
        _BACKWARD,
    ),
    Fault(
        "a bias's gradient without the last chunk",
        "cc/cpu/backward_filters.cc",
        "chunk < plan.chunks",
        "chunk < plan.chunks - 1",
        _BACKWARD,
        at="chunk < plan.chunks; ++chunk) sum += from[chunk * chunk_floats];",
    ),
    Fault(
        "the filter's sums begin anew in each block of rows",
        "cc/cpu/products_body.h",
        "a.first && r == 0",
        "r == 0",
        _BACKWARD,
    ),
    Fault(
        "the residual's mask where a run of it began",
        "cc/cpu/backward.cc",
        "begin * SizeOf(job.at_dtype)",
        "begin * SizeOf(p.dtype)",
        (*_FORWARD_WAYS, *_BACKWARD),
    ),
    Fault(
        "each group of images of a gradient has the first residual",
        "cc/cpu/backward.cc",
        "to_floats(b.residual, n * y_floats,",
        "to_floats(b.residual, 0 * y_floats,",
        (*_FORWARD_WAYS, *_BACKWARD),
        at="copies ? to_floats(b.residual, n * y_floats, linear.N * y_floats, residual.data())",
    ),
    Fault(
        "a kink of relu the other way",
        "cc/cpu/derivative_body.h",
        "return at > zero ? grad : zero;",
        "return at >= zero ? grad : zero;",
        _BACKWARD,
    ),
    Fault(
        "a column's last pixels are not summed",
        "cc/cpu/taps_body.h",
        "i + 4 <= a.pixels",
        "i + 3 <= a.pixels",
        _BACKWARD,
    ),
)

_TYPES = (
    Fault("bfloat16 away from even", "cc/core/half.h", "((u >> 16) & 1u)", "1u", _ROUNDING),
    Fault("float16 away from even", "cc/core/half.h", "((u >> 13) & 1u)", "1u", _ROUNDING),
    Fault(
        "float16 rounds to infinity too late",
        "cc/core/half.h",
        "u >= 0x477ff000u",
        "u >= 0x47800000u",
        _ROUNDING,
        same="the sum of the rounding below carries into infinity just so",
    ),
    Fault(
        "bfloat16 away from even, AVX2",
        "cc/cpu/vec_avx2.h",
        "_mm256_and_si256(high, _mm256_set1_epi32(1))",
        "_mm256_set1_epi32(1)",
        _ROUNDING,
        isa="avx2",
    ),
    Fault(
        "float16 towards zero, AVX2",
        "cc/cpu/vec_avx2.h",
        "return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);",
        "return _mm256_cvtps_ph(v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);",
        _ROUNDING,
        isa="avx2",
    ),
    Fault(
        "bfloat16 away from even, AVX-512",
        "cc/cpu/vec_avx512.h",
        "_mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1))",
        "_mm512_set1_epi32(1)",
        _ROUNDING,
        isa="avx512",
    ),
)

_CHECKS = (
    Fault(
        "an odd pad in front",
        "cc/core/make_problem.cc",
        "std::max<int64_t>(covered - in, 0) / 2",
        "(std::max<int64_t>(covered - in, 0) + 1) / 2",
        _LAYER,
    ),
    Fault(
        "a residual of any shape",
        "cc/core/make_problem.cc",
        "request.residual != OutputShape(p)",
        "request.residual.empty()",
        ("test_bad_input.py", "test_native_errors.py"),
    ),
    Fault(
        "negative pads",
        "cc/core/make_problem.cc",
        "pads[i] < 0",
        "pads[i] < -1000",
        ("test_bad_input.py", "test_native_errors.py", "test_block_shapes.py"),
    ),
    Fault(
        "a shape that needs no filter is unknown",
        "cc/tf/dws_conv_op.cc",
        "(!same && !c->ValueKnown(kernel))",
        "!c->ValueKnown(kernel)",
        ("test_shape_function.py",),
    ),
    Fault(
        "pads of channels-first blocks of unknown batch",
        "cc/tf/conv_block_op.cc",
        "(nhwc ? 2 : 4) + 2 * axis",
        "2 + 2 * axis",
        ("test_block_shapes.py",),
    ),
    Fault(
        "a multiplier that an unknown shape forgets",
        "cc/tf/conv_block_op.cc",
        "c->Multiply(channels, c->Dim(filter, 3), &channels).ok()",
        "true",
        ("test_block_shapes.py",),
    ),
    Fault(
        "a gate of another batch",
        "cc/core/make_block.cc",
        "request.scale != std::vector<int64_t>{b.main.N, b.main.CM()}",
        "request.scale.size() != 2",
        ("test_conv_block.py", "test_block_shapes.py"),
    ),
)

_PYTHON = (
    Fault(
        "the fallback's norm without epsilon",
        "tf_dwsconv/conv_block.py",
        "variance + tf.constant(attributes.epsilon, z.dtype)",
        "variance",
        ("test_conv_block.py",),
    ),
    Fault(
        "the fallback adds the residual last",
        "tf_dwsconv/stock.py",
        "y = activate(y, attributes.activation)\n    y = tf.cast(from_nhwc(y, attributes), dtype)",
        "y = activate(y, attributes.activation) if residual is None else y\n"
        "    y = tf.cast(from_nhwc(y, attributes), dtype)",
        ("test_op.py", "test_gradients.py"),
    ),
    Fault(
        "the op is called inside XLA",
        "tf_dwsconv/ops.py",
        "op is not None and stock.in_xla()",
        "False",
        ("test_op.py", "test_layer.py"),
    ),
    Fault(
        "DWSCONV_DISABLE=0 disables",
        "tf_dwsconv/_library.py",
        'os.environ.get("DWSCONV_DISABLE", "") not in ("", "0")',
        'os.environ.get("DWSCONV_DISABLE", "") != ""',
        ("test_package.py", "test_op.py"),
    ),
    Fault(
        "a warning at each call",
        "tf_dwsconv/_library.py",
        "_warned.add(key)",
        "pass",
        ("test_package.py", "test_op.py", "test_layer.py"),
    ),
    Fault(
        "a library of any TensorFlow is loaded",
        "tf_dwsconv/_library.py",
        "_minor(built_for) != _minor(tf.version.VERSION)",
        "False",
        ("test_package.py",),
    ),
    Fault(
        "a library that is there twice is loaded",
        "tf_dwsconv/_library.py",
        "op_def_registry.get(OP_NAME) is not None",
        "False",
        ("test_package.py",),
    ),
    Fault(
        "a gradient without the residual that it needs",
        "tf_dwsconv/gradients.py",
        "(residual,) if from_input and residual is not None else ()",
        "()",
        ("test_backward.py", "test_gradients.py"),
    ),
    Fault(
        "a result is kept that no gradient reads",
        "tf_dwsconv/gradients.py",
        'from_input or last.word == "none"',
        "from_input",
        ("test_backward.py",),
        at='output=() if from_input or last.word == "none" else (y,)',
    ),
    Fault(
        "derivatives of derivatives by the wrong slope",
        "tf_dwsconv/gradients.py",
        "alpha=activation.alpha",
        "alpha=0.2",
        ("test_gradients.py",),
    ),
    Fault(
        "a batch norm without epsilon",
        "tf_dwsconv/convert/_read.py",
        "np.sqrt(array(layer.moving_variance) + layer.epsilon)",
        "np.sqrt(array(layer.moving_variance))",
        _CONVERT,
    ),
    Fault(
        "an offset scaled with what it is added to",
        "tf_dwsconv/convert/_read.py",
        "self.bias = bias * scale + shift",
        "self.bias = (bias + shift) * scale",
        _CONVERT,
    ),
    Fault(
        "the offset in front of a 1x1 by the scaled filter",
        "tf_dwsconv/convert/_read.py",
        "self.bias = bias + shift @ self.kernel.reshape(self.kernel.shape[-2:])\n"
        "        self.kernel = self.kernel * scale[:, None]",
        "self.kernel = self.kernel * scale[:, None]\n"
        "        self.bias = bias + shift @ self.kernel.reshape(self.kernel.shape[-2:])",
        _CONVERT,
    ),
    Fault(
        "a gate behind an offset",
        "tf_dwsconv/convert/_match.py",
        "not np.any(shift)",
        "True",
        _CONVERT,
    ),
    Fault(
        "offsets of two in a row",
        "tf_dwsconv/convert/_match.py",
        "scale * change[0], shift * change[0] + change[1], True",
        "scale * change[0], shift + change[1], True",
        _CONVERT,
    ),
    Fault(
        "a front norm that others read",
        "tf_dwsconv/convert/_match.py",
        " or self.graph.reader(block.x) is not node",
        "",
        _CONVERT,
    ),
    Fault(
        "an odd pad behind",
        "tf_dwsconv/convert/_match.py",
        "tuple(int(number) for number in pair)",
        "tuple(int(number) for number in pair[::-1])",
        _CONVERT,
    ),
    Fault(
        "a layer that two call is fused",
        "tf_dwsconv/convert/_match.py",
        "id(node) in self._claimed or self.graph.shared(node)",
        "id(node) in self._claimed",
        _CONVERT,
    ),
    Fault(
        "a residual that is spread",
        "tf_dwsconv/convert/_match.py",
        "tuple(other.shape) != tuple(block.out.shape)",
        "len(other.shape) != 4",
        _CONVERT,
    ),
    Fault(
        "to_builtin: the activation before the residual",
        "tf_dwsconv/convert/_builtin.py",
        'Fused("none") if layer.residual else last',
        "last",
        ("test_to_builtin.py", "test_convert_random.py"),
    ),
    Fault(
        "to_builtin: a dense window without its dilation",
        "tf_dwsconv/convert/_builtin.py",
        'window["dilation_rate"] = layer.dilation_rate',
        "pass",
        ("test_to_builtin.py", "test_convert_random.py"),
    ),
    Fault(
        "training: a frozen half is trained",
        "tf_dwsconv/convert/_train.py",
        "and other.trainable == layer.trainable",
        "",
        ("test_convert_training.py",),
    ),
    Fault(
        "copied weights forget what is not trained",
        "tf_dwsconv/convert/_rebuild.py",
        "target.trainable = source.trainable",
        "pass",
        ("test_convert_graphs.py", "test_convert_training.py", "test_to_builtin.py"),
    ),
    Fault(
        "a plan that wins no more stays",
        "tf_dwsconv/tune/__init__.py",
        "forget=[_cache.subject(result.line)]",
        "forget=[]",
        ("test_tune.py",),
    ),
    Fault(
        "a tuner loses what another wrote",
        "tf_dwsconv/tune/_cache.py",
        "plans = {subject(line): line for line in read(path)}",
        "plans = {}",
        ("test_tune.py", "test_tune_file.py"),
    ),
    Fault(
        "shapes: the end of SAME rounded down",
        "tf_dwsconv/_shapes.py",
        "-(-size // stride)",
        "size // stride",
        ("test_op.py", "test_layer.py"),
    ),
    Fault(
        "a slope that a saved op forgets",
        "tf_dwsconv/symbolic.py",
        'list(activation) if activation.word == "leaky_relu" else activation.word',
        "activation.word",
        ("test_op.py", "test_layer.py", "test_models.py"),
    ),
)

FAULTS: tuple[Fault, ...] = (
    *_KERNELS,
    *_BLOCKS,
    *_FILTERS,
    *_PLANS,
    *_GRADIENTS,
    *_TYPES,
    *_CHECKS,
    *_PYTHON,
)
