"""Reads what ptxas said of the GPU kernels: a table as build/cuda/report.md, and an error where a fast kernel spills.

Usage: cuda_report.py FOLDER, which has the compilers' output as *.log.
"""

import collections
import re
import subprocess
import sys
from pathlib import Path

# What may spill: kernels for whatever has no faster one.
GENERAL = re.compile(r"Direct|DepthwiseGeneral|Transpose|BlockPixels|BlockGeneral|AnyWindow|PointwiseKernel<.*false>")

# What no card runs: the planner gives those of compute capability 7.5 no products of bfloat16 or TF32.
UNREACHED = re.compile(r".*TensorCores(Tf32|16<BFloat16>).* for sm_7\d")

# Patterns of fast kernels that are known to spill, and how many bytes (docs/cuda.md): to be mended, and no more until
# then.
KNOWN = {
    r"StreamKernel<TensorCores16<\w+>, Window<7, 1> ?> for sm_1[01]\d[a-z]?": 8,
    r"StreamKernel<TensorCores16<\w+>, Window<3, 2> ?> for sm_1[12]\d[a-z]?": 8,
    r"DeepKernel<TensorCores16<\w+>, Window<[35], \d> ?> for sm_8\d": 96,
}

ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")


def demangle(names: "list[str]") -> "dict[str, str]":
    """Readable names, without namespaces and arguments."""
    out = subprocess.run(["c++filt"], input="\n".join(names), check=True, capture_output=True, text=True).stdout
    short = [re.sub(r"^void |dwsconv::|cuda::|\((?!bool)\S+\)$", "", line) for line in out.splitlines()]
    return dict(zip(names, (re.sub(r"\(bool\)([01])", r"\1", s).replace(", 0>", ", false>") for s in short)))


def read(folder: Path) -> "dict[str, dict[str, tuple[int, int]]]":
    """(registers, spilled bytes) by kernel and architecture."""
    found = collections.defaultdict(dict)
    for log in sorted(folder.glob("*.log")):
        kernel = arch = None
        spilled = 0
        for line in log.read_text(encoding="utf-8").splitlines():
            if match := ENTRY.search(line):
                kernel, arch = match.groups()
            elif match := SPILLS.search(line):
                spilled = int(match.group(2)) + int(match.group(3))
            elif (match := REGISTERS.search(line)) and kernel:
                found[kernel][arch] = (int(match.group(1)), spilled)
                kernel = None
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    found = read(folder)
    if not found:
        sys.exit(f"error: {folder} has no report of ptxas")
    names = demangle(list(found))
    archs = sorted({arch for kernels in found.values() for arch in kernels}, key=lambda a: int(re.sub(r"\D", "", a)))
    lines = [
        "Registers of a thread; spilled bytes in brackets.",
        "",
        "| kernel | " + " | ".join(archs) + " |",
        "| --- |" + " ---: |" * len(archs),
    ]
    wrong, known = [], []
    for kernel in sorted(found, key=names.get):
        cells = []
        for arch in archs:
            registers, spilled = found[kernel].get(arch, (0, 0))
            cells.append(f"{registers} [{spilled}]" if spilled else str(registers or ""))
            if spilled and not GENERAL.search(names[kernel]):
                what = f"{names[kernel]} for {arch}"
                if UNREACHED.fullmatch(what):
                    continue
                is_known = any(re.fullmatch(pattern, what) and spilled <= most for pattern, most in KNOWN.items())
                (known if is_known else wrong).append(f"{what}: {spilled} bytes")
        lines.append(f"| `{names[kernel]}` | " + " | ".join(cells) + " |")
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f">> {len(found)} kernels, {len(archs)} architectures: {folder}/report.md")
    if known:
        print("warning: registers of fast kernels are spilled, which is known:\n  " + "\n  ".join(known))
    if wrong:
        sys.exit("error: registers of fast kernels are spilled:\n  " + "\n  ".join(wrong))


if __name__ == "__main__":
    main()
