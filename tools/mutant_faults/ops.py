"""Of the Python half: op, gradients, fallback, library, tuner."""

from mutant_faults._fault import Fault

FAULTS = (
    Fault(
        "the fallback's norm without epsilon",
        "tf_dwsconv/conv_block.py",
        "variance + tf.constant(attributes.epsilon, z.dtype)",
        "variance",
        ("block/test_conv_block.py",),
    ),
    Fault(
        "the fallback adds the residual last",
        "tf_dwsconv/stock.py",
        "y = activate(y, attributes.activation)\n    y = tf.cast(from_nhwc(y, attributes), dtype)",
        "y = activate(y, attributes.activation) if residual is None else y\n"
        "    y = tf.cast(from_nhwc(y, attributes), dtype)",
        ("op/test_op.py",),
    ),
    Fault(
        "the op is called inside XLA",
        "tf_dwsconv/_dispatch.py",
        "op is not None and stock.in_xla()",
        "False",
        ("layer/test_models.py::test_layer_inside_xla_warns_once_and_is_right",),
    ),
    Fault(
        "DWSCONV_DISABLE=0 disables",
        "tf_dwsconv/_library.py",
        'os.environ.get("DWSCONV_DISABLE", "") not in ("", "0")',
        'os.environ.get("DWSCONV_DISABLE", "") != ""',
        ("op/test_library_state.py",),
    ),
    Fault(
        "a warning at each call",
        "tf_dwsconv/_library.py",
        "_warned.add(key)",
        "pass",
        ("op/test_library_state.py",),
    ),
    Fault(
        "a library of any TensorFlow is loaded",
        "tf_dwsconv/_library.py",
        "_minor(built_for) != _minor(tf.version.VERSION)",
        "False",
        ("package/test_package.py::test_another_tensorflow_minor",),
    ),
    Fault(
        "a library that is there twice is loaded",
        "tf_dwsconv/_library.py",
        "op_def_registry.get(OP_NAME) is not None",
        "False",
        ("package/test_package.py::test_library_loaded_before_from_another_path",),
    ),
    Fault(
        "a gradient without the residual that it needs",
        "tf_dwsconv/gradients.py",
        "(residual,) if from_input and residual is not None else ()",
        "()",
        ("gradient/test_backward.py", "gradient/test_gradients.py"),
    ),
    Fault(
        "a result is kept that no gradient reads",
        "tf_dwsconv/gradients.py",
        'from_input or last.word == "none"',
        "from_input",
        ("gradient/test_backward.py::test_forward_output_is_not_kept_where_nobody_needs_it",),
        at='output=() if from_input or last.word == "none" else (y,)',
    ),
    Fault(
        "derivatives of derivatives by the wrong slope",
        "tf_dwsconv/gradients.py",
        "alpha=activation.alpha",
        "alpha=0.2",
        ("gradient/test_gradients.py",),
    ),
    Fault(
        "a plan that wins no more stays",
        "tf_dwsconv/tune/__init__.py",
        "forget=[_cache.subject(result.line)]",
        "forget=[]",
        ("plan/test_tune.py",),
    ),
    Fault(
        "a tuner loses what another wrote",
        "tf_dwsconv/tune/_cache.py",
        "plans = {subject(line): line for line in read(path)}",
        "plans = {}",
        ("plan/test_tune.py", "plan/test_tune_file.py"),
    ),
    Fault(
        "shapes: the end of SAME rounded down",
        "tf_dwsconv/_shapes.py",
        "-(-size // stride)",
        "size // stride",
        ("op/test_op.py", "layer/test_layer.py"),
    ),
    Fault(
        "a slope that a saved op forgets",
        "tf_dwsconv/activations.py",
        '[fused.word, fused.alpha] if fused.word in ("leaky_relu", "elu") else fused.word',
        "fused.word",
        ("layer/test_models.py::test_functional_op_in_a_keras_model",),
    ),
)
