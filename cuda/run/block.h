// A block of a network on a GPU: raw device pointers, a plan and a stream. Plain C++, so that g++ reads it too.
#ifndef DWSCONV_CUDA_RUN_BLOCK_H_
#define DWSCONV_CUDA_RUN_BLOCK_H_

#include <cstdint>
#include <string>

#include "cc/core/block.h"
#include "cc/plan/cuda/block_plan.h"

namespace dwsconv {
namespace cuda {

// Enqueues on `stream` (a cudaStream_t; null is the default one) what the plan says. The buffers are the card's, of
// Problem::dtype, and aligned to its size; where they are aligned to 16 bytes and the channels of each stage are whole
// vectors of 16 bytes, it is faster. `workspace` has plan.workspace_bytes, aligned to 256. The residual may be the
// output's own buffer. "" or what CUDA says; nothing is waited for.
std::string ForwardBlock(const Block& block, const CudaBlockPlan& plan, const BlockBuffers& buffers, void* workspace,
                         void* stream);

// Calls of ForwardBlock so far that launched anything.
int64_t BlockCalls();

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_RUN_BLOCK_H_
