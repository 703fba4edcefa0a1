"""The GPU kernels compile with nvcc, without a warning and without a spilled register in a fast one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from some_commits import one_commit_in_four


@pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="nvcc is not on PATH: the kernels were compiled for the CPU alone"
)
@one_commit_in_four(0, "ptxas takes six minutes, and the shim compiles the same files")
def test_kernels_compile_for_one_card():
    """For Hopper alone, as all architectures take minutes: make cuda does them."""
    out = ROOT / "build" / "cuda_test"
    done = subprocess.run(
        [str(ROOT / "tools" / "cuda.sh")],
        env={**os.environ, "DWSCONV_CUDA_ARCHS": "90a", "DWSCONV_CUDA_OUT": str(out)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "sm_90a" in report
    registers = re.findall(r"^\| `StreamKernel<.*Window<(\d), \d> ?>` \| (\d+) \|$", report, re.MULTILINE)
    assert len(registers) == 20
    # What the launch bounds leave a thread: the planner counts the blocks that a multiprocessor holds by it.
    assert max(int(count) for window, count in registers if window == "3") <= 168


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
def test_the_program_that_checks_a_card_compiles(tmp_path):
    for flags in (["-arch=sm_90"], ["-arch=sm_75", "-DDWSCONV_BEFORE_80"]):
        command = ["nvcc", "-std=c++17", "-I.", "-Werror", "all-warnings", *flags, "-o", str(tmp_path / "layouts")]
        subprocess.run([*command, "cuda/testing/layouts.cu"], check=True, cwd=ROOT)
    command = ["nvcc", "-std=c++17", "-I.", "-Werror", "all-warnings", "-gencode", "arch=compute_90a,code=sm_90a"]
    sources = ["cuda/testing/layouts_hopper.cu", "cuda/run/tensor_map.cu"]
    subprocess.run([*command, "-o", str(tmp_path / "layouts_hopper"), *sources], check=True, cwd=ROOT)


def test_machine_code_is_counted_by_straight_pieces():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import cuda_sass
    finally:
        sys.path.pop(0)
    text = """\t.section\t.text._Z3addPf,"ax",@progbits
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/               @P0 FFMA R1, R2, R3, R4 ;
        /*0020*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0030*/              @!P0 BRA `(.L_x_1) ;
        /*0040*/                   EXIT ;
"""
    assert cuda_sass.pieces(text) == {
        "_Z3addPf": [("entry", ["LDC"]), ("L_x_1", ["FFMA", "HMMA", "BRA"]), ("L_x_1", ["EXIT"])]
    }
    assert cuda_sass.readable(["_Z3addPf"]) == ["add"]


def test_a_spill_in_a_fast_kernel_is_an_error(tmp_path):
    """The report's check can fail, and lets the general kernels spill."""
    report = """ptxas info    : Compiling entry function '{kernel}' for 'sm_90'
    8 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers
"""
    program = ["python3", str(ROOT / "tools" / "cuda_report.py"), str(tmp_path)]
    (tmp_path / "a.log").write_text(report.format(kernel="_ZN7dwsconv4cuda15TransposeKernelIjEEvNS0_13TransposeArgsE"))
    assert subprocess.run(program, capture_output=True).returncode == 0
    assert "128 [12]" in (tmp_path / "report.md").read_text()
    half = "_ZN7dwsconv4cuda12StreamKernelINS0_13TensorCores16INS_{}EEENS0_6WindowILi3ELi1EEEEEvNS0_10StreamArgsE"
    for kernel, passes in (("8BFloat16", True), ("7Float16", False)):  # cards of 7.5 run no products of bfloat16
        (tmp_path / "b.log").write_text(report.format(kernel=half.format(kernel)).replace("sm_90", "sm_75"))
        assert (subprocess.run(program, capture_output=True).returncode == 0) == passes
    fast = "_ZN7dwsconv4cuda12StreamKernelINS0_10ExactFloatENS0_6WindowILi3ELi1EEEEEvNS0_10StreamArgsE"
    (tmp_path / "b.log").write_text(report.format(kernel=fast))
    failed = subprocess.run(program, capture_output=True, text=True)
    assert failed.returncode == 1 and "StreamKernel<ExactFloat, Window<3, 1>" in failed.stderr
