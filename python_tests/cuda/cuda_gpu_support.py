"""What the tests share that want a GPU: whether there is one, the library of the kernels, their programs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, python_environment

LIBRARY = ROOT / "build" / "cuda" / "libdwsconv_cuda.so"


def gpus() -> str:
    """What nvidia-smi lists, or "" without one."""
    if shutil.which("nvidia-smi") is None:
        return ""
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def built_with_gpu_kernels() -> bool:
    info = ROOT / "tf_dwsconv" / "_build_info.json"
    return info.exists() and json.loads(info.read_text(encoding="utf-8"))["cuda"]


needs_gpu = pytest.mark.skipif(not gpus(), reason="there is no NVIDIA GPU here: the kernels were not run on one")
needs_gpu_build = pytest.mark.skipif(
    not built_with_gpu_kernels(), reason="the op library has no GPU kernels: make cuda builds it so"
)


def check_program(name: str) -> None:
    """Runs a program of this folder on the GPU kernels; fails where it does."""
    pytest.importorskip("torch", reason="PyTorch, which gives the tests their memory, is not installed")
    assert LIBRARY.exists(), "run make cuda first"
    done = subprocess.run(
        [sys.executable, str(ROOT / "python_tests" / "cuda" / name), str(LIBRARY)],
        env=python_environment(CUDA_VISIBLE_DEVICES="0"),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
