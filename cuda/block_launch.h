// The block's own kernels by element type: each function is a file of its own, so that they compile side by side. They
// return "" or what CUDA says; threads and shared memory follow from the arguments.
#ifndef DWSCONV_CUDA_BLOCK_LAUNCH_H_
#define DWSCONV_CUDA_BLOCK_LAUNCH_H_

#include <cstdint>

#include "cc/core/problem.h"
#include "cc/plan/cuda_plan.h"

namespace dwsconv {
namespace cuda {

struct BlockGeneralArgs;
struct BlockPixelsArgs;
struct BlockProductArgs;
struct BlockWindowArgs;

// For a window that HasFastWindow, and channels in whole words.
const char* LaunchBlockWindow(DType dtype, int64_t window, int64_t stride, int multiprocessors, void* stream,
                              BlockWindowArgs args);
const char* LaunchBlockPixels(DType dtype, void* stream, const BlockPixelsArgs& args);
const char* LaunchBlockGated(DType dtype, CudaMath math, void* stream, const BlockProductArgs& args);
const char* LaunchBlockDense(DType dtype, CudaMath math, void* stream, const BlockProductArgs& args);
const char* LaunchBlockGeneral(DType dtype, void* stream, const BlockGeneralArgs& args);

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_BLOCK_LAUNCH_H_
