"""Of programs: their memory, their parts, the kernels of their steps."""

from mutant_faults._fault import Fault

_NATIVE = ("network/test_network_native.py",)
_SCALES = ("network/test_network_scales.py",)
_MEANS = ("network/test_network_means.py",)
_TURNS = ("network/test_network_turns.py",)
_MOVES = ("network/test_network_moves.py",)
_PARTS = ("network/test_network_parts.py",)

FAULTS = (
    Fault(
        "a result in the place of what is read later",
        "cc/plan/program_plan.cc",
        "last_[Index(of(read))] == static_cast<int64_t>(i)",
        "true",
        _NATIVE,
    ),
    Fault(
        "the next four panels' channels of the first",
        "cc/cpu/kernels/pointwise_body.h",
        "p * step + c * kTileChannels",
        "c * kTileChannels",
        _NATIVE,
    ),
    Fault(
        "a window's padding counts in the mean",
        "cc/cpu/run/program_ops.cc",
        "args.count = args.rows * args.columns;",
        "args.count = (args.rows + 1) * args.columns;",
        _NATIVE,
    ),
    Fault(
        "a norm without its epsilon",
        "cc/cpu/kernels/steps_body.h",
        "variance + a.epsilon",
        "variance",
        _NATIVE,
    ),
    Fault(
        "pixels of a resize by their corners",
        "cc/cpu/run/program_ops.cc",
        "(nearest ? 0.0f : 0.5f)",
        "0.0f",
        _NATIVE,
    ),
    Fault(
        "zeros around a picture that is not scaled yet",
        "cc/cpu/run/scaled_filter.cc",
        "-t / s",
        "0.0f",
        _SCALES,
    ),
    Fault(
        "a bias of the filter before it is rounded",
        "cc/cpu/run/scaled_filter.cc",
        "ToFloat(f) * (t / s)",
        "ToFloat(filter[row * K + k]) * t",
        _SCALES,
    ),
    Fault(
        "a scale that others read too",
        "cc/plan/program_scales.cc",
        "reads[static_cast<size_t>(at.xs[0])] == 1",
        "true",
        _SCALES,
    ),
    Fault(
        "any shift of a picture",
        "cc/cpu/run/scaled_filter.cc",
        "!(std::abs(t) <= kLargestShift)",
        "false",
        _SCALES,
    ),
    Fault(
        "an output that is another step's, too",
        "tf_dwsconv/convert/network/_tidy.py",
        "key in first and step.output not in outputs",
        "key in first",
        ("convert/test_convert_fuse.py",),
    ),
    Fault(
        "pixels of a pool one behind the other, whatever its strides",
        "cc/cpu/kernels/steps_body.h",
        "a.stride * a.pixel_step",
        "a.pixel_step",
        ("network/test_network_pools.py",),
        at="{a.stride * a.pixel_step, a.to_step, 0}",
    ),
    Fault(
        "a mean of sums of rows is by their number",
        "cc/cpu/run/program_ops.cc",
        "args.count = k.H * k.W;",
        "args.count = k.H;",
        _MEANS,
    ),
    Fault(
        "sums of rows of the first channels for all",
        "cc/cpu/run/program_ops.cc",
        "(at * k.Wo * args.pixel_step + c) * call.item()",
        "at * k.Wo * args.pixel_step * call.item()",
        _MEANS,
    ),
    Fault(
        "a copy tells of the channels that a product's plan has",
        "cc/cpu/run/blocks.cc",
        "if (!chain_.has_project) part.k_end = chain_.K;",
        "if (chain_.has_project) part.k_end = chain_.K;",
        _MEANS,
    ),
    Fault(
        "a crop that begins with the first row",
        "cc/cpu/run/program_moves.cc",
        "rest % to[a] + cuts[2 * a]",
        "rest % to[a]",
        _TURNS,
    ),
    Fault(
        "blocks whose columns are all there",
        "cc/cpu/run/program_moves.cc",
        "left % block[1]",
        "0",
        _TURNS,
    ),
    Fault(
        "axes that go on where they do not",
        "cc/cpu/run/program_moves.cc",
        "x_steps.back() == steps[a] * x[a]",
        "x_steps.back() >= steps[a] * x[a]",
        _TURNS,
    ),
    Fault(
        "factors of channels, pixel by pixel",
        "tf_dwsconv/convert/network/_tidy.py",
        "np.tile(value.reshape(-1), pixels)",
        "np.repeat(value.reshape(-1), pixels)",
        _MOVES,
    ),
    Fault(
        "a transposed convolution's taps in their own order",
        "tf_dwsconv/convert/network/_transposed.py",
        "[::-1, :, ::-1]",
        "[:, :, :]",
        _MOVES,
    ),
    Fault(
        "a result in the place of a part of something larger",
        "cc/plan/program_plan.cc",
        "parts_[Index(read)].of < 0",
        "true",
        _PARTS,
    ),
    Fault(
        "channels that are read from the first on",
        "cc/plan/program_plan.cc",
        "part.first * SizeOf(program.dtype)",
        "0",
        _PARTS,
    ),
    Fault(
        "products of pixels that lie apart, as if they were dense",
        "cc/cpu/run/blocks.cc",
        "image + first * x_step_ * item_",
        "image + first * chain_.C * item_",
        _PARTS,
    ),
    Fault(
        "a sum of what is past a row of a softmax",
        "cc/cpu/kernels/steps_body.h",
        "i < lanes ? 0.0f : -__builtin_inff()",
        "0.0f",
        ("network/test_network_softmax.py",),
    ),
    Fault(
        "each group of a convolution by stock ops reads all channels",
        "tf_dwsconv/_tf/program_stock.py",
        "tf.eye(groups, dtype=kernel.dtype)",
        "tf.ones([groups, groups], kernel.dtype)",
        ("network/test_network_groups.py",),
    ),
)
