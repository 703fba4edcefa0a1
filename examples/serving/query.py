"""Asks a model that serve.py, or TensorFlow Serving, has behind its REST API, and tells how long answers take.

  python examples/serving/query.py                                          # what serve.py serves
  python examples/serving/query.py --url=http://server:8501 --name=mine --batch_size=8 --threads=4

Needs no TensorFlow. It asks for the model's signature, sends random numbers of that shape, and prints the shape of the
answer, its largest number, and milliseconds a request.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `common`

import numpy as np
from absl import app, flags
from common import options, record

_URL = flags.DEFINE_string("url", "http://127.0.0.1:8501", "Of the server.")
_NAME = options.name()
_SIZE = options.size(224, "Rows and columns of the pictures where the model leaves them open, pixels.")
_BATCH_SIZE = options.batch_size(1, "Pictures a request.")
_REPEAT = options.repeat(10, "Requests of each thread.")
_THREADS = options.integer("threads", 1, "Threads that ask at a time.", 1, 1024)
_SEED = options.seed()


def ask(path: str, request: Optional[dict] = None) -> dict[str, Any]:
    """The server's answer; ends the program with its message where it refuses, and where there is none."""
    url = f"{_URL.value.rstrip('/')}/v1/models/{_NAME.value}{path}"
    body = None if request is None else json.dumps(request).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        record.fail(f"{url}: {error.code}: {error.read().decode(errors='replace').strip()}")
    except (OSError, ValueError) as error:
        record.fail(f"{url} (--url, --name): {error}")


def shape_of(metadata: dict[str, Any]) -> list[int]:
    """Of one example of the model's input."""
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    if len(signature["inputs"]) != 1:
        record.fail(f"the model has several inputs: {', '.join(signature['inputs'])}")
    (given,) = signature["inputs"].values()
    sizes = [int(dim["size"]) for dim in given["tensor_shape"]["dim"]]
    return [size if size >= 0 else _SIZE.value for size in sizes[1:]]


def main(argv: list[str]) -> None:
    options.no_arguments(argv)
    shape = shape_of(ask("/metadata"))
    numbers = np.random.default_rng(_SEED.value).standard_normal((_BATCH_SIZE.value, *shape))
    request = {"instances": np.round(numbers, 4).tolist()}
    predictions = np.asarray(ask(":predict", request)["predictions"])
    print(f"{_BATCH_SIZE.value} of {shape} -> {list(predictions.shape)}, largest number {predictions.max():.6g}")

    def times(_: int) -> list[float]:
        taken = []
        for _ in range(_REPEAT.value):
            start = time.perf_counter()
            ask(":predict", request)
            taken.append(1e3 * (time.perf_counter() - start))
        return taken

    with ThreadPoolExecutor(_THREADS.value) as pool:
        taken = [one for each in pool.map(times, range(_THREADS.value)) for one in each]
    print(f"{len(taken)} requests, median {statistics.median(taken):.1f} ms, with JSON and the network")


if __name__ == "__main__":
    app.run(main)
