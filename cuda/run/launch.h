// Kernels by element type and window: each function is a file of its own, so that they compile side by side. They
// return
// "" or what CUDA says.
#ifndef DWSCONV_CUDA_RUN_LAUNCH_H_
#define DWSCONV_CUDA_RUN_LAUNCH_H_

#include <cstdint>

#include "cc/core/problem.h"
#include "cc/plan/cuda/forward_plan.h"

namespace dwsconv {
namespace cuda {

struct DepthwiseArgs;
struct DirectArgs;
struct PointwiseArgs;
struct StreamArgs;
struct ToeplitzArgs;
struct TransposeArgs;

// How a kernel is launched.
struct Launch {
  int64_t grid;
  int threads;
  int64_t shared_bytes;
  void* stream;
};

// For a window that HasFastWindow.
const char* LaunchStreamFloat16(int64_t window, int64_t stride, const Launch& launch, const StreamArgs& args);
const char* LaunchStreamBFloat16(int64_t window, int64_t stride, const Launch& launch, const StreamArgs& args);
const char* LaunchStreamTf32(int64_t window, int64_t stride, const Launch& launch, const StreamArgs& args);
const char* LaunchStreamExact(int64_t window, int64_t stride, const Launch& launch, const StreamArgs& args);
const char* LaunchDepthwise(DType dtype, int64_t window, int64_t stride, const Launch& launch,
                            const DepthwiseArgs& args);

// For a plan with `toeplitz`.
const char* LaunchDepthwiseToeplitz(DType dtype, int multiprocessors, void* stream, const ToeplitzArgs& args);

// For any window; the grid, threads and shared memory follow from the arguments.
const char* LaunchDepthwiseGeneral(DType dtype, void* stream, const DepthwiseArgs& args);
const char* LaunchPointwise(DType dtype, CudaMath math, void* stream, const PointwiseArgs& args);
const char* LaunchDirect(DType dtype, void* stream, const DirectArgs& args);
const char* LaunchTranspose(int64_t element_bytes, void* stream, const TransposeArgs& args);

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_RUN_LAUNCH_H_
