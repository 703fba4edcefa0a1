"""What runs with TensorFlow: registration, the library, dispatch, the stock fallback, gradients, Keras' symbolic op.

Importing this folder imports no framework; its modules do, but for `registration`, `library` and `onnx`.
"""
