"""Converts a SavedModel that is no Keras model by one command, and shows what it says of a face before and after.

  python examples/demo/convert_emotions.py                        # the face of scikit-image's astronaut
  python examples/demo/convert_emotions.py --image=face.jpg       # a picture of one face, whole
  python examples/demo/convert_emotions.py --model=my_saved_model --image=face.jpg

The network is third_party/emotion_saved_model. It prints the report of the conversion, the probability of each emotion
by both graphs, and their times, and saves the face with the probabilities beside it. It ends with 1 if the two differ
by more than 1e-5, and with 2 if a picture cannot be read.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: warnings and errors only
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `common`

import numpy as np
from absl import app
from common import options, record
from face_detector import pictures

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-5
EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
# Of the astronaut's face, found by detect_faces.py: rows and columns of the picture.
FACE = (slice(75, 192), slice(163, 280))
SIDE = 64

_MODEL = options.model(str(ROOT / "third_party" / "emotion_saved_model"), "The SavedModel, of the same signature.")
_IMAGE = options.images("A picture of one face; without it the astronaut's of scikit-image.")
_REPEAT = options.repeat(30, "Timed runs of each graph.")
_OUTPUT = options.output("convert_emotions", "the converted SavedModel and the picture")


def face(path: str | None) -> np.ndarray:
    """A grey face, float32 `[1, 64, 64, 1]` from 0 to 1.

    Raises:
        PictureError: the picture cannot be read.
    """
    from PIL import Image

    if path is None:
        try:
            import skimage.data
        except ImportError:
            raise pictures.PictureError("the astronaut needs scikit-image; pass --image=... without it") from None
        picture = skimage.data.astronaut()[FACE]
    else:
        picture = pictures.read_picture(path)
    grey = Image.fromarray(picture).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return (np.asarray(grey, np.float32) / 255.0)[None, :, :, None]


def convert(model: str, target: Path) -> None:
    """Runs the command, as a user would."""
    command = [sys.executable, "-m", "tf_dwsconv.convert", model, str(target), "--report", "--overwrite"]
    print("$ python", *command[1:4], target.name, *command[5:])
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    print(done.stdout)
    if done.returncode:
        record.fail(f"the conversion failed: {done.stderr.strip()}")


def draw(pixels: np.ndarray, before: np.ndarray, after: np.ndarray, path: Path) -> None:
    """Saves the face, and the probabilities of both graphs as bars."""
    from PIL import Image, ImageDraw

    side, row = 256, 36
    canvas = Image.new("RGB", (2 * side + 120, side), "white")
    canvas.paste(Image.fromarray((pixels[0, :, :, 0] * 255).astype(np.uint8)).resize((side, side)), (0, 0))
    pen = ImageDraw.Draw(canvas)
    for i, name in enumerate(EMOTIONS):
        top = 4 + i * row
        pen.text((side + 10, top + 8), name, fill="black")
        for values, offset, colour in ((before, 2, "#999999"), (after, 14, "#1f77b4")):
            pen.rectangle((side + 80, top + offset, side + 80 + 270 * float(values[i]), top + offset + 10), fill=colour)
    canvas.save(path)


def main(argv: list[str]) -> int:
    options.no_arguments(argv)
    try:
        pixels = face(_IMAGE.value[0] if _IMAGE.value else None)
    except pictures.PictureError as error:
        print(f"convert_emotions: {error}", file=sys.stderr)
        return 2
    output = record.make_folder("output", _OUTPUT.value)
    convert(_MODEL.value, output / "fused")

    import tensorflow as tf
    from common.timing import medians_in_turn

    import tf_dwsconv

    print(f"op library: {tf_dwsconv.build_info()['op_library'] or tf_dwsconv.build_info()['reason']}")
    models = {"before": tf.saved_model.load(_MODEL.value), "after": tf.saved_model.load(str(output / "fused"))}
    graphs = {name: model.signatures["serving_default"] for name, model in models.items()}
    before, after = (next(iter(graph(tf.constant(pixels)).values())).numpy()[0] for graph in graphs.values())
    for name, old, new in zip(EMOTIONS, before, after):
        print(f"  {name:10} {old:8.4f} {new:8.4f}")
    worst = float(np.abs(after - before).max())
    print(f"largest difference: {worst:.1e}")
    draw(pixels, before, after, output / "emotions.png")
    print(f"saved {output / 'emotions.png'}")
    for batch in (1, 16):
        faces = tf.constant(np.repeat(pixels, batch, axis=0))
        taken = medians_in_turn({n: functools.partial(graph, faces) for n, graph in graphs.items()}, _REPEAT.value)
        ratio = taken["before"] / taken["after"]
        print(f"batch {batch}: {taken['after']:.3f} ms (before: {taken['before']:.3f} ms, {ratio:.2f} times)")
    if not worst <= TOLERANCE:
        print(f"convert_emotions: the two differ by more than {TOLERANCE:g}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    app.run(main)
