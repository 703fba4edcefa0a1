"""One network in every runtime that is installed: TensorFlow, tf_dwsconv, LiteRT, ONNX Runtime, OpenVINO, PyTorch.

All get the same float32 pictures `[N,H,W,3]` and have the same weights. What is not installed is found out when the
program runs; what cannot take a network says why.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple, Optional

import numpy as np

PEERS = {
    "stock": "Keras, tf.function",
    "frozen": "TensorFlow, constants frozen",
    "ours": "tf_dwsconv.convert, tf.function",
    "ours_blocks": "tf_dwsconv.convert, a layer a block",
    "ours_native": "tf_dwsconv, without TensorFlow",
    "ours_frozen": "tf_dwsconv.convert, constants frozen",
    "litert": "LiteRT, XNNPACK",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO, from ONNX",
    "openvino_tf": "OpenVINO, from TensorFlow",
    "torch": "PyTorch, op by op, channels_last",
}
# The packages that a peer needs and that need not be there; `pip install 'tf_dwsconv[bench]'` brings them.
NEEDS = {
    "litert": ("ai_edge_litert",),
    "onnxruntime": ("onnxruntime", "tf2onnx"),
    "openvino": ("openvino", "tf2onnx"),
    "openvino_tf": ("openvino",),
    "torch": ("torch",),
}


class Peer(NamedTuple):
    """A network ready to run on one batch: `run()` computes, `result()` computes and returns `[N, classes]`."""

    run: Callable[[], Any]
    result: Callable[[], np.ndarray]


def missing(name: str) -> Optional[str]:
    """The first package that a peer needs and that is not installed."""
    return next((package for package in NEEDS.get(name, ()) if importlib.util.find_spec(package) is None), None)


class Network:
    """A Keras network, and what each peer made of it, once for all batches.

    Args:
        model: functional, float32.
        threads: of all peers but TensorFlow, whose number the program sets.
    """

    def __init__(self, model: Any, threads: int):
        self.model, self.threads = model, threads
        self._made: dict[str, Any] = {}

    def _once(self, what: str, make: Callable[[], Any]) -> Any:
        if what not in self._made:
            self._made[what] = make()
        return self._made[what]

    def _converted(self, fuse: str = "network") -> Any:
        import tf_dwsconv

        return self._once(fuse, lambda: tf_dwsconv.convert(self.model, fuse=fuse))

    def _program(self) -> Any:
        """The network as a file of ours, loaded again."""
        import tf_dwsconv
        from tf_dwsconv import native

        def make() -> Any:
            with tempfile.TemporaryDirectory() as folder:
                path = f"{folder}/network.safetensors"
                tf_dwsconv.save_network(self._converted(), path)
                return native.Network(path)

        return self._once("program", make)

    def _onnx(self) -> bytes:
        """The network for ONNX, for any number of pictures."""

        def make() -> bytes:
            import tensorflow as tf
            import tf2onnx

            spec = tf.TensorSpec((None, *self.model.inputs[0].shape[1:]), tf.float32)
            function = tf.function(lambda t: self.model(t, training=False), input_signature=[spec])
            proto, _ = tf2onnx.convert.from_function(function, input_signature=[spec], opset=17)
            return proto.SerializeToString()

        return self._once("onnx", make)

    def peer(self, name: str, x: np.ndarray) -> Peer:
        """Makes a peer ready for a batch; raises whatever its runtime raises where it cannot take the network."""
        return getattr(self, f"_{name}")(x)

    @staticmethod
    def _function(model: Any, x: np.ndarray) -> Any:
        import tensorflow as tf

        spec = tf.TensorSpec(x.shape, tf.float32)
        return tf.function(lambda t: model(t, training=False), input_signature=[spec], jit_compile=False)

    @staticmethod
    def _constant(function: Any) -> Any:
        """A concrete function whose variables have become constants."""
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        return convert_variables_to_constants_v2(function.get_concrete_function())

    def _by_tensorflow(self, model: Any, x: np.ndarray, frozen: bool) -> Peer:
        import tensorflow as tf

        tensor, function = tf.constant(x), self._function(model, x)
        if not frozen:
            return Peer(lambda: function(tensor), lambda: function(tensor).numpy())
        constant = self._constant(function)
        return Peer(lambda: constant(tensor), lambda: constant(tensor)[0].numpy())

    def _stock(self, x: np.ndarray) -> Peer:
        return self._by_tensorflow(self.model, x, False)

    def _frozen(self, x: np.ndarray) -> Peer:
        return self._by_tensorflow(self.model, x, True)

    def _ours(self, x: np.ndarray) -> Peer:
        return self._by_tensorflow(self._converted(), x, False)

    def _ours_blocks(self, x: np.ndarray) -> Peer:
        return self._by_tensorflow(self._converted("blocks"), x, False)

    def _ours_native(self, x: np.ndarray) -> Peer:
        network = self._program()
        out = network(x, num_threads=self.threads)
        return Peer(lambda: network(x, out=out, num_threads=self.threads), lambda: np.array(out))

    def _ours_frozen(self, x: np.ndarray) -> Peer:
        return self._by_tensorflow(self._converted(), x, True)

    def _litert(self, x: np.ndarray) -> Peer:
        import tensorflow as tf
        from ai_edge_litert.interpreter import Interpreter

        constant = self._constant(self._function(self.model, x))
        content = tf.lite.TFLiteConverter.from_concrete_functions([constant]).convert()
        interpreter = Interpreter(model_content=content, num_threads=self.threads)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        output = interpreter.get_output_details()[0]["index"]

        def result() -> np.ndarray:
            interpreter.invoke()
            return interpreter.get_tensor(output)

        return Peer(interpreter.invoke, result)

    def _onnxruntime(self, x: np.ndarray) -> Peer:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        session = onnxruntime.InferenceSession(self._onnx(), options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: x}
        return Peer(lambda: session.run(None, feed), lambda: session.run(None, feed)[0])

    def _openvino(self, x: np.ndarray) -> Peer:
        import openvino

        return self._by_openvino(openvino.Core().read_model(self._onnx()), x)

    def _openvino_tf(self, x: np.ndarray) -> Peer:
        import openvino

        with tempfile.TemporaryDirectory() as folder:
            self.model.export(folder, verbose=False)
            return self._by_openvino(openvino.convert_model(folder), x)

    def _by_openvino(self, model: Any, x: np.ndarray) -> Peer:
        import openvino

        model.reshape(list(x.shape))
        hints = {
            "INFERENCE_NUM_THREADS": self.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        request = openvino.Core().compile_model(model, "CPU", hints).create_infer_request()
        request.set_input_tensor(openvino.Tensor(x))

        def result() -> np.ndarray:
            request.infer()
            return request.get_output_tensor().data.copy()

        return Peer(request.infer, result)

    def _torch(self, x: np.ndarray) -> Peer:
        import torch

        from measuring import torch_network

        torch.set_num_threads(self.threads)
        function = self._once("torch", lambda: torch_network.translate(self.model))
        tensor = torch.from_numpy(x).permute(0, 3, 1, 2)  # channels_last, as the array is

        def run() -> Any:
            with torch.inference_mode():
                return function(tensor)

        return Peer(run, lambda: run().numpy())
