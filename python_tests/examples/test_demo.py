"""The demo end to end: both networks find the astronaut, and any picture a user names is read or refused cleanly."""

import os
import subprocess
import sys

import detect_faces as demo
import numpy as np
import pytest
from conftest import ROOT
from face_detector import network, pictures
from PIL import Image

# Published with the weights (third_party/tiny_face_detector/NOTICE): x, y, width, height, then the score.
ASTRONAUT_416 = (0.318, 0.146, 0.229, 0.224, 0.954)


@pytest.fixture(scope="module")
def astronaut():
    import skimage.data

    return skimage.data.astronaut()


@pytest.fixture(scope="module")
def detectors():
    """Detectors by (layer class name, size), each built once."""
    import keras

    import tf_dwsconv

    built = {}

    def get(layer, size):
        if (layer, size) not in built:
            cls = {"stock": keras.layers.SeparableConv2D, "ours": tf_dwsconv.DepthwiseSepConv2D}[layer]
            built[layer, size] = network.detector(network.build(cls, size))
        return built[layer, size]

    return get


def run_demo(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo/detect_faces.py"), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


@pytest.mark.parametrize("layer", ["stock", "ours"])
def test_published_face_is_found(detectors, astronaut, layer):
    faces = demo.find_faces(detectors(layer, 416), astronaut, 416, 0.5)
    assert len(faces.scores) == 1
    np.testing.assert_allclose([*faces.boxes[0], faces.scores[0]], ASTRONAUT_416, atol=6e-4)


@pytest.mark.parametrize("size", [416, 224])
def test_both_networks_agree(detectors, astronaut, size):
    stock, ours = (demo.find_faces(detectors(layer, size), astronaut, size, 0.5) for layer in ("stock", "ours"))
    assert len(stock.scores) == 1
    assert demo.difference(stock, ours) < 1e-4
    np.testing.assert_allclose(ours.grid, stock.grid, atol=1e-3)
    # The smaller input places the same face less exactly.
    np.testing.assert_allclose(ours.boxes[0], ASTRONAUT_416[:4], atol=0.04)


def test_second_network_runs_the_fused_op(detectors):
    assert network.count_fused_ops(detectors("ours", 416)) == 5
    assert network.count_fused_ops(detectors("stock", 416)) == 0


def test_keras_file_keeps_layer_and_weights(tmp_path):
    import keras

    import tf_dwsconv

    model = network.build(tf_dwsconv.DepthwiseSepConv2D, 64)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(again.get_layer("conv3"), tf_dwsconv.DepthwiseSepConv2D)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    np.testing.assert_array_equal(again(pixels), model(pixels))


@pytest.mark.parametrize("crop", [np.s_[:300], np.s_[:, 100:350]], ids=["wide", "tall"])
def test_box_of_a_picture_that_is_not_square_lands_on_the_face(detectors, astronaut, crop):
    cropped = astronaut[crop]
    faces = demo.find_faces(detectors("ours", 416), cropped, 416, 0.5)
    assert len(faces.scores) == 1
    offset = np.array([100, 0] if cropped.shape[0] == 512 else [0, 0])
    height, width = cropped.shape[:2]
    box = faces.boxes[0] * [width, height, width, height]
    np.testing.assert_allclose([*(box[:2] + offset), *box[2:]], np.array(ASTRONAUT_416[:4]) * 512, atol=10)


def test_every_picture_of_a_run_is_searched_and_served(tmp_path, astronaut):
    Image.fromarray(astronaut[:300]).convert("L").save(tmp_path / "grey wide.png")
    Image.fromarray(np.full((3, 1, 3), 90, np.uint8)).save(tmp_path / "tiny.png")
    output = tmp_path / "new" / "output"
    done = run_demo("--image", tmp_path / "grey wide.png", tmp_path / "tiny.png", "--repeat=2", "--output", output)
    assert done.returncode == 0, done.stderr
    assert "astronaut, 512 x 512 pixels: 1 face" in done.stdout
    assert "grey wide, 512 x 300 pixels: 1 face" in done.stdout
    assert "tiny, 1 x 3 pixels: no faces" in done.stdout
    assert "5 of 5 layers" in done.stdout
    assert "in a new process: largest difference" in done.stdout
    with Image.open(output / "grey wide_faces.png") as drawn:
        assert drawn.size == (512, 300)
        assert (np.asarray(drawn) == (64, 255, 64)).all(axis=-1).any()


@pytest.mark.parametrize("case", ["absent", "folder", "text", "empty", "cut", "floats"])
def test_unreadable_picture_is_an_error_and_no_traceback(tmp_path, astronaut, case):
    path = tmp_path / "picture.png"
    if case == "folder":
        path.mkdir()
    elif case == "text":
        path.write_text("not a picture")
    elif case == "empty":
        path.touch()
    elif case == "cut":
        Image.fromarray(astronaut).save(path)
        path.write_bytes(path.read_bytes()[:30000])
    elif case == "floats":
        path = path.with_suffix(".tif")
        Image.fromarray(np.zeros((4, 4), np.float32)).save(path)
    with pytest.raises(pictures.PictureError, match="cannot read the picture"):
        pictures.read_picture(str(path))
    done = run_demo("--image", path, "--output", tmp_path / "output")
    assert done.returncode == 2
    assert str(path) in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("size", ["100", "0", "-32", "8192"])
def test_wrong_size_is_refused(tmp_path, size):
    done = run_demo(f"--size={size}", "--output", tmp_path)
    assert done.returncode not in (0, None)
    assert f"flag --size={size}: " in done.stderr and "Traceback" not in done.stderr


class TestReading:
    def test_exif_orientation_is_applied(self, tmp_path, astronaut):
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera lay on its side
        Image.fromarray(np.rot90(astronaut)).save(tmp_path / "a.png", exif=exif)
        np.testing.assert_array_equal(pictures.read_picture(str(tmp_path / "a.png")), astronaut)

    def test_transparency_is_laid_over_white(self, tmp_path):
        pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        expected = [[[10, 20, 30], [255, 255, 255]]]
        np.testing.assert_array_equal(pictures.read_picture(str(tmp_path / "a.png")), expected)

    def test_16_bit_grey_is_scaled_not_clipped(self, tmp_path):
        grey = np.array([[0, 1000, 30000, 65535]], np.uint16)
        Image.fromarray(grey).save(tmp_path / "a.png")
        read = pictures.read_picture(str(tmp_path / "a.png"))
        np.testing.assert_array_equal(read, np.repeat(grey[..., None] // 257, 3, axis=-1))

    def test_grey_palette_and_one_bit_become_rgb(self, tmp_path, astronaut):
        for mode in ("L", "LA", "P", "1", "CMYK"):
            path = str(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
            Image.fromarray(astronaut).convert(mode).save(path)
            read = pictures.read_picture(path)
            assert read.shape == (512, 512, 3) and read.dtype == np.uint8 and read.std() > 10


class TestFitting:
    @pytest.mark.parametrize("shape", [(1, 1), (3000, 1), (1, 3000), (37, 53), (900, 1800), (416, 416)])
    def test_square_holds_the_picture_and_black(self, shape):
        picture = np.full((*shape, 3), 200, np.uint8)
        pixels, content = pictures.fit_square(picture, 416)
        assert pixels.shape == (416, 416, 3) and pixels.dtype == np.float32
        width, height = np.round(content * 416).astype(int)
        assert max(width, height) == 416 and min(width, height) >= 1
        np.testing.assert_allclose(pixels[:height, :width], 200, rtol=1e-6)
        assert not pixels[height:].any() and not pixels[:, width:].any()

    def test_same_size_is_left_as_it_is(self):
        picture = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        np.testing.assert_array_equal(pictures.fit_square(picture, 64)[0], picture)

    def test_scaling_keeps_positions(self):
        """A linear ramp stays the ramp, sampled at pixel centres, up and down and over the integer reduction."""
        for size in (64, 96, 320, 352):
            ramp = np.tile(np.arange(192, dtype=np.uint8)[:, None, None], (1, 192, 3))
            rows = pictures.fit_square(ramp, size)[0][:, size // 2, 0]
            expected = (np.arange(size) + 0.5) * 192 / size - 0.5
            np.testing.assert_allclose(rows[8:-8], expected[8:-8], atol=0.51)


class TestDecoding:
    def test_one_cell_and_anchor(self):
        grid = np.full((13, 13, 5, 5), -20, np.float32)
        grid[4, 7, 2] = [0.3, -0.8, 0.1, 0.2, 2.0]
        boxes, scores = network.select(*network.decode(grid.reshape(13, 13, 25)), 0.5)
        assert boxes.shape == (1, 4)
        width, height = np.exp([0.1, 0.2]) * network.ANCHORS[2] / 13
        x, y = (7 + 1 / (1 + np.exp(-0.3))) / 13, (4 + 1 / (1 + np.exp(0.8))) / 13
        np.testing.assert_allclose(boxes[0], [x - width / 2, y - height / 2, width, height], rtol=1e-5)
        np.testing.assert_allclose(scores, [1 / (1 + np.exp(-2.0))], rtol=1e-5)

    def test_the_best_of_overlapping_boxes_is_kept(self):
        boxes = np.array([[0, 0, 0.5, 0.5], [0.02, 0, 0.5, 0.5], [0.5, 0.5, 0.4, 0.4]], np.float32)
        kept, scores = network.select(boxes, np.array([0.7, 0.9, 0.6], np.float32), 0.5)
        np.testing.assert_allclose(scores, [0.9, 0.6])
        np.testing.assert_allclose(kept, boxes[[1, 2]])


class TestDifference:
    FACES = demo.Faces(np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.2, 0.2]]), np.array([0.9, 0.8]))

    def test_order_does_not_matter(self):
        assert demo.difference(self.FACES, demo.Faces(self.FACES.boxes[::-1], self.FACES.scores[::-1])) == 0

    def test_a_missing_face_is_infinite(self):
        assert demo.difference(self.FACES, demo.Faces(self.FACES.boxes[:1], self.FACES.scores[:1])) == float("inf")

    @pytest.mark.parametrize("change", [2e-4, np.nan])
    def test_a_moved_box_is_seen(self, change):
        moved = demo.Faces(self.FACES.boxes + [[0, 0, 0, 0], [0, 0, 0, change]], self.FACES.scores)
        assert not demo.difference(self.FACES, moved) <= demo.TOLERANCE
