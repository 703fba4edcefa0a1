"""Of convert and to_builtin."""

from mutant_faults._fault import Fault

_CONVERT = (
    "convert/test_convert_folding.py",
    "convert/test_convert.py",
    "convert/test_convert_norms.py",
    "convert/test_convert_graphs.py",
)

FAULTS = (
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
        "tf_dwsconv/convert/_grow.py",
        "not np.any(shift)",
        "True",
        _CONVERT,
    ),
    Fault(
        "offsets of two in a row",
        "tf_dwsconv/convert/_grow.py",
        "scale * change[0], shift * change[0] + change[1], True",
        "scale * change[0], shift + change[1], True",
        ("convert/test_convert_folding.py::test_scales_and_offsets_in_a_row_in_front_of_a_1x1",),
    ),
    Fault(
        "a front norm that others read",
        "tf_dwsconv/convert/rules/pointwise.py",
        " and search.graph.reader(block.x) is node",
        "",
        _CONVERT,
    ),
    Fault(
        "an odd pad behind",
        "tf_dwsconv/convert/_read.py",
        "tuple(int(number) for number in pair)",
        "tuple(int(number) for number in pair[::-1])",
        _CONVERT,
    ),
    Fault(
        "a layer that two call is fused",
        "tf_dwsconv/convert/_search.py",
        "if self.graph.shared(node) and not (copies",
        "if False and not (copies",
        ("convert/test_convert_graphs.py",),
    ),
    Fault(
        "a residual that is spread",
        "tf_dwsconv/convert/_grow.py",
        "tuple(other.shape) != tuple(longer.out.shape)",
        "len(other.shape) != 4",
        _CONVERT,
    ),
    Fault(
        "to_builtin: the activation before the residual",
        "tf_dwsconv/convert/_builtin.py",
        'Fused("none") if layer.residual else layer.activation',
        "layer.activation",
        ("convert/test_convert_folding.py::test_there_and_back",),
    ),
    Fault(
        "to_builtin: a dense window without its dilation",
        "tf_dwsconv/convert/_builtin.py",
        'window["dilation_rate"] = layer.dilation_rate',
        "pass",
        ("convert/test_convert_folding.py::test_there_and_back",),
    ),
    Fault(
        "training: a frozen half is trained",
        "tf_dwsconv/convert/rules/exact_halves.py",
        "and other.trainable == layer.trainable",
        "",
        ("convert/test_convert_training.py",),
    ),
    Fault(
        "copied weights forget what is not trained",
        "tf_dwsconv/convert/_copy.py",
        "target.trainable = source.trainable",
        "pass",
        ("convert/test_convert_folding.py::test_a_variable_that_is_not_trained_stays_so",),
    ),
)
