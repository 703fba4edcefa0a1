// The block's own kernels by element type: each function is a file of its own, so that they compile side by side. They
// return "" or what CUDA says; threads and shared memory follow from the arguments.
#ifndef DWSCONV_CUDA_RUN_BLOCK_LAUNCH_H_
#define DWSCONV_CUDA_RUN_BLOCK_LAUNCH_H_

#include <cstdint>

#include "cc/core/problem.h"
#include "cc/plan/cuda/forward_plan.h"

namespace dwsconv {
namespace cuda {

struct BlockGeneralArgs;
struct BlockPixelsArgs;
struct BlockProductArgs;
struct BlockStripArgs;
struct BlockWindowArgs;

// For a window that HasFastWindow, and channels in whole words.
const char* LaunchBlockWindow(DType dtype, int64_t window, int64_t stride, int multiprocessors, void* stream,
                              BlockWindowArgs args);
const char* LaunchBlockPixels(DType dtype, void* stream, const BlockPixelsArgs& args);
const char* LaunchBlockGated(DType dtype, CudaMath math, void* stream, const BlockProductArgs& args);
const char* LaunchBlockDense(DType dtype, CudaMath math, void* stream, const BlockProductArgs& args);
const char* LaunchBlockGeneral(DType dtype, void* stream, const BlockGeneralArgs& args);

// For a window that HasFastWindow of at most 5x5.
const char* LaunchBlockStripFloat16(int64_t window, int64_t stride, int64_t grid, int64_t shared_bytes, void* stream,
                                    const BlockStripArgs& args);
const char* LaunchBlockStripBFloat16(int64_t window, int64_t stride, int64_t grid, int64_t shared_bytes, void* stream,
                                     const BlockStripArgs& args);
const char* LaunchBlockStripTf32(int64_t window, int64_t stride, int64_t grid, int64_t shared_bytes, void* stream,
                                 const BlockStripArgs& args);

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_RUN_BLOCK_LAUNCH_H_
