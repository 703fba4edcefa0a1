"""Of the backward pass."""

from mutant_faults._fault import Fault

_FORWARD_WAYS = ("op/test_forward_ways.py",)
_BACKWARD = (
    "gradient/test_backward.py::test_blocks_and_chunks",
    "gradient/test_backward.py",
    "gradient/test_gradients.py",
)

_NORM = ("gradient/test_batch_norm.py",)
_PARTS = ("layer/test_training_parts.py",)

FAULTS = (
    Fault(
        "the last image of a chunk is left out",
        "cc/cpu/run/backward_task.cc",
        "n < (chunk + 1) * p.N / plan.chunks",
        "n < (chunk + 1) * p.N / plan.chunks - (chunk > 0)",
        _BACKWARD,
    ),
    Fault(
        "no rows of dZ above a piece",
        "cc/cpu/run/backward_task.cc",
        "std::max<int64_t>(0, begin - plan_.history)",
        "begin",
        _BACKWARD,
    ),
    Fault(
        "one row too few of dZ kept",
        "cc/cpu/run/backward_task.cc",
        "dz_ + rows * dz_row_",
        "dz_ + (rows - 1) * dz_row_",
        _BACKWARD,
    ),
    Fault(
        "the bias's gradient for each block of channels",
        "cc/cpu/run/backward_task.cc",
        "block_ == 0",
        "block_ > 0",
        _BACKWARD,
    ),
    Fault(
        "the mask between the halves by its result",
        "cc/cpu/run/backward_task.cc",
        "DerivativeFromInput(p_.mid)",
        "false",
        _BACKWARD,
    ),
    Fault(
        "a phase of rows without its last",
        "cc/cpu/run/backward_task.cc",
        "(stop - h + p_.stride_h - 1) / p_.stride_h",
        "(stop - h) / p_.stride_h",
        _BACKWARD,
    ),
    Fault(
        "taps that lie outside are multiplied",
        "cc/cpu/run/backward_filters.cc",
        "used && c < g.channels",
        "c < g.channels",
        ("gradient/test_backward.py::test_weights_that_no_output_uses_do_not_spoil_gradients",),
    ),
    Fault(
        "a bias's gradient without the last chunk",
        "cc/cpu/run/backward_filters.cc",
        "chunk < plan.chunks",
        "chunk < plan.chunks - 1",
        _BACKWARD,
        at="chunk < plan.chunks; ++chunk) sum += from[chunk * chunk_floats];",
    ),
    Fault(
        "the filter's sums begin anew in each block of rows",
        "cc/cpu/kernels/products_body.h",
        "a.first && r == 0",
        "r == 0",
        _BACKWARD,
    ),
    Fault(
        "the residual's mask where a run of it began",
        "cc/cpu/run/backward.cc",
        "begin * SizeOf(job.at_dtype)",
        "begin * SizeOf(p.dtype)",
        (*_FORWARD_WAYS, *_BACKWARD),
    ),
    Fault(
        "each group of images of a gradient has the first residual",
        "cc/cpu/run/backward.cc",
        "n * y_floats",
        "0 * y_floats",
        (*_FORWARD_WAYS, *_BACKWARD),
        at="to_floats(b.residual, n * y_floats,",
    ),
    Fault(
        "a kink of relu the other way",
        "cc/cpu/kernels/derivative_body.h",
        "return at > zero ? grad : zero;",
        "return at >= zero ? grad : zero;",
        ("gradient/test_gradients.py",),
    ),
    Fault(
        "a column's last pixels are not summed",
        "cc/cpu/kernels/taps_body.h",
        "i + 4 <= a.pixels",
        "i + 3 <= a.pixels",
        _BACKWARD,
    ),
    Fault(
        "what rounding took off a chunk's mean is forgotten",
        "cc/cpu/run/batch_norm.cc",
        "left * inverse",
        "0 * left * inverse",
        _NORM,
    ),
    Fault(
        "rows that are one have one mean",
        "cc/cpu/run/batch_norm.cc",
        "i * cut_.rows",
        "cut_.rows",
        _NORM,
        at="i * cut_.rows, all",
    ),
    Fault(
        "a batch norm's parts count as one more",
        "cc/cpu/run/batch_norm.cc",
        "cut_.Begin(part)",
        "cut_.Begin(part - 1)",
        _NORM,
        at="cut_.channels, cut_.Begin(part), all",
    ),
    Fault(
        "the gradient by x forgets the statistics' own",
        "cc/cpu/run/batch_norm.cc",
        "product * inverse / count",
        "product / count",
        _NORM,
    ),
    Fault(
        "a batch norm's repeated channels are not filled",
        "cc/cpu/run/batch_norm.cc",
        "vector[c] = vector[c - norm_.channels]",
        "vector[c] = vector[c]",
        _NORM,
    ),
    Fault(
        "the gradient of a depthwise convolution begins at its block's first row",
        "cc/cpu/run/backward_task.cc",
        "(image_ * p_.Ho + begin + row) * p_.Wo * p_.C + first_channel_",
        "(image_ * p_.Ho + row) * p_.Wo * p_.C + first_channel_",
        _PARTS,
    ),
    Fault(
        "without a projection multipliers are not repeated",
        "cc/plan/backward_plan.cc",
        "!chain.has_project || RepeatsInput(chain, kBackwardQuantum)",
        "RepeatsInput(chain, kBackwardQuantum)",
        _PARTS,
    ),
    Fault(
        "the op's variance is taken for the population's",
        "tf_dwsconv/_tf/batch_norm.py",
        "return variance * ((count - 1.0) / tf.maximum(count, 1.0))",
        "return variance",
        ("layer/test_training_parts.py::test_again_in_graphs_with_the_fallback",),
    ),
)
