"""What runs with TensorFlow: the library, dispatch, the stock fallback, gradients, Keras' symbolic op.

Importing this folder imports no framework; its modules do, but for `library` and `onnx`.
"""

from tf_dwsconv import _registration

_registration.watch(__name__)
