"""Of products of tensors and attention in networks that `convert` makes."""

from mutant_faults._fault import Fault

_ATTENTION = ("convert/test_convert_attention.py", "convert/test_convert_attention_inside.py")
_RESIDUAL = ("convert/test_convert_products.py",)
_PRODUCTS = ("convert/test_convert_products.py",)

FAULTS = (
    Fault(
        "scores without their factor",
        "tf_dwsconv/convert/network/_attention.py",
        "(1 / math.sqrt(channels), 1.0, 1.0)",
        "(1.0, 1.0, 1.0)",
        _ATTENTION,
    ),
    Fault(
        "the factor of the scores leaves the query's bias out",
        "tf_dwsconv/convert/network/_attention.py",
        "_read.array(bias).reshape(-1) * factor",
        "_read.array(bias).reshape(-1)",
        _ATTENTION,
    ),
    Fault(
        "attention without keys of its own",
        "tf_dwsconv/convert/network/_attention.py",
        "value if key is None else key",
        "value",
        _ATTENTION,
    ),
    Fault(
        "products that broadcast",
        "tf_dwsconv/convert/network/_products.py",
        "a[:-2] != b[:-2]",
        "False",
        _PRODUCTS,
    ),
    Fault(
        "a turned product keeps the second one as it is",
        "tf_dwsconv/convert/network/_turned.py",
        'not before.options["transpose_y"]',
        'before.options["transpose_y"]',
        _PRODUCTS,
    ),
    Fault(
        "what turns a matrix turns nothing",
        "tf_dwsconv/convert/network/_turned.py",
        "(*front, columns, rows)",
        "(*front, rows, columns)",
        _PRODUCTS,
    ),
    Fault(
        "tensors with masks are as others",
        "tf_dwsconv/_keras_graph.py",
        'getattr(t, "_keras_mask", None) is not None',
        "False",
        _ATTENTION,
    ),
    Fault(
        "transformers without convolutions become networks",
        "tf_dwsconv/convert/network/_parts.py",
        "isinstance(operation, _PRODUCTS)",
        "False",
        _PRODUCTS,
    ),
    Fault(
        "the second operand of tf.matmul is never turned",
        "tf_dwsconv/convert/_symbolic.py",
        "((a, transpose_a), (b, transpose_b))",
        "((a, transpose_a), (b, False))",
        _PRODUCTS,
    ),
    Fault(
        "models that are called with masks are opened",
        "tf_dwsconv/convert/__init__.py",
        "called_in_training(node) or has_mask(node)",
        "called_in_training(node)",
        _ATTENTION,
    ),
    Fault(
        "a residual of a product goes into its factors",
        "tf_dwsconv/convert/network/_tidy.py",
        'stage is None or "residual" in before.reads',
        "stage is None",
        _RESIDUAL,
    ),
)
