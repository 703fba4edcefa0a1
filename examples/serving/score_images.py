"""Scores a folder of pictures by a converted network, on all cores of a machine or on a Ray cluster.

  python examples/serving/score_images.py --network=network.safetensors --images=photos --output=scores
  python examples/serving/score_images.py ... --address=auto      # the cluster that this machine is part of

`python -m tf_dwsconv.convert model.keras fused.keras --network network.safetensors` writes such a file. Workers run
it by tf_dwsconv.native.Network, without TensorFlow. Ray Data hands them parts of the list of pictures; each part
becomes a file of its own, part-00000.jsonl and so on, with a line for each picture:

  {"image": "cats/1.jpg", "top": [[281, 0.71], [285, 0.12]]}     the classes with the largest results, and these
  {"image": "cats/2.jpg", "error": "cannot identify image file"}

A part's file appears when it is whole, under its own name. So a run that was killed goes on where it was when it is
started again: no picture is lost, and none has two lines. A part whose worker dies is given to another worker. What was
asked stands in manifest.json; the same folder takes no other pictures, network or flags. On a cluster the folders and
the network are on a file system that all machines share, and tf_dwsconv is installed on each.

Needs ray[data], absl-py and Pillow.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `common`

from absl import app, flags
from common import options, record

_NETWORK = flags.DEFINE_string("network", "", "A network's file, as convert --network or save_network writes it.")
_IMAGES = flags.DEFINE_string("images", "", "Folder of pictures; those of its folders count too.")
_OUTPUT = options.output("scores", "the scores: a file for each part, and manifest.json")
_SIZE = options.size(224, "Rows and columns of a picture for the network, where that leaves them open.")
_SCALE = flags.DEFINE_float("scale", 1.0, "Pixels, 0 to 255, are multiplied by this: 0.00784314 for -1 to 1.")
_OFFSET = flags.DEFINE_float("offset", 0.0, "Then this is added: -1 for -1 to 1.")
_TOP = options.integer("top", 5, "Classes of each picture that are written.", 1, 10000)
_BATCH_SIZE = options.batch_size(8)
_PART = options.integer("part", 256, "Pictures a file, and what is scored again when a worker dies.", 1, 1 << 20)
_THREADS = options.integer("threads", 1, "Threads, and CPUs, of each worker.", 1, 1024)
_WORKERS = options.integer("workers", 0, "Workers; 0 for all CPUs.", 0, 100000)
_ADDRESS = flags.DEFINE_string("address", "local", "Of a Ray cluster; auto for this machine's, local for this machine.")

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp"}


def find_pictures(folder: Path) -> list[str]:
    """Their paths from the folder on, in order."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
    )


def write_whole(path: Path, text: str) -> None:
    """A whole file or none, also where several write the same."""
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def part_file(folder: Path, number: int) -> Path:
    """The file of a part."""
    return folder / f"part-{number:05d}.jsonl"


