"""The file of tuned plans: where it is, and changing it while others may read or write it.

The compiled half (cc/plan/tuned_plans.cc) reads it. A line is `<what the plan is for> : <the plan> # <remark>`; all but
the remark is made there too (`_native.tuning`), so that the two halves cannot disagree about its form.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Optional

from tf_dwsconv.native import _native

_VARIABLE = "DWSCONV_PLAN_CACHE"
_SEPARATOR = " : "


def cache_path() -> Optional[Path]:
    """The file that tuned plans are written to and read from.

    Returns:
        The environment's `DWSCONV_PLAN_CACHE` where it is set, None where that is empty or "off"; else `plans-v1.txt`
        in the user's cache folder for `tf_dwsconv` as `platformdirs` knows it.

    Raises:
        ImportError: `platformdirs` is not installed.
    """
    given = os.environ.get(_VARIABLE)
    if given is not None:
        return Path(given) if given not in ("", "off") else None
    try:
        import platformdirs
    except ImportError as error:
        raise ImportError(
            f"the place of the tuner's cache needs the package `platformdirs`, which could not be imported ({error}). "
            f"Install it with: pip install 'tf_dwsconv[tune]', or set {_VARIABLE} to a file"
        ) from error
    return Path(platformdirs.user_cache_dir("tf_dwsconv")) / "plans-v1.txt"


def reload() -> int:
    """Makes this process read the file anew, in `native` and, where TensorFlow has loaded it, in the op's library.

    Processes that start later do so by themselves. A call that runs already is not affected.

    Returns:
        How many plans the file has for this CPU.
    """
    state = getattr(sys.modules.get("tf_dwsconv._tf.library"), "_state", None)
    if state is not None and state.path is not None:
        ctypes.CDLL(state.path).dwsconv_reload_plans()
    return _native.reload_tuned_plans()


def read(path: Path) -> list[str]:
    """The file's lines of plans, whatever CPU they are for; none where there is no file.

    Raises:
        ValueError: the file is something else.
        OSError: it cannot be read.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    if lines and lines[0] != _native.TUNED_PLANS_HEADER:
        raise ValueError(
            f"{path} is not a file of tuned plans: its first line is not {_native.TUNED_PLANS_HEADER!r}. Remove it, or "
            f"set {_VARIABLE} to another file"
        )
    return [line for line in lines if line.startswith("cpu=") and _SEPARATOR in line]


def subject(line: str) -> str:
    """What a line's plan is for: its problem, machine and number of threads."""
    return line.split(_SEPARATOR, 1)[0]


def update(path: Path, lines: Iterable[str], forget: Iterable[str] = ()) -> None:
    """Puts `lines` into the file in the place of those with the same subject, and takes out the subjects `forget`.

    Readers see the old file or the new one, and of two writers neither loses what the other wrote.

    Raises:
        ValueError, OSError: as `read`; the folder or the file cannot be written.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        plans = {subject(line): line for line in read(path)}
        for gone in forget:
            plans.pop(gone, None)
        plans.update((subject(line), line) for line in lines)
        _write(path, [_native.TUNED_PLANS_HEADER, *plans.values()])


def clear(path: Path) -> int:
    """Removes the file. Returns how many plans were in it; errors as `read`."""
    path = Path(os.path.realpath(path))
    if not path.exists():
        return 0
    with _locked(path):
        count = len(read(path))
        path.unlink()
    return count


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[Any]:
    import fcntl

    # Beside the file, which each writer replaces by another.
    with open(path.with_name(path.name + ".lock"), "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, lines: list[str]) -> None:
    number, name = tempfile.mkstemp(prefix=path.name, suffix=".new", dir=path.parent)
    try:
        with open(number, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
