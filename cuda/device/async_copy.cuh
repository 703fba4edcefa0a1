// Copies from global to shared memory that run while the threads go on (cp.async, from sm_80 on; older cards wait).
#ifndef DWSCONV_CUDA_DEVICE_ASYNC_COPY_CUH_
#define DWSCONV_CUDA_DEVICE_ASYNC_COPY_CUH_

#include <cstdint>

#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

#if !defined(DWSCONV_SHIM)

DWS_DEVICE uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// 16 bytes, both sides aligned to 16; zeros where `valid` is false, and then `global` is not read. Past L1: what is
// copied is read once from there.
DWS_DEVICE void CopyAsync16(void* shared, const void* global, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(SharedAddress(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
#else
  *static_cast<uint4*>(shared) = valid ? __ldg(static_cast<const uint4*>(global)) : make_uint4(0, 0, 0, 0);
#endif
}

// Closes the group of this thread's copies so far.
DWS_DEVICE void CommitCopies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

// Waits until all of this thread's groups but the last kPending have arrived. Other threads see them after a barrier.
template <int kPending>
DWS_DEVICE void WaitForCopies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
#endif
}

#endif  // DWSCONV_SHIM

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEVICE_ASYNC_COPY_CUH_
