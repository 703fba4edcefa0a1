// A plan on a GPU: device pointers and a stream in, an error out. Plain C++, so that g++ reads it too.
#ifndef DWSCONV_CUDA_RUN_EXECUTE_H_
#define DWSCONV_CUDA_RUN_EXECUTE_H_

#include <cstdint>
#include <string>

#include "cc/core/chain.h"
#include "cc/plan/cuda/plan.h"

namespace dwsconv {
namespace cuda {

// Device pointers by tensor, null for those that are not there: dense, of Chain::dtype, aligned to its size.
class CudaTensors {
 public:
  void Set(CudaTensor tensor, const void* pointer) { at_[static_cast<int>(tensor)] = const_cast<void*>(pointer); }
  void* operator[](CudaTensor tensor) const { return at_[static_cast<int>(tensor)]; }

 private:
  void* at_[kCudaTensors] = {};
};

// The card that this thread's calls go to. "" or what is wrong. Asked of the driver once for each card.
std::string CurrentMachine(CudaMachine* machine);

// Whether this build has the product for 9.0a, on a card of 9.0.
bool HasGroupProducts();

// Enqueues a plan's steps on `stream` (a cudaStream_t; null is the default one). It is faster where tensors are aligned
// to 16 bytes and the channels of each stage are whole vectors of 16 bytes. `workspace` has plan.workspace_bytes,
// aligned to 256, and may be used again by what is enqueued on the same stream afterwards.
//
// The residual may be the output's own buffer, and its gradient the buffer of `grad`; no other output may be an input.
// A gradient that the plan was made for is null only if it has no elements. Gradients have the same bits in every run.
//
// "" or what CUDA says. Nothing is waited for, so faults of the kernels themselves show at a later call.
std::string Execute(const Chain& chain, const CudaPlan& plan, const CudaTensors& tensors, void* workspace,
                    void* stream);

// What CudaOptions::aligned asks of a call's tensors.
bool AlignedForFused(const CudaTensors& tensors);

// Calls so far whose plan had this path; kAuto: all calls that launched anything but zeros.
int64_t Calls(CudaPath path);

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_RUN_EXECUTE_H_
