"""The machine code of the GPU kernels, where nvcc and nvdisasm are on PATH; and how a launch leaves the runtime."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from conftest import ROOT

needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None or shutil.which("nvdisasm") is None,
    reason="nvcc and nvdisasm are not on PATH: nobody has looked at the machine code",
)

# A kernel whose patches are masked, and one that is an activation alone.
PROBE = """
#include "cuda/depthwise/depthwise_kernel.cuh"
namespace dwsconv { namespace cuda {
template __global__ void DepthwiseKernel<Float16, Window<5, 1>>(const DepthwiseArgs);
struct Args { float* to; DeviceActivation out; };
__global__ void ActivationProbe(const Args args) {
  float values[4][16];
  for (int i = 0; i < 64; ++i) values[i / 16][i % 16] = args.to[i * 32 + threadIdx.x];
  ActivateAll<Float16>(values, args.out);
  for (int i = 0; i < 64; ++i) args.to[i * 32 + threadIdx.x] = values[i / 16][i % 16];
}
} }
"""
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE)


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """The instructions of both, as written, for 9.0."""
    folder = tmp_path_factory.mktemp("probe")
    (folder / "probe.cu").write_text(PROBE, encoding="utf-8")
    command = ["nvcc", "-std=c++17", "-O3", "-I.", "-arch=sm_90", "-cubin", "-o", str(folder / "probe.cubin")]
    subprocess.run([*command, str(folder / "probe.cu")], check=True, cwd=ROOT)
    command = ["nvdisasm", "-c", str(folder / "probe.cubin")]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    sections = re.split(r"^\s*\.section\s+\.text\.", text, flags=re.MULTILINE)[1:]
    return {
        ("patch" if "DepthwiseKernel" in s.split(",")[0] else "activation"): INSTRUCTION.findall(s) for s in sections
    }


@needs_nvcc
def test_a_masked_patch_loads_a_row_before_it_waits(code):
    """Multiply-adds between loads are where the loads are waited for: once or twice a row, not once a word."""
    groups, loading = 0, False
    for op in code["patch"]:
        if op.startswith("LDG"):
            groups, loading = groups + (not loading), True
        elif op.startswith("FFMA"):
            loading = False
    loads = sum(op.startswith("LDG") for op in code["patch"])
    assert loads >= 25 + 8 * 8
    assert groups <= 2 * 8 + 4, f"{loads} loads in {groups} groups"


@needs_nvcc
def test_an_activation_is_chosen_once(code):
    """No jump for each of 64 values, and no full division or error function of 30 instructions."""
    ops = code["activation"]
    assert sum(op.split(".")[0] in ("BRX", "BRA", "CALL") for op in ops) <= 24
    # silu, gelu and sigmoid: a power and a reciprocal each; tanh: a reciprocal
    assert sum(op.startswith("MUFU") for op in ops) == (3 * 2 + 1) * 64
    assert len(ops) < 64 * 80


@needs_nvcc
@pytest.mark.parametrize("source, count, of_halves", [("product", 3, 3), ("backward", 4, 4)])
def test_products_for_hopper_are_by_its_own_instructions(tmp_path, source, count, of_halves):
    """A stage is four products of wgmma and some tiles of the copy engine, of floats two; none is in local memory."""
    command = [
        "nvcc",
        "-std=c++17",
        "-O3",
        "-I.",
        "-gencode",
        "arch=compute_90a,code=sm_90a",
        "-Werror",
        "all-warnings",
    ]
    cubin = str(tmp_path / "warpgroup.cubin")
    subprocess.run([*command, "-cubin", "-o", cubin, f"cuda/{source}/warpgroup.cu"], check=True, cwd=ROOT)
    text = subprocess.run(["nvdisasm", "-c", cubin], check=True, capture_output=True, text=True).stdout
    kernels = re.split(r"^\s*\.section\s+\.text\.", text, flags=re.MULTILINE)[1:]
    assert len(kernels) == count
    for kernel in kernels:
        tiles = 2 if "KernelIfE" in kernel.split(",")[0] else of_halves
        ops = [op.split(".")[0] for op in INSTRUCTION.findall(kernel)]
        assert (ops.count("HGMMA"), ops.count("UTMALDG"), ops.count("HMMA")) == (4, tiles, 0)
        assert not {"LDL", "STL"} & set(ops)


RUNTIME = """
#include <cstddef>
#include <cstdio>
#include <cstring>
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
using cudaStream_t = void*;
struct dim3 { unsigned x; explicit dim3(unsigned n) : x(n) {} };
inline cudaError_t last = cudaSuccess;  // as CUDA's runtime has it
inline cudaError_t refuse_attribute = cudaSuccess, refuse_launch = cudaSuccess;
inline int launches = 0;
inline cudaError_t Fails(cudaError_t error) { if (error != cudaSuccess) last = error; return error; }
template <typename K> cudaError_t cudaFuncSetAttribute(K*, cudaFuncAttribute, int) { return Fails(refuse_attribute); }
inline cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, size_t, cudaStream_t) {
  ++launches;
  return Fails(refuse_launch);
}
inline cudaError_t cudaGetLastError() { const cudaError_t was = last; last = cudaSuccess; return was; }
inline const char* cudaGetErrorString(cudaError_t) { return "invalid value"; }
inline void __syncthreads() {}
inline void __syncwarp() {}
inline int __syncthreads_or(int value) { return value; }
inline unsigned __shfl_xor_sync(unsigned, unsigned value, int) { return value; }
"""

LAUNCHES = """
#include "cuda/device/platform.cuh"
struct Args { int value; };
void Kernel(Args) {}
int main() {
  const auto launch = [] { return *dwsconv::cuda::LaunchKernel(Kernel, 1, 32, 64 << 10, nullptr, Args{0}) == '\\0'; };
  if (!launch() || launches != 1) return 1;
  refuse_attribute = cudaErrorInvalidValue;
  if (launch() || launches != 1 || last != cudaSuccess) return 2;
  refuse_attribute = cudaSuccess, refuse_launch = cudaErrorInvalidValue;
  if (launch() || launches != 2 || last != cudaSuccess) return 3;
  refuse_launch = cudaSuccess;
  return launch() && launches == 3 ? 0 : 4;
}
"""


def test_a_failed_launch_leaves_no_error_behind(tmp_path):
    """Over a runtime that keeps its last error as CUDA's does: the next good call would be answered with it."""
    (tmp_path / "cuda_runtime.h").write_text(RUNTIME, encoding="utf-8")
    (tmp_path / "launches.cc").write_text(LAUNCHES, encoding="utf-8")
    macros = ["-D__device__=", "-D__forceinline__=inline", "-D__shared__=", "-D__align__(n)="]
    command = ["g++", "-std=c++17", "-Wno-unknown-pragmas", f"-I{tmp_path}", "-I.", *macros]
    program = tmp_path / "launches"
    subprocess.run([*command, str(tmp_path / "launches.cc"), "-o", str(program)], check=True, cwd=ROOT)
    assert subprocess.run([str(program)]).returncode == 0
