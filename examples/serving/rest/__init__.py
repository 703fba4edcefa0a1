"""A SavedModel behind the REST API of TensorFlow Serving, in plain Python: what serve.py and query.py share."""
