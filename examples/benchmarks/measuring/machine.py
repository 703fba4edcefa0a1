"""The machine that a run was made on: what it is, and what it can do at the most."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional

import numpy as np
from absl import flags

from tf_dwsconv import native
from tf_dwsconv.analysis import Machine

PEAK = flags.DEFINE_float(
    "peak_gflops",
    None,
    "10^9 floating-point operations a second at the most; measured by a matrix product if not given.",
    lower_bound=1e-3,
)
BANDWIDTH = flags.DEFINE_float(
    "memory_gbs", None, "10^9 bytes a second from and to memory; measured by copying if not given.", lower_bound=1e-3
)
KEEP = flags.DEFINE_bool(
    "keep_memory",
    True,
    "Freed memory stays with the process. Without it those that allocate each tensor anew, TensorFlow's and PyTorch's "
    "ops among them, wait for fresh pages where tensors are large: what they do by default, but not what their kernels "
    "take.",
)


def keep_memory() -> str:
    """By --keep_memory, tells the C library to keep what is freed; returns what it does now, for the record.

    Large tensors are mapped anew by each op otherwise, and the first touch of their pages is what gets timed: in a
    virtual machine it takes longer than the arithmetic (PyTorch's MobileNetV1 at batch 128: 2.7 s, and 0.7 s without).
    To be called before other threads start.
    """
    trim_threshold, mmap_max = -1, -4  # of mallopt(3), glibc
    if not KEEP.value:
        return "goes back to the system (--nokeep_memory)"
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return "goes back to the system (no mallopt)"
    kept = bool(mallopt(mmap_max, 0)) and bool(mallopt(trim_threshold, 2**31 - 1))
    return "is kept" if kept else "goes back to the system (mallopt refused)"


def describe() -> dict[str, Any]:
    """What Linux and the kernels tell of this machine: CPU, caches, memory, system. JSON takes it."""
    fields = _first_processor()
    cpu = native.cpu_info()
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        memory = 0
    return {
        "cpu": fields.get("model name", platform.processor() or "unknown"),
        "cpu family, model, stepping": ", ".join(fields.get(key, "?") for key in ("cpu family", "model", "stepping")),
        "cores": cpu["cores"],
        "isa": cpu["isa"],
        "bfloat16 products": cpu["bf16"],
        "L1d, L2, L3 KiB": ", ".join(str(cpu[f"{level}_bytes"] >> 10) for level in ("l1d", "l2", "l3")),
        "virtual machine": "yes" if "hypervisor" in fields.get("flags", "").split() else "not known to be one",
        "memory GiB": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def _first_processor() -> dict[str, str]:
    """The first paragraph of /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    lines = (line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in lines}


def copy_bandwidth(size_bytes: int, threads: int, seconds: float = 0.5) -> float:
    """Bytes a second read and written while `threads` copy a buffer of `size_bytes` in parts; the best of tries."""
    part = max(1, size_bytes // threads)
    source, target = np.ones(part * threads, np.uint8), np.zeros(part * threads, np.uint8)

    def copy(job: tuple[int, int]) -> None:
        offset, times = job[0] * part, job[1]
        for _ in range(times):
            ctypes.memmove(target.ctypes.data + offset, source.ctypes.data + offset, part)  # without the GIL

    times = max(1, (64 << 20) // size_bytes)  # a thread's start is to be small beside a copy
    with ThreadPoolExecutor(threads) as pool:
        best = _least_seconds(lambda: list(pool.map(copy, [(i, times) for i in range(threads)])), seconds)
    return 2 * part * threads * times / best


def _least_seconds(function: Callable[[], Any], seconds: float) -> float:
    """The least time of a call, of three calls or more within some seconds."""
    best, end, tries = math.inf, time.perf_counter() + seconds, 0
    while tries < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
        tries += 1
    return best


def product_rate(dtype: str, seconds: float = 1.0) -> float:
    """Floating-point operations a second of TensorFlow's matrix product, 2048 x 2048; the best of some tries."""
    import tensorflow as tf

    size = 2048
    factor = tf.cast(tf.random.stateless_normal([size, size], seed=[0, 0]), dtype)
    return 2 * size**3 / _least_seconds(lambda: tf.linalg.matmul(factor, factor), seconds)


def limits(dtype: str = "float32") -> tuple[Machine, str]:
    """What bounds a layer's time on this machine, by the flags or measured, and one line that says how.

    The bandwidth within the last cache is that of copying 4 MiB, for layers that move at most three quarters of it.

    Args:
        dtype: whose arithmetic; float16 is computed in float32 by this package and by TensorFlow's CPU kernels.
    """
    cpu = native.cpu_info()
    peak = PEAK.value * 1e9 if PEAK.value else product_rate("float32" if dtype == "float16" else dtype)
    memory = BANDWIDTH.value * 1e9 if BANDWIDTH.value else copy_bandwidth(256 << 20, cpu["cores"])
    cache: Optional[float] = None
    if cpu["l3_bytes"]:
        cache = max(memory, copy_bandwidth(4 << 20, cpu["cores"]))
    machine = Machine(peak, memory, cache, cpu["l3_bytes"] * 3 // 4 if cache else 0, name=f"{cpu['cores']} cores")
    how = (
        f"{peak / 1e9:.0f} GFLOP/s ({'given' if PEAK.value else f'{dtype} matrix product, measured'}), "
        f"{memory / 1e9:.1f} GB/s memory ({'given' if BANDWIDTH.value else 'copying, measured'})"
    )
    if cache:
        how += f", {cache / 1e9:.0f} GB/s in the last cache (copying, measured)"
    return machine, how
