// The forward pass on a GPU: raw device pointers, a plan and a stream. Plain C++, so that g++ reads it too.
#ifndef DWSCONV_CUDA_RUN_FORWARD_H_
#define DWSCONV_CUDA_RUN_FORWARD_H_

#include <cstdint>
#include <string>

#include "cc/core/problem.h"
#include "cc/plan/cuda/forward_plan.h"

namespace dwsconv {
namespace cuda {

// The card that this thread's calls go to. "" or what is wrong. Asked of the driver once for each card.
std::string CurrentMachine(CudaMachine* machine);

// Enqueues on `stream` (a cudaStream_t; null is the default one) what the plan says. The buffers are the card's, of
// Problem::dtype, and aligned to its size; where they are aligned to 16 bytes and C and K are whole vectors of 16
// bytes, it is faster. `workspace` has plan.workspace_bytes, aligned to 256, and may be used again by what is enqueued
// on the same stream afterwards. The residual may be the output's own buffer. "" or what CUDA says; nothing is waited
// for, so faults of the kernels themselves show at a later call.
std::string Forward(const Problem& problem, const CudaPlan& plan, const ForwardBuffers& buffers, void* workspace,
                    void* stream);

// Calls so far that ran on a path.
int64_t ForwardCalls(CudaPath path);

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_RUN_FORWARD_H_
