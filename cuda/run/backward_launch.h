// The backward pass' kernels by element type and window, as launch.h has the forward pass'. They return "" or what CUDA
// says. Grids, threads and shared memory follow from the arguments.
#ifndef DWSCONV_CUDA_RUN_BACKWARD_LAUNCH_H_
#define DWSCONV_CUDA_RUN_BACKWARD_LAUNCH_H_

#include <cstdint>

#include "cc/core/problem.h"
#include "cc/plan/cuda/forward_plan.h"

namespace dwsconv {
namespace cuda {

struct BackwardProductArgs;
struct BackwardStreamArgs;
struct ColumnArgs;
struct DepthwiseArgs;
struct DepthwiseGradientArgs;
struct FilterProductArgs;
struct GeneralDepthwiseGradientArgs;
struct GeneralFilterProductArgs;
struct GeneralProductArgs;
struct Launch;
struct ReduceArgs;

const char* LaunchBetweenGradient(DType dtype, CudaMath math, void* stream, const BackwardProductArgs& args);
const char* LaunchOutputGradient(DType dtype, CudaMath math, void* stream, const BackwardProductArgs& args);
const char* LaunchFilterProduct(DType dtype, CudaMath math, void* stream, const FilterProductArgs& args);

// For a window that HasFastWindow: dX where args.dx, and dD's parts where args.sums, are not null.
const char* LaunchDepthwiseGradient(DType dtype, int64_t window, int64_t stride, void* stream,
                                    const DepthwiseGradientArgs& args);

// `unit`: of args.units, 1 or 16 bytes of elements.
const char* LaunchColumns(DType dtype, int64_t unit, void* stream, const ColumnArgs& args);
const char* LaunchReduce(DType dtype, void* stream, const ReduceArgs& args);

// For 3x3 and 5x5 windows that HasFastWindow.
const char* LaunchBackwardStreamFloat16(int64_t window, int64_t stride, const Launch& launch,
                                        const BackwardStreamArgs& args);
const char* LaunchBackwardStreamBFloat16(int64_t window, int64_t stride, const Launch& launch,
                                         const BackwardStreamArgs& args);
const char* LaunchBackwardStreamTf32(int64_t window, int64_t stride, const Launch& launch,
                                     const BackwardStreamArgs& args);

// For any problem.
const char* LaunchBetweenFactorsGeneral(DType dtype, void* stream, const DepthwiseArgs& args);
const char* LaunchProductGeneral(DType dtype, void* stream, const GeneralProductArgs& args);
const char* LaunchFilterProductGeneral(DType dtype, void* stream, const GeneralFilterProductArgs& args);
const char* LaunchInputGradientGeneral(DType dtype, void* stream, const GeneralDepthwiseGradientArgs& args);
const char* LaunchFilterGradientGeneral(DType dtype, void* stream, const GeneralDepthwiseGradientArgs& args);

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_RUN_BACKWARD_LAUNCH_H_
