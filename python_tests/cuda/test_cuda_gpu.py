"""On a GPU, where there is one: the kernels by themselves, and what TensorFlow does with the ops."""

from __future__ import annotations

import subprocess

import pytest
from conftest import ROOT, run_python
from cuda_gpu_support import built_with_gpu_kernels, check_program, gpus, needs_gpu, needs_gpu_build
from run_tensorflow_gpu import NOTHING_TESTED, SECTIONS


@needs_gpu
@pytest.mark.parametrize(
    "program", ["cuda_gpu_program.py", "cuda_block_gpu_program.py", "cuda_backward_gpu_program.py"]
)
def test_kernels_on_the_gpu(program):
    check_program(program)


RUN = "import sys, run_tensorflow_gpu; sys.exit(run_tensorflow_gpu.main(sys.argv[1:]))"


@needs_gpu
@needs_gpu_build
@pytest.mark.parametrize("section", SECTIONS)
def test_tensorflow_on_the_gpu(section):
    done = run_python(RUN, section, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU here")
def test_without_a_gpu_the_script_says_that_nothing_was_tested():
    done = run_python(RUN)
    assert done.returncode == NOTHING_TESTED and "SKIPPED, nothing was tested" in done.stderr, done.stderr[-2000:]


def test_a_section_that_there_is_not_is_an_error():
    done = run_python(RUN, "placemint")
    assert done.returncode == 2 and "SECTION must be one of placement, blocks" in done.stderr


def test_what_the_build_says_of_gpu_kernels_is_so():
    """_build_info.json and the library agree, with and without GPU kernels."""
    library = ROOT / "tf_dwsconv" / "_dwsconv_ops.so"
    sections = subprocess.run(["readelf", "-SW", str(library)], check=True, capture_output=True, text=True).stdout
    symbols = subprocess.run(["nm", "-D", str(library)], check=True, capture_output=True, text=True).stdout
    assert built_with_gpu_kernels() == (".nv_fatbin" in sections) == ("dwsconv_gpu_calls" in symbols)
    # The runtime inside is nobody else's.
    assert " T cudaMalloc" not in symbols
