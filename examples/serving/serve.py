"""Serves a converted network over HTTP, in the form of TensorFlow Serving's REST API.

  python examples/serving/serve.py                                 # MobileNetV2 with random weights, converted
  python examples/serving/serve.py --model=my.keras --name=mine    # a Keras model of yours
  python examples/serving/serve.py --saved_model=FOLDER            # a SavedModel, as model.export wrote it

  python examples/serving/query.py                                 # asks it, from another process
  curl http://127.0.0.1:8501/v1/models/network/metadata            # what it takes and gives

A Keras model is converted by tf_dwsconv.convert and exported into --output first; what is served is the SavedModel, by
TensorFlow in Python, as `import tf_dwsconv` registers its ops. TensorFlow Serving itself loads no libraries: there the
ops have to be linked into the server, which docs/converting.md tells under "Serving"; requests stay the same.

It runs until it gets SIGTERM or Ctrl-C. For one machine and trusted callers: there is no encryption and no access
control.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: warnings and errors only
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `common`

from absl import app, flags, logging
from common import options, record

_MODEL = options.model("MobileNetV2", "A .keras file to convert, or a network of keras.applications.")
_SAVED = flags.DEFINE_string("saved_model", "", "Folder of a SavedModel to serve as it is, in the place of --model.")
_NAME = options.name()
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.")
_PORT = options.integer("port", 8501, "Port to listen on; 0 for any that is free.", 0, 65535)
_THREADS = options.threads()
_OUTPUT = options.output("serving", "the SavedModel of the converted network")

flags.register_validator("name", lambda name: name.replace("_", "").isalnum(), "must be letters, digits and _")


def export(folder: Path) -> None:
    """Converts the model of --model and writes its SavedModel; ends the program where that is not possible."""
    import keras

    import tf_dwsconv

    try:
        if Path(_MODEL.value).exists():
            model = keras.saving.load_model(_MODEL.value)
        else:
            maker = getattr(keras.applications, _MODEL.value, None)
            if not callable(maker):
                raise ValueError("it is neither a file nor a network of keras.applications")
            model = maker(weights=None)
        tf_dwsconv.convert(model).export(str(folder), verbose=False)
    except (ValueError, TypeError, OSError) as error:
        record.fail(f"--model={_MODEL.value} cannot be served: {error}")


def main(argv: list[str]) -> None:
    options.no_arguments(argv)
    folder = Path(_SAVED.value) if _SAVED.value else record.make_folder("output", _OUTPUT.value) / _NAME.value / "1"
    logging.set_verbosity(logging.WARNING)
    options.use_threads(_THREADS.value)
    if not _SAVED.value:
        export(folder)
    from rest.http_api import Server
    from rest.served import Served

    try:
        served = Served(str(folder))
    except (ValueError, OSError) as error:
        record.fail(f"{folder} cannot be served: {error}")
    try:
        server = Server((_HOST.value, _PORT.value), _NAME.value, served)
    except OSError as error:
        record.fail(f"cannot listen on --host={_HOST.value} --port={_PORT.value}: {error.strerror}")

    def stop(number, frame):
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    host, port = server.server_address[:2]
    ops = served.count_ops()
    print(f"http://{host}:{port}/v1/models/{_NAME.value} has {ops} ops of tf_dwsconv", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


if __name__ == "__main__":
    app.run(main)
