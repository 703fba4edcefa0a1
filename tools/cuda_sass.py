"""Counts a GPU kernel's instructions by kind, in each straight piece of its machine code: counts, not times.

Usage: cuda_sass.py FILE [--kernel REGEX] [--least N]. FILE is a cubin or an object that nvcc made for one architecture
(an object is taken apart by cuobjdump). Needs nvdisasm, of the CUDA toolkit or of the package nvidia-cuda-nvdisasm,
on PATH. Pieces shorter than N instructions (40) are left out.
"""

import argparse
import collections
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

LABEL = re.compile(r"^\.(L_x_\d+):")
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)")
SECTION = re.compile(r"^\s*\.section\s+\.text\.([^\s,]+)")
ENDS = {"BRA", "EXIT", "RET", "BRX", "BSYNC", "CALL"}


def pieces(text: str) -> "dict[str, list[tuple[str, list[str]]]]":
    """(label, instructions) of the straight pieces, by the mangled names of the kernels."""
    found = collections.defaultdict(list)
    kernel, label, piece = "", "", []

    def close():
        nonlocal piece
        if piece:
            found[kernel].append((label, piece))
        piece = []

    for line in text.splitlines():
        if match := SECTION.match(line):
            close()
            kernel, label = match.group(1), "entry"
        elif match := LABEL.match(line.strip()):
            close()
            label = match.group(1)
        elif match := INSTRUCTION.match(line):
            piece.append(match.group(1))
            if match.group(1) in ENDS:
                close()
    close()
    return found


def disassemble(path: Path) -> str:
    if shutil.which("nvdisasm") is None:
        sys.exit("error: there is no nvdisasm on PATH")
    if path.suffix == ".cubin":
        return subprocess.run(["nvdisasm", "-c", str(path)], check=True, capture_output=True, text=True).stdout
    if shutil.which("cuobjdump") is None:
        sys.exit("error: there is no cuobjdump on PATH, which takes an object apart")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["cuobjdump", "-xelf", "all", str(path.resolve())], check=True, capture_output=True, cwd=folder)
        return "\n".join(disassemble(cubin) for cubin in sorted(Path(folder).glob("*.cubin")))


def readable(names: "list[str]") -> "list[str]":
    out = subprocess.run(["c++filt"], input="\n".join(names), check=True, capture_output=True, text=True).stdout
    return [re.sub(r"^void |dwsconv::|cuda::|\([^()]*\)$", "", line) for line in out.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--kernel", default="", help="a regular expression that its readable name has")
    parser.add_argument("--least", type=int, default=40, help="the shortest piece that is shown")
    arguments = parser.parse_args()
    found = pieces(disassemble(arguments.file))
    shown = 0
    for name, kernel in zip(readable(list(found)), found):
        if not re.search(arguments.kernel, name):
            continue
        shown += 1
        print(f"{name}: {sum(len(piece) for _, piece in found[kernel])} instructions")
        for label, piece in found[kernel]:
            if len(piece) >= arguments.least:
                kinds = ", ".join(f"{kind} {n}" for kind, n in collections.Counter(piece).most_common(10))
                print(f"  {label:10} {len(piece):5}: {kinds}")
    if shown == 0:
        sys.exit(f"error: {arguments.file} has no kernel like {arguments.kernel!r}")


if __name__ == "__main__":
    main()
