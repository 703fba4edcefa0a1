"""A SavedModel behind the REST API of TensorFlow Serving, in plain Python."""
