// What kernels take from CUDA, in one place. The same bodies are compiled by g++ over cuda/testing/shim.h, which runs
// the threads of a block as fibres on a CPU: so everything that g++ cannot read is behind a function of this file,
// element.cuh, async_copy.cuh or fragments.cuh.
#ifndef DWSCONV_CUDA_DEVICE_PLATFORM_CUH_
#define DWSCONV_CUDA_DEVICE_PLATFORM_CUH_

#include <cstdint>

#if defined(DWSCONV_SHIM)
#include "cuda/testing/shim.h"
#else
#include <cuda_runtime.h>

#define DWS_DEVICE __device__ __forceinline__
#define DWS_CALLED static __device__ __noinline__
#define DWS_GRID_CONSTANT __grid_constant__
#define DWS_UNROLL _Pragma("unroll")
#define DWS_ROLLED _Pragma("unroll 1")
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define DWS_UNROLL_TWICE _Pragma("unroll 1")  // there are no more registers for two
#else
#define DWS_UNROLL_TWICE _Pragma("unroll 2")
#endif
#endif

namespace dwsconv {
namespace cuda {

#if !defined(DWSCONV_SHIM)

// The block's shared memory, 16-byte aligned.
DWS_DEVICE char* SharedMemory() {
  extern __shared__ __align__(128) char dwsconv_shared[];
  return dwsconv_shared;
}

DWS_DEVICE void SyncBlock() { __syncthreads(); }

// SyncBlock, and whether `value` is true for any thread of the block.
DWS_DEVICE bool SyncBlockOr(bool value) { return __syncthreads_or(value) != 0; }

template <int kBarrier>
DWS_DEVICE void SyncNumber(int threads) {
  asm volatile("barrier.sync %0, %1;\n" ::"n"(kBarrier), "r"(threads) : "memory");
}

// A barrier of `threads` threads of the block, whole warps, which all name the same `group`: 0 to kMostGroups - 1, as
// barrier 0 is the block's own. By constants, as a number from a register would reserve all sixteen.
DWS_DEVICE void SyncGroup(int group, int threads) {
  switch (group) {
    case 0:
      return SyncNumber<1>(threads);
    case 1:
      return SyncNumber<2>(threads);
    case 2:
      return SyncNumber<3>(threads);
    default:
      return SyncNumber<4>(threads);
  }
}

// 10 * major + minor of the card that kernels are compiled for; of no meaning in host code.
#if defined(__CUDA_ARCH__)
constexpr int kCapability = __CUDA_ARCH__ / 10;
#else
constexpr int kCapability = 0;
#endif

// A barrier of the warp: its lanes see what the others have stored or copied before it.
DWS_DEVICE void SyncWarp() { __syncwarp(); }

DWS_DEVICE uint32_t ShuffleXor(uint32_t value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

// Something is computed again by plain loops. The shim counts it: with finite numbers it hides what went wrong before.
DWS_DEVICE void NoteRepair() {}

// The value, but the compiler knows nothing of it: what depends on it is computed here, not before a loop around it.
DWS_DEVICE uint32_t Opaque(uint32_t value) {
  asm volatile("" : "+r"(value));
  return value;
}

// Runs a kernel over `grid` blocks. "" or what CUDA says.
template <typename Args>
const char* LaunchKernel(void (*kernel)(Args), int64_t grid, int threads, int64_t shared_bytes, void* stream,
                         const Args& args) {
  cudaError_t error = cudaSuccess;
  if (shared_bytes > 48 << 10) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  }
  if (error == cudaSuccess) {
    void* arguments[] = {const_cast<Args*>(&args)};
    error = cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(static_cast<unsigned>(grid)),
                             dim3(static_cast<unsigned>(threads)), arguments, static_cast<size_t>(shared_bytes),
                             static_cast<cudaStream_t>(stream));
  }
  // The runtime keeps an error, and would answer somebody's next good call with it.
  if (error != cudaSuccess) cudaGetLastError();
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

#endif  // DWSCONV_SHIM

// Blocks of a multiprocessor that a kernel is to leave registers for: as many as are wanted on 9.0, where the compiler
// was seen to manage it without spills, one elsewhere.
constexpr int ResidentBlocks(int wanted) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ != 900
  return wanted > 1 ? 1 : wanted;
#else
  return wanted;
#endif
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEVICE_PLATFORM_CUH_
