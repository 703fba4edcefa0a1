// The backward pass on a GPU: raw device pointers, a plan and a stream. Plain C++, so that g++ reads it too.
#ifndef DWSCONV_CUDA_RUN_BACKWARD_H_
#define DWSCONV_CUDA_RUN_BACKWARD_H_

#include <cstdint>
#include <string>

#include "cc/core/problem.h"
#include "cc/plan/cuda/backward_plan.h"

namespace dwsconv {
namespace cuda {

// Enqueues on `stream` (a cudaStream_t; null is the default one) what gives the gradients that the plan was made for,
// of which none is null unless it has no elements. Of what the forward pass read and wrote, it reads what
// BackwardBuffers says. Buffers and `workspace`, of plan.workspace_bytes, as of Forward; the residual's gradient may be
// the buffer of `grad`, no other output may be an input. The same bits in every run. "" or what CUDA says; nothing is
// waited for.
std::string Backward(const Problem& problem, const CudaBackwardPlan& plan, const BackwardBuffers& buffers,
                     void* workspace, void* stream);

// What CudaBackwardOptions::aligned asks of a call's buffers.
bool AlignedForFused(const BackwardBuffers& buffers);

// Calls so far that ran on a path.
int64_t BackwardCalls(CudaBackwardPath path);

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_RUN_BACKWARD_H_
