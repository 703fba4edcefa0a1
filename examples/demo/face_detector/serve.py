"""Runs an exported face detector in a process that knows nothing of how it was built.

  python serve.py SAVED_MODEL_FOLDER PIXELS.npy THRESHOLD

Reads float32 `[pictures, size, size, 3]` and prints one JSON list: for each picture its boxes and scores.
"""

import json
import sys

import numpy as np
import tensorflow as tf

import tf_dwsconv  # noqa: F401  registers the fused op, which the SavedModel's graph holds


def main(folder: str, pixels: str, threshold: str) -> None:
    loaded = tf.saved_model.load(folder)  # held, as it owns the variables of its endpoint
    found = [loaded.detect(picture[None], tf.constant(float(threshold))) for picture in np.load(pixels)]
    print(json.dumps([{key: faces[key].numpy().tolist() for key in ("boxes", "scores")} for faces in found]))


if __name__ == "__main__":
    main(*sys.argv[1:])
