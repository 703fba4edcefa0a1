"""Writes _build_info.json: what the libraries of a package were built with, and which TensorFlow they are for.

tf_dwsconv reads it before it loads the op library, since an op library only works with the TensorFlow minor version it
was compiled for. Everything here is read off the files that were built, not assumed.
"""

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ISAS = ("generic", "avx2", "avx512", "avx512bf16", "avx512rounds")


def compiler(library: Path) -> str:
    """The compiler's own words in the library, for example "GCC: (Debian 12.2.0-14) 12.2.0"."""
    text = subprocess.run(
        ["readelf", "-p", ".comment", str(library)], check=True, capture_output=True, text=True
    ).stdout
    words = re.findall(r"^\s*\[[ 0-9a-f]+\]\s+(.*\S)\s*$", text, re.MULTILINE)
    return ", ".join(sorted(set(words)))


def isas(bazel_bin: Path) -> "list[str]":
    """The instruction sets that kernels were compiled for, least first."""
    objects = bazel_bin / "cc" / "cpu" / "_objs"
    return [isa for isa in ISAS if any((objects / f"kernels_{isa}").glob("*.o"))]


def abi(library: Path) -> str:
    """Which of libstdc++'s two ABIs TensorFlow and the op library share."""
    symbols = subprocess.run(["nm", "-D", str(library)], check=True, capture_output=True, text=True).stdout
    return "cxx11" if "__cxx11" in symbols else "cxx98"


def has_gpu_kernels(library: Path) -> bool:
    """Whether machine code or PTX of a GPU is in the library."""
    sections = subprocess.run(["readelf", "-SW", str(library)], check=True, capture_output=True, text=True).stdout
    return ".nv_fatbin" in sections


def main() -> None:
    bazel_bin, package = Path(sys.argv[1]), Path(sys.argv[2])
    ops = package / "_dwsconv_ops.so"
    info = {
        "tensorflow": version("tensorflow"),
        "compiler": compiler(ops),
        "cuda": has_gpu_kernels(ops),
        "isas": isas(bazel_bin),
        "abi": abi(ops),
    }
    text = json.dumps(info, indent=2) + "\n"
    file = package / "_build_info.json"
    if not file.exists() or file.read_text() != text:
        file.write_text(text)


if __name__ == "__main__":
    main()
