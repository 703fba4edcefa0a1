"""CIFAR-10 from the archives as they are distributed, or random pictures of its shape.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009). Both forms that it is handed out in
are read, packed or unpacked:

- Python: cifar-10-python.tar.gz, which holds cifar-10-batches-py/data_batch_1 to _5 and test_batch. Each is a pickle of
  a dict with `data`, uint8 `[n, 3072]`, and `labels`. Only arrays are unpickled; a file that asks for more is refused.
- Binary: cifar-10-binary.tar.gz, which holds cifar-10-batches-bin/data_batch_1.bin to _5.bin and test_batch.bin. Each
  is a row of records of 1 + 3072 bytes: label and picture.

A picture is 3 planes (red, green, blue) of 32 rows of 32 pixels.
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

PIXELS = 3 * 32 * 32
RECORD = 1 + PIXELS
CLASSES = 10
_NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
_FORMS = {
    "binary": ("cifar-10-batches-bin", [f"{name}.bin" for name in _NAMES], "cifar-10-binary.tar.gz"),
    "python": ("cifar-10-batches-py", _NAMES, "cifar-10-python.tar.gz"),
}


class CifarError(Exception):
    """An archive that is missing, or is not what it should be. The text names the file and what is wrong."""


class Cifar(NamedTuple):
    """Pictures uint8 `[n, 32, 32, 3]`, labels int32 `[n]` in 0..9; apart for training and test."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def load(place: str) -> Cifar:
    """Reads CIFAR-10.

    Args:
        place: an archive (.tar.gz), the folder it was unpacked to, or a folder that holds either.

    Raises:
        CifarError: nothing of that is there, or a file is truncated or damaged.
    """
    path = Path(place)
    if path.is_file():
        return _from_archive(path)
    for form, (folder, names, archive) in _FORMS.items():
        for own in (path, path / folder):
            if (own / names[0]).is_file():
                return _assemble(form, {name: _read_file(own / name) for name in names}, str(own))
        if (path / archive).is_file():
            return _from_archive(path / archive)
    raise CifarError(
        f"no CIFAR-10 in {place}: looked for {' and '.join(archive for _, _, archive in _FORMS.values())}, and for "
        f"what they hold ({', '.join(f'{folder}/{names[0]}' for folder, names, _ in _FORMS.values())})"
    )


def synthetic(pictures: int, seed: int) -> Cifar:
    """Pictures of CIFAR-10's shape that can be learned: noise around a pattern of each class.

    Args:
        pictures: for training; a tenth of them more are for test.
        seed: of all of it.
    """
    random = np.random.default_rng(seed)
    patterns = random.integers(64, 192, (CLASSES, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
    total = pictures + max(1, pictures // 10)
    y = random.integers(0, CLASSES, total).astype(np.int32)
    x = np.empty((total, 32, 32, 3), np.uint8)
    for start in range(0, total, 1000):  # a block at a time: noise of all would take eight times the pictures' memory
        own = patterns[y[start : start + 1000]]
        x[start : start + 1000] = own + random.integers(-60, 60, own.shape, np.int16)
    return Cifar(x[:pictures], y[:pictures], x[pictures:], y[pictures:])


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CifarError(f"{path} cannot be read: {error.strerror}") from None


def _from_archive(path: Path) -> Cifar:
    """Reads the files out of an archive, without unpacking it to the disk."""
    wanted = {name for _, names, _ in _FORMS.values() for name in names}
    found: dict[str, bytes] = {}
    others = []
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = Path(member.name).name
                if member.isfile() and name in wanted:
                    found[name] = archive.extractfile(member).read()
                else:
                    others.append(member.name)
            while archive.fileobj.read(1 << 20):  # to the checksum, which follows the last file
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise CifarError(
            f"{path} is truncated or damaged, or no .tar.gz: {error or type(error).__name__} "
            f"(after {len(found)} whole files)"
        ) from None
    for form, (_, names, _) in _FORMS.items():
        if names[0] in found:
            missing = [name for name in names if name not in found]
            if missing:
                raise CifarError(f"{path} lacks {', '.join(missing)}")
            return _assemble(form, {name: found[name] for name in names}, str(path))
    raise CifarError(f"{path} is not CIFAR-10: it holds {', '.join(others[:5]) or 'no files'}")


def _assemble(form: str, files: dict[str, bytes], place: str) -> Cifar:
    parse = _parse_binary if form == "binary" else _parse_python
    parts = [parse(content, f"{place}: {name}") for name, content in files.items()]
    train_x, train_y = (np.concatenate(each) for each in zip(*parts[:-1]))
    return Cifar(train_x, train_y, *parts[-1])


def _parse_binary(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    if not content or len(content) % RECORD:
        raise CifarError(
            f"{name} is truncated or damaged: {len(content)} bytes are not a whole number of records of {RECORD}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    return _pictures(records[:, 1:], records[:, 0], name)


def _parse_python(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises what it likes
        raise CifarError(f"{name} is truncated or damaged: {type(error).__name__}: {error}") from None
    parts = {key: _entry(batch, key) for key in ("data", "labels")}
    missing = [key for key, value in parts.items() if value is None]
    if missing:
        raise CifarError(f"{name} holds no {' and no '.join(missing)}")
    try:
        data, labels = np.asarray(parts["data"]), np.asarray(parts["labels"], np.int64)
    except (TypeError, ValueError, OverflowError):
        raise CifarError(f"{name}: labels are not integers") from None
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS or labels.shape != data.shape[:1]:
        raise CifarError(
            f"{name}: data must be uint8 [n, {PIXELS}] with as many labels; given {data.dtype} {list(data.shape)} with "
            f"{list(labels.shape)} labels"
        )
    return _pictures(data, labels, name)


def _entry(batch: object, key: str) -> Optional[object]:
    if not isinstance(batch, dict):
        return None
    return batch.get(key.encode(), batch.get(key))


def _pictures(planes: np.ndarray, labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    if labels.size and not (labels.min() >= 0 and labels.max() < CLASSES):
        raise CifarError(f"{name} is damaged: labels must be 0..{CLASSES - 1}; given {labels.min()}..{labels.max()}")
    return planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy(), labels.astype(np.int32)


class _ArraysOnly(pickle.Unpickler):
    """Unpickles NumPy arrays and plain values, and calls nothing else: a pickle may name any function to be called."""

    def find_class(self, module: str, name: str) -> object:
        own = module.replace("numpy.core", "numpy._core")
        if (own, name) in {
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.numeric", "_frombuffer"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }:
            return super().find_class(_numpy_module(own), name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no picture needs")


def _numpy_module(module: str) -> str:
    """NumPy 1 has no `numpy._core`."""
    if int(np.__version__.split(".")[0]) >= 2:
        return module
    return module.replace("numpy._core", "numpy.core")
