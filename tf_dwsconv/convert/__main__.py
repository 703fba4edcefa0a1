"""Converts a saved Keras model.

python -m tf_dwsconv.convert --input model.keras --output fused.keras --report
python -m tf_dwsconv.convert --input model.keras --export served_model
python -m tf_dwsconv.convert --input fused.keras --output stock.keras --builtin
"""

import importlib
import sys

from tf_dwsconv import convert
from tf_dwsconv.analysis._optional import require

app = require("absl.app", "the command line of tf_dwsconv.convert")
flags = require("absl.flags", "the command line of tf_dwsconv.convert")

_INPUT = flags.DEFINE_string("input", None, "A model that keras.saving.load_model reads (.keras).")
_OUTPUT = flags.DEFINE_string("output", None, "The .keras file to write the converted model to.")
_EXPORT = flags.DEFINE_string("export", None, "The folder to write a SavedModel for serving to.")
_REPORT = flags.DEFINE_bool("report", False, "Print what was fused, and what not and why.")
_TRAINING = flags.DEFINE_bool("training", False, "Fold nothing; swap only what trains exactly as before.")
_BUILTIN = flags.DEFINE_bool("builtin", False, "The way back: stock layers in the place of this package's.")
_MODULE = flags.DEFINE_multi_string("module", [], "A module to import first, that registers layers of its own.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    if not _INPUT.value:
        raise app.UsageError("--input must be given")
    if not (_OUTPUT.value or _EXPORT.value or _REPORT.value):
        raise app.UsageError("one of --output, --export and --report must be given")
    if _OUTPUT.value and not _OUTPUT.value.endswith(".keras"):
        raise app.UsageError(f"--output must end in .keras, got {_OUTPUT.value!r}")
    if _BUILTIN.value and (_TRAINING.value or _REPORT.value):
        raise app.UsageError("--builtin goes with neither --training nor --report")
    keras = require("keras", "--input")
    try:
        for name in _MODULE.value:
            importlib.import_module(name)
        model = keras.saving.load_model(_INPUT.value, compile=False)
        if _BUILTIN.value:
            converted = convert.to_builtin(model)
        else:
            converted = convert(model, training=_TRAINING.value, verbose=_REPORT.value)
    except (ImportError, OSError, TypeError, ValueError) as error:
        sys.exit(f"error: {error}")
    if _OUTPUT.value:
        converted.save(_OUTPUT.value)
    if _EXPORT.value:
        converted.export(_EXPORT.value, verbose=False)


if __name__ == "__main__":
    app.run(main)
