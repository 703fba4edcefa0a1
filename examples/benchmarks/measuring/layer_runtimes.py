"""One layer in other runtimes: LiteRT, ONNX Runtime, OpenVINO. float32, forward.

Each gets its tensors in the order that it likes best: ONNX Runtime in NCHW, and no transposition is timed. Results are
handed over only when somebody reads them, as NumPy arrays `[N,Ho,Wo,K]`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

RUNTIMES = {
    "litert": "LiteRT, XNNPACK",
    "onnxruntime": "ONNX Runtime, NCHW",
    "openvino": "OpenVINO",
}
NEEDS = {
    "litert": ("ai_edge_litert",),
    "onnxruntime": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "onnx"),
}


class Result:
    """What a call computed; read as an array, it is copied out of the runtime."""

    def __init__(self, read: Callable[[], np.ndarray]):
        self._read = read

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self._read(), dtype)


def call(name: str, data: Any, threads: int) -> Callable[[], Result]:
    """A function that runs the layer once.

    Args:
        name: a key of `RUNTIMES`, installed.
        data: a `measuring.layers.Data`.
        threads: 0 for all cores.
    """
    return {"litert": _litert, "onnxruntime": _onnxruntime, "openvino": _openvino}[name](
        data, threads or len(os.sched_getaffinity(0))
    )


def _litert(data: Any, threads: int) -> Callable[[], Result]:
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    strides = data.problem.stride

    @tf.function(input_signature=[tf.TensorSpec(data.x.shape, tf.float32)])
    def layer(x: Any) -> Any:
        z = tf.nn.depthwise_conv2d(x, data.depthwise, (1, *strides, 1), data.problem.padding)
        return tf.nn.conv2d(z, data.pointwise, 1, "VALID")

    converter = tf.lite.TFLiteConverter.from_concrete_functions([layer.get_concrete_function()])
    interpreter = Interpreter(model_content=converter.convert(), num_threads=threads)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], data.x)
    output = interpreter.get_output_details()[0]["index"]
    result = Result(lambda: interpreter.get_tensor(output))

    def run() -> Result:
        interpreter.invoke()
        return result

    return run


def _onnx(data: Any) -> bytes:
    """The layer as an ONNX model, NCHW as ONNX has it."""
    from onnx import TensorProto, helper, numpy_helper

    p = data.problem
    if p.padding == "SAME":
        pads = {"auto_pad": "SAME_UPPER"}
    else:
        pads = {"auto_pad": "VALID"}
    window = {"group": p.C, "kernel_shape": [p.R, p.S], "strides": list(p.stride)}
    filters = (data.depthwise.transpose(2, 3, 0, 1), data.pointwise.transpose(3, 2, 0, 1))
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "depthwise"], ["z"], **window, **pads),
            helper.make_node("Conv", ["z", "pointwise"], ["y"], kernel_shape=[1, 1]),
        ],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [p.N, p.C, p.H, p.W])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [p.N, p.K, p.Ho, p.Wo])],
        [
            numpy_helper.from_array(np.ascontiguousarray(values), name)
            for values, name in zip(filters, ("depthwise", "pointwise"))
        ],
    )
    # Versions that all of the runtimes read.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def _onnxruntime(data: Any, threads: int) -> Callable[[], Result]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(_onnx(data), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("x", np.ascontiguousarray(data.x.transpose(0, 3, 1, 2)))
    binding.bind_output("y")
    result = Result(lambda: binding.copy_outputs_to_cpu()[0].transpose(0, 2, 3, 1))

    def run() -> Result:
        session.run_with_iobinding(binding)
        return result

    return run


def _openvino(data: Any, threads: int) -> Callable[[], Result]:
    import openvino
    from openvino.preprocess import PrePostProcessor

    core = openvino.Core()
    steps = PrePostProcessor(core.read_model(_onnx(data)))
    for end in (steps.input(), steps.output()):
        end.tensor().set_layout(openvino.Layout("NHWC"))
        end.model().set_layout(openvino.Layout("NCHW"))
    hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(steps.build(), "CPU", hints).create_infer_request()
    request.set_input_tensor(openvino.Tensor(data.x))
    result = Result(lambda: request.get_output_tensor().data.copy())

    def run() -> Result:
        request.infer()
        return result

    return run
