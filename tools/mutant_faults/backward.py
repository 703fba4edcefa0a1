"""Of the backward pass."""

from mutant_faults._fault import Fault

_FORWARD_WAYS = ("op/test_forward_ways.py",)
_BACKWARD = (
    "gradient/test_backward.py::test_blocks_and_chunks",
    "gradient/test_backward.py",
    "gradient/test_gradients.py",
)

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
)
