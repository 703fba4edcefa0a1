"""Pictures in and pictures out: decoding, fitting to the network's square, drawing boxes.

No TensorFlow here, so that a wrong file name is reported before a second is spent on importing it.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps


class PictureError(ValueError):
    """A picture that cannot be read; the message names the file and says why."""


def read_picture(path: str) -> np.ndarray:
    """Reads any picture that Pillow decodes, as a viewer would show it.

    EXIF orientation is applied, transparency is laid over white, 16-bit grey is scaled to 8 bits; of an animation the
    first frame is taken.

    Args:
        path: a file.

    Returns:
        uint8 `[H, W, 3]`, RGB.

    Raises:
        PictureError: no such file, a folder, not a picture, a broken or an absurdly large one.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return np.asarray(_as_rgb(ImageOps.exif_transpose(image)))
    except FileNotFoundError:
        raise PictureError(f"cannot read the picture {path!r}: no such file") from None
    except IsADirectoryError:
        raise PictureError(f"cannot read the picture {path!r}: it is a folder") from None
    except Image.UnidentifiedImageError:
        raise PictureError(f"cannot read the picture {path!r}: not in a format that Pillow {_pillow()} knows") from None
    # Pillow's decoders also raise SyntaxError and ValueError on malformed files.
    except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
        raise PictureError(f"cannot read the picture {path!r}: {error or type(error).__name__}") from error


def _pillow() -> str:
    return Image.__version__


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating point numbers; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # Pillow's own conversion would clip 16-bit grey at 255
        grey = np.asarray(image).astype(np.int64)
        image = Image.fromarray(np.clip(grey // 257, 0, 255).astype(np.uint8))
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def fit_square(picture: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Scales a picture's longer side to `size` and pads the shorter one with black at the bottom or right.

    That is what the detector was trained with (face-api's `toSquare`): the aspect of a face is kept.

    Args:
        picture: uint8 `[H, W, 3]`.
        size: side of the square in pixels.

    Returns:
        `(pixels, content)`: float32 `[size, size, 3]` in 0..255, and the `(width, height)` of the part of the square
        that the picture fills, as fractions of it.
    """
    height, width = picture.shape[:2]
    scale = size / max(height, width)
    fitted_width, fitted_height = max(1, round(width * scale)), max(1, round(height * scale))
    # As a browser scales, and as the published scores were taken: averaged down to less than twice the size, then plain
    # bilinear (the wider filter of Pillow's resize() scores a little differently).
    reduced = np.asarray(Image.fromarray(picture).reduce(max(1, int(1 / scale))), np.float32)
    pixels = np.zeros((size, size, 3), np.float32)
    pixels[:fitted_height, :fitted_width] = _bilinear(reduced, fitted_height, fitted_width)
    return pixels, np.array([fitted_width / size, fitted_height / size], np.float64)


def _bilinear(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    for axis, new in ((0, height), (1, width)):
        old = pixels.shape[axis]
        position = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
        below = np.floor(position).astype(int)
        part = (position - below).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        pixels = pixels.take(below, axis) * (1 - part) + pixels.take(np.minimum(below + 1, old - 1), axis) * part
    return pixels


def boxes_on_picture(boxes: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Turns boxes (x, y, width, height) in fractions of the square, `[faces, 4]`, into fractions of the picture."""
    return np.asarray(boxes, np.float64) / np.concatenate([content, content])


def draw_faces(picture: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> Image.Image:
    """Draws each box (x, y, width, height in fractions of the picture) with its score; clips boxes at the border."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    line = max(1, round(min(image.size) / 170))
    font = ImageFont.load_default(size=max(10, min(image.size) // 28))
    limit = np.array([image.width - 1, image.height - 1])
    for (x, y, width, height), score in zip(boxes, scores):
        corners = np.array([[x, y], [x + width, y + height]]) * image.size
        (left, top), (right, bottom) = np.clip(np.round(corners), 0, limit).astype(int)
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=(64, 255, 64), width=line)
        label = f"{score:.3f}"
        _, _, label_width, label_height = draw.textbbox((0, 0), label, font=font)
        label_y = top - label_height - line if top >= label_height + line else top + line
        label_x = max(0, min(left, image.width - label_width))
        label_end = (label_x + label_width + line, label_y + label_height + line // 2)
        draw.rectangle((label_x, label_y, *label_end), fill=(64, 255, 64))
        draw.text((label_x + line // 2, label_y), label, fill=(0, 0, 0), font=font)
    return image
