"""What a run was made with, and what came out of it, in files that other programs read."""

from __future__ import annotations

import csv
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any


def settings(**more: Any) -> dict[str, Any]:
    """The versions, the machine and the environment that a run's figures depend on.

    Args:
        **more: what else belongs to the record: the seed, the flags.

    Returns:
        A dict that JSON takes.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    import tf_dwsconv
    from tf_dwsconv import native

    info, cpu = tf_dwsconv.build_info(), native.cpu_info()
    return {
        **more,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "tensorflow": tf.version.VERSION,
        "keras": keras.__version__,
        "tf_dwsconv": info["version"],
        "tf_dwsconv_runs": "fused kernels" if info["op_library"] else f"stock ops: {info['reason']}",
        "cpu": cpu_model(),
        "cores": cpu["cores"],
        "isa": cpu["isa"],
        "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads() or "all cores",
        "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "not set"),
    }


def cpu_model() -> str:
    """The CPU's name as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def print_settings(recorded: dict[str, Any]) -> None:
    """One short paragraph: what a reader needs to judge the figures that follow."""
    print("; ".join(f"{key} {value}" for key, value in recorded.items() if not isinstance(value, (dict, list))))


def make_folder(flag: str, folder: str) -> Path:
    """Makes the folder that a flag names; ends the program with one line where that is not possible."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(13, "not writable")
    except OSError as error:
        fail(f"cannot write to --{flag}={folder}: {error.strerror}")
    return path


def fail(message: str) -> None:
    """Ends the program with status 2 and one line on stderr, which names the program."""
    print(f"{Path(sys.argv[0]).stem}: {message}", file=sys.stderr)
    raise SystemExit(2)


def write_json(path: Path, content: Any) -> None:
    """Writes a whole file or none: a reader never sees half of it."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """One line for each row, under the names of the first row's keys."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
