"""Finds faces with one network in four forms: of stock Keras layers, with tf_dwsconv's layer in their place, and
converted: as a layer for each block, and as one program.

  python examples/demo/detect_faces.py                                 # the astronaut picture of scikit-image
  python examples/demo/detect_faces.py --image=me.jpg --image=us.png   # and these
  python examples/demo/detect_faces.py --noastronaut --size=224 *.jpg  # only these, with a smaller network input

For each picture it prints the faces of the first two and the largest differences, and saves the picture with its boxes.
Then it times all, and the program without TensorFlow; exports the second as a SavedModel and runs that in a new
process. It ends with 1 if any box or score differs by more than 1e-4, and with 2 if a picture cannot be read or the
output not be written.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: warnings and errors only
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `common`

import numpy as np
from absl import app, flags, logging
from common import options, record
from face_detector import pictures

TOLERANCE = 1e-4
STOCK, OURS = "keras.layers.SeparableConv2D", "tf_dwsconv.DepthwiseSepConv2D"
BLOCKS, PROGRAM = 'convert(model, fuse="blocks")', "convert(model)"
NATIVE = "native.Network"

_IMAGE = options.images("A picture to search (repeatable); plain arguments are pictures too.")
_ASTRONAUT = flags.DEFINE_bool("astronaut", True, "Also search the astronaut picture of scikit-image.")
_SIZE = options.size(416, "Side of the network's square input: 416, 224 or any multiple of 32.", 32)
_THRESHOLD = flags.DEFINE_float("threshold", 0.5, "The least score of a face.", lower_bound=0.0, upper_bound=1.0)
_REPEAT = options.repeat(50, "Timed runs of each network.")
_OUTPUT = options.output("detect_faces", "the pictures with boxes and the SavedModel")

flags.register_validator("size", lambda size: size % 32 == 0, "must be a multiple of 32 between 32 and 4096")


@dataclasses.dataclass
class Faces:
    """What one network found in one picture."""

    boxes: np.ndarray  # float64 [faces, 4]: x, y, width, height in fractions of the picture
    scores: np.ndarray  # float64 [faces]
    grid: np.ndarray | None = None  # the network's raw output, where it is known


def difference(a: Faces, b: Faces) -> float:
    """The largest difference of any box edge or score; infinite where one of the two found more faces.

    Each face is compared with the nearest of the other, as two that score alike may come in either order.
    """
    if len(a.scores) != len(b.scores):
        return float("inf")
    if not len(a.scores):
        return 0.0
    left, right = (np.column_stack([faces.boxes, faces.scores]) for faces in (a, b))
    distance = np.abs(left[:, None, :] - right[None, :, :]).max(axis=-1)
    return float(np.maximum(distance.min(axis=0), distance.min(axis=1)).max())


def find_faces(detect, picture: np.ndarray, size: int, threshold: float) -> Faces:
    """Runs one detector (`network.detector`) on one picture (uint8 `[H, W, 3]`)."""
    pixels, content = pictures.fit_square(picture, size)
    found = {key: value.numpy() for key, value in detect(pixels[None], threshold).items()}
    return Faces(pictures.boxes_on_picture(found["boxes"], content), found["scores"].astype(np.float64), found["grid"])


def run_in_new_process(folder: Path, images: list[np.ndarray], size: int, threshold: float) -> list[Faces]:
    """Faces of all pictures, found by the SavedModel in `folder` in a Python process of its own."""
    fitted = [pictures.fit_square(image, size) for image in images]
    with tempfile.TemporaryDirectory() as scratch:
        pixels = Path(scratch) / "pixels.npy"
        np.save(pixels, np.stack([square for square, _ in fitted]))
        serve = Path(__file__).parent / "face_detector" / "serve.py"
        command = [sys.executable, str(serve), str(folder), str(pixels), repr(threshold)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the SavedModel does not run in a new process:\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    return [
        Faces(pictures.boxes_on_picture(np.reshape(f["boxes"], (-1, 4)), content), np.array(f["scores"], np.float64))
        for f, (_, content) in zip(found, fitted)
    ]


def gather_pictures(names: list[str], astronaut: bool) -> dict[str, np.ndarray]:
    """Reads every picture; the keys are distinct and usable as file names.

    Raises:
        PictureError: one of them cannot be read, or there is none.
    """
    images = {}
    if astronaut:
        try:
            import skimage.data
        except ImportError:
            raise pictures.PictureError(
                "the astronaut picture needs scikit-image: pip install scikit-image, or pass --noastronaut --image=..."
            ) from None
        images["astronaut"] = skimage.data.astronaut()
    for name in names:
        stem = key = Path(name).stem
        copy = 1
        while key in images:
            copy += 1
            key = f"{stem}_{copy}"
        images[key] = pictures.read_picture(name)
    if not images:
        raise pictures.PictureError("no picture to search: name one with --image, or leave --noastronaut out")
    return images


def report_picture(name: str, image: np.ndarray, stock: Faces, ours: Faces, saved_to: Path) -> float:
    """Prints the faces that both networks found in one picture; returns the largest difference of box or score."""
    count = len(ours.scores)
    print(f"\n{name}, {image.shape[1]} x {image.shape[0]} pixels: {count or 'no'} face{'s' * (count != 1)}")
    if count or len(stock.scores):
        print("  layer                               x       y   width  height   score")
    for label, faces in ((STOCK, stock), (OURS, ours)):
        for box, score in zip(faces.boxes, faces.scores):
            print(f"  {label:30}", *(f"{value:7.3f}" for value in box), f"{score:7.4f}")
    worst, raw = difference(stock, ours), np.abs(stock.grid - ours.grid).max()
    print(f"  largest difference: {worst:.1e} in boxes and scores, {raw:.1e} in raw output")
    print(f"  saved {saved_to}")
    return worst


def report_times(models: dict, image: np.ndarray, size: int, repeat: int) -> None:
    """Prints the median time of one pass of each network, without decoding, and stock over each.

    conv0, a dense convolution of the whole picture, is the same stock op in the first two; so their rest is timed alone
    as well.
    """
    import keras
    import tensorflow as tf
    from common.timing import medians_in_turn
    from face_detector import network

    pixels = tf.constant(pictures.fit_square(image, size)[0][None])
    forward = {}
    for name, model in models.items():
        forward[name, "network"] = functools.partial(tf.function(model), pixels, training=False)
        if name in (STOCK, OURS):
            front, rest = (keras.Sequential(part) for part in network.split(model))
            forward[name, "from conv1 on"] = functools.partial(tf.function(rest), front(pixels), training=False)
    forward[NATIVE, "network"] = functools.partial(_without_tensorflow(models[PROGRAM]), pixels.numpy())
    taken = medians_in_turn(forward, repeat)
    print(f"\nMilliseconds an image (batch 1, median of {repeat} runs taken in turn), and stock / each")
    parts = ("network", "from conv1 on")
    print(" " * 32, *(f"{part:>21}" for part in parts))
    for name in (*models, NATIVE):
        cells = [
            f"{taken[name, part]:14.3f} {taken[STOCK, part] / taken[name, part]:6.2f}"
            for part in parts
            if (name, part) in taken
        ]
        print(f"  {name:30}", *cells)


def _without_tensorflow(model):
    """The program of a converted model, from a file."""
    import tf_dwsconv
    from tf_dwsconv import native

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "faces.safetensors"
        tf_dwsconv.save_network(model, path)
        return native.Network(path)


def check_converted(models: dict, image: np.ndarray, stock: Faces, size: int, threshold: float) -> float:
    """Prints the largest difference of the converted networks' boxes and scores from the stock one's; returns it."""
    from face_detector import network

    worst = 0.0
    for name in (BLOCKS, PROGRAM):
        distance = difference(stock, find_faces(network.detector(models[name]), image, size, threshold))
        print(f"  {name}: largest difference {distance:.1e} in boxes and scores")
        worst = max(worst, distance) if distance == distance else distance
    return worst


def main(argv: list[str]) -> int:
    try:
        images = gather_pictures(_IMAGE.value + argv[1:], _ASTRONAUT.value)
    except pictures.PictureError as error:
        print(f"detect_faces: {error}", file=sys.stderr)
        return 2
    output = record.make_folder("output", _OUTPUT.value)

    # Imported late: a mistake in the arguments is answered before TensorFlow has started.
    import keras
    import tensorflow as tf
    from face_detector import network

    import tf_dwsconv

    logging.set_verbosity(logging.WARNING)
    size, threshold = _SIZE.value, _THRESHOLD.value
    models = {
        STOCK: network.build(keras.layers.SeparableConv2D, size),
        OURS: network.build(tf_dwsconv.DepthwiseSepConv2D, size),
    }
    detectors = {name: network.detector(model) for name, model in models.items()}
    models[BLOCKS] = tf_dwsconv.convert(models[STOCK], fuse="blocks")
    models[PROGRAM] = tf_dwsconv.convert(models[STOCK])
    fused = network.count_fused_ops(detectors[OURS])
    print(f"Tiny face detector, {size} x {size}, threshold {threshold:g}, TensorFlow {tf.__version__}")
    reason = tf_dwsconv.build_info()["reason"]
    print(
        f"{fused} of {len(network.SEPARABLE_FILTERS)} layers of the second network run the fused op. {reason}".rstrip()
    )

    failures = []
    found = {}
    for name, image in images.items():
        stock, ours = (find_faces(detectors[layer], image, size, threshold) for layer in (STOCK, OURS))
        path = output / f"{name}_faces.png"
        pictures.draw_faces(image, ours.boxes, ours.scores).save(path)
        if not report_picture(name, image, stock, ours, path) <= TOLERANCE:  # a NaN is a failure too
            failures.append(f"{name}: the two networks differ by more than {TOLERANCE:g}")
        if not check_converted(models, image, stock, size, threshold) <= TOLERANCE:
            failures.append(f"{name}: a converted network differs by more than {TOLERANCE:g}")
        found[name] = ours

    report_times(models, next(iter(images.values())), size, _REPEAT.value)

    folder = output / "saved_model"
    network.export(models[OURS], detectors[OURS], folder)
    served = run_in_new_process(folder, list(images.values()), size, threshold)
    worst = max(difference(faces, again) for faces, again in zip(found.values(), served))
    print(f"\n{folder} in a new process: largest difference {worst:.1e} in boxes and scores")
    if not worst <= TOLERANCE:
        failures.append(f"the SavedModel in a new process differs by more than {TOLERANCE:g}")

    for failure in failures:
        print(f"detect_faces: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    app.run(main)