def begin(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes manifest.json, or ends the program where the folder's differs."""
    path = folder / "manifest.json"
    if not path.exists():
        write_whole(path, json.dumps(manifest, indent=2) + "\n")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        before = {}
    changed = sorted(key for key in {*before, *manifest} if before.get(key) != manifest.get(key))
    if changed:
        record.fail(f"--output={folder} holds scores of something else ({', '.join(changed)}): name another folder")


class Scorer:
    """A worker: one network, and the parts that it is given."""

    def __init__(self, settings: dict[str, Any]):
        from tf_dwsconv import native

        self.settings = settings
        self.network = native.Network(settings["network"])

    def read(self, name: str):
        """A picture as the network takes it, float32 [H,W,3]; an OSError or ValueError says what is wrong with it."""
        import numpy as np
        from PIL import Image

        try:
            with Image.open(Path(self.settings["images"]) / name) as image:
                rows, columns = self.settings["size"]
                pixels = np.asarray(image.convert("RGB").resize((columns, rows), Image.Resampling.BILINEAR), np.float32)
        except (Image.DecompressionBombError, SyntaxError) as error:
            raise ValueError(str(error)) from error
        return pixels * np.float32(self.settings["scale"]) + np.float32(self.settings["offset"])

    def score(self, pictures: list) -> list[list]:
        """The largest results of each picture, the largest first: [class, result]."""
        import numpy as np

        results = self.network(np.stack(pictures), num_threads=self.settings["threads"])
        results = results.reshape(len(pictures), -1)
        best = np.argsort(-results, axis=1, kind="stable")[:, : self.settings["top"]]
        return [[[int(i), float(row[i])] for i in order] for row, order in zip(results, best)]

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Scores a part, and writes its file."""
        lines, batch, errors = {}, [], 0
        names = list(row["pictures"])
        for name in names:
            try:
                batch.append((name, self.read(name)))
            except (OSError, ValueError) as error:
                lines[name] = {"image": name, "error": str(error)}
                errors += 1
            if batch and (len(batch) == self.settings["batch_size"] or name == names[-1]):
                for (scored, _), top in zip(batch, self.score([picture for _, picture in batch])):
                    lines[scored] = {"image": scored, "top": top}
                batch = []
        text = "".join(json.dumps(lines[name]) + "\n" for name in names)
        write_whole(part_file(Path(self.settings["output"]), int(row["part"])), text)
        return {"part": int(row["part"]), "pictures": len(names), "errors": errors}


def sizes_of(network: str) -> tuple[int, int]:
    """Rows and columns of the network's pictures; ends the program where it does not take pictures."""
    from tf_dwsconv import native

    try:
        loaded = native.Network(network)
    except (OSError, ValueError) as error:
        record.fail(f"--network={_NETWORK.value} cannot be loaded: {error}")
    inputs, results = loaded.inputs, len(loaded.outputs)
    shape = list(inputs[0]["shape"])
    if len(inputs) != 1 or len(shape) != 4 or shape[0] is not None or shape[3] != 3:
        given = [each["shape"] for each in inputs]
        record.fail(f"--network={_NETWORK.value} must take pictures [N,H,W,3], but takes {given}")
    if results != 1:
        record.fail(f"--network={_NETWORK.value} must have one result, but has {results}")
    return shape[1] or _SIZE.value, shape[2] or _SIZE.value


def run(parts: list[dict[str, Any]], settings: dict[str, Any], done: int, total: int) -> None:
    """Has all parts scored, and says how far it is."""
    import ray

    ray.init(address=_ADDRESS.value, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray").setLevel(logging.ERROR)
    most = max(1, int(ray.cluster_resources().get("CPU", 1)) // _THREADS.value)
    workers = min(_WORKERS.value or most, most, len(parts))
    print(f"{workers} workers of {_THREADS.value} threads", flush=True)
    # Every part is a task of its own: what is lost with a worker is one of them.
    scored = ray.data.from_items(parts, override_num_blocks=len(parts)).map(
        Scorer,
        fn_constructor_args=[settings],
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=_THREADS.value,
    )
    start, first, errors, told = time.monotonic(), done, 0, 0.0
    for row in scored.iter_rows():
        done, errors = done + row["pictures"], errors + row["errors"]
        now = time.monotonic() - start
        if now - told > 1 or done == total:
            told = now
            print(f"{done} of {total} pictures, {(done - first) / now:.1f} a second, {errors} unreadable", flush=True)
    ray.shutdown()


def main(argv: list[str]) -> None:
    options.no_arguments(argv)
    for flag, value, right in (
        ("network", _NETWORK.value, Path(_NETWORK.value).is_file()),
        ("images", _IMAGES.value, Path(_IMAGES.value).is_dir()),
    ):
        if not value or not right:
            record.fail(f"--{flag} must name a {'file' if flag == 'network' else 'folder'}, but is {value!r}")
    network, images = Path(_NETWORK.value).resolve(), Path(_IMAGES.value).resolve()
    size = sizes_of(str(network))
    pictures = find_pictures(images)
    if not pictures:
        record.fail(f"--images={_IMAGES.value} holds no picture ({', '.join(sorted(SUFFIXES))})")
    try:
        import ray
        import ray.data  # noqa: F401
        from PIL import Image  # noqa: F401
    except ImportError as error:
        record.fail(f"{error}: pip install 'tf_dwsconv[score]'")
    folder = record.make_folder("output", _OUTPUT.value).resolve()
    asked = {"size": list(size), "scale": _SCALE.value, "offset": _OFFSET.value, "top": _TOP.value, "part": _PART.value}
    listed = hashlib.sha256("\n".join(pictures).encode(errors="surrogateescape")).hexdigest()
    weights = hashlib.sha256(network.read_bytes()).hexdigest()
    begin(folder, {"network": weights, "pictures": listed, "count": len(pictures), **asked})

    parts = [
        {"part": number, "pictures": pictures[first : first + _PART.value]}
        for number, first in enumerate(range(0, len(pictures), _PART.value))
    ]
    left = [part for part in parts if not part_file(folder, part["part"]).exists()]
    done = len(pictures) - sum(len(part["pictures"]) for part in left)
    if done:
        print(f"{done} of {len(pictures)} pictures were scored before")
    settings = {**asked, "network": str(network), "images": str(images), "output": str(folder)}
    settings.update(batch_size=_BATCH_SIZE.value, threads=_THREADS.value)
    if left:
        run(left, settings, done, len(pictures))
    missing = [part["part"] for part in parts if not part_file(folder, part["part"]).exists()]
    if missing:
        record.fail(f"parts {missing} have no file: start the program again")
    print(f"{len(pictures)} pictures: {folder}/part-*.jsonl")


if __name__ == "__main__":
    app.run(main)
