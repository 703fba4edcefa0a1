"""Of products of tensors and attention in networks that `convert` makes, of models and of graphs."""

from mutant_faults._fault import Fault

_ATTENTION = ("convert/test_convert_attention.py", "convert/test_convert_attention_inside.py")
_GRAPHS = ("convert/test_graph_attention.py",)
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
        _ATTENTION,
    ),
    Fault(
        "the second operand of tf.matmul is never turned",
        "tf_dwsconv/convert/_symbolic.py",
        "((a, transpose_a), (b, transpose_b))",
        "((a, transpose_a), (b, False))",
        _ATTENTION,
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
    Fault(
        "axes taken apart from the batch are turned otherwise",
        "tf_dwsconv/convert/graphs/_merged.py",
        "[0, 1, *(int(axis) + 1 for axis in value[1:])]",
        "[0, 1, *(int(axis) + 1 for axis in value[1:][::-1])]",
        _GRAPHS,
    ),
    Fault(
        "adjoints of the other operand",
        "tf_dwsconv/convert/graphs/_products.py",
        '[bool(attribute(node, name).b) for name in ("adj_x", "adj_y")]',
        '[bool(attribute(node, name).b) for name in ("adj_y", "adj_x")]',
        _GRAPHS,
    ),
    Fault(
        "a quotient by zero on the other side",
        "tf_dwsconv/convert/graphs/_uniform.py",
        "(number == 0 or at == 0)",
        "(number == 0 or at == 1)",
        _GRAPHS,
    ),
    Fault(
        "reduced axes stay where they were",
        "tf_dwsconv/convert/graphs/_reductions.py",
        "[0, 2, 1, 3]",
        "[0, 1, 2, 3]",
        _GRAPHS,
    ),
    Fault(
        "a scale of tokens is one of channels",
        "tf_dwsconv/convert/graphs/_ops.py",
        "value.shape[-1] != value.size",
        "value.shape[-1] == 0",
        _GRAPHS,
    ),
    Fault(
        "of an op with several results the first alone is asked for",
        "tf_dwsconv/convert/graphs/_merged.py",
        "self._outputs[node.name]",
        '[f"{node.name}:0"]',
        _GRAPHS,
    ),
    Fault(
        "a norm with another product behind it",
        "tf_dwsconv/convert/graphs/_patterns.py",
        "tensor_of(rest) == other",
        "True",
        _GRAPHS,
    ),
    Fault(
        "as many pictures as there were windows",
        "tf_dwsconv/convert/network/_operations.py",
        "math.prod(after), math.prod(before)",
        "math.prod(before), math.prod(after)",
        ("convert/test_convert_products.py",),
    ),
    Fault(
        "of two reshapes the last alone says how many pictures there are",
        "tf_dwsconv/convert/network/_turned.py",
        "tuple(a * b for a, b in pairs)",
        "tuple(b for a, b in pairs)",
        ("convert/test_convert_products.py",),
    ),
    Fault(
        "a window of pictures by stock ops is a picture",
        "tf_dwsconv/_tf/program_stock.py",
        "n // before * after",
        "n // after * before",
        ("network/test_program_steps.py",),
    ),
)
