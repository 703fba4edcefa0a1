"""Models that users saved with earlier versions of the package load, and answer as they did."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import ROOT, check_python

SAVED = ROOT / "python_tests" / "saved"
VERSIONS = sorted(path.stem.split("-")[1] for path in SAVED.glob("*.keras"))

# One process for all files of a version: each is the first thing that it does with the package.
PROGRAM = """
import json, sys
import tf_dwsconv
import numpy as np
import keras
import tensorflow as tf
from conftest import op_calls

folder, version, target = sys.argv[1:]
x = np.load(f"{folder}/answers-{version}.npz")["x"]
model = keras.models.load_model(f"{folder}/network-{version}.keras")
served = tf.saved_model.load(f"{folder}/network-{version}")
gradients = tf.saved_model.load(f"{folder}/gradients-{version}")
found = {f"keras{i}": y for i, y in enumerate(model(x))}
found.update({f"graph{i}": y for i, y in enumerate(served.serve(x))})
forward = sum(op_calls().values())
found.update({f"gradient{i}": g for i, g in enumerate(gradients.gradients(x))})
np.savez(target, **{name: np.asarray(value) for name, value in found.items()})
print(json.dumps({"forward": forward, "backward": sum(op_calls("dwsconv_backward_calls").values())}))
"""


def test_there_are_saved_models():
    assert "0.1.0" in VERSIONS


@pytest.mark.usefixtures("op_library")
@pytest.mark.parametrize("version", VERSIONS)
def test_they_load_and_answer_as_before(version, tmp_path):
    target = tmp_path / "found.npz"
    calls = json.loads(check_python(PROGRAM, str(SAVED), version, str(target)).splitlines()[-1])
    assert calls["forward"] >= 2 * 7 and calls["backward"] >= 1
    expected, found = np.load(SAVED / f"answers-{version}.npz"), np.load(target)
    # Another CPU sums in another order: 7 layers, the longest sum of 7*7*12 products, and a mean of 42 pixels.
    tolerance = 7 * 600 * np.finfo(np.float32).eps
    for name, prefix in (("y", "keras"), ("y", "graph"), ("g", "gradient")):
        for i in range(2):
            scale = np.abs(expected[f"{name}{i}"]).max()
            assert scale > 1e-3
            np.testing.assert_allclose(found[f"{prefix}{i}"], expected[f"{name}{i}"], atol=tolerance * scale, rtol=0)
