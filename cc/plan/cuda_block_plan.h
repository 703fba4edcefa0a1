// How one block runs on a GPU: which kernels, and what lies between them in memory. A pure function of the block and
// the card, so that it is tested where there is none.
#ifndef DWSCONV_PLAN_CUDA_BLOCK_PLAN_H_
#define DWSCONV_PLAN_CUDA_BLOCK_PLAN_H_

#include <cstdint>
#include <string>

#include "cc/core/block.h"
#include "cc/plan/cuda_plan.h"

namespace dwsconv {

// What computes the leading 1x1 convolution.
enum class CudaBlockExpand : int {
  kNone = 0,
  kProduct,  // the product of forward.h's second step
  kGeneral,  // an output a thread
};

// What stands between it and the last convolution: depthwise convolution, norm, factors, and where no convolution
// follows the residual.
enum class CudaBlockMiddle : int {
  kNone = 0,          // the last convolution reads A
  kForward,           // forward.h computes depthwise and pointwise convolution
  kWindow,            // one kernel, sums in registers until all is done
  kWindowThenPixels,  // the same without the norm, rounded; norm and factors from memory
  kPixels,            // a warp a pixel: any window, and none
};

// What computes the last convolution.
enum class CudaBlockLast : int {
  kNone = 0,
  kForward,    // see CudaBlockMiddle
  kPointwise,  // the product of forward.h's second step
  kGated,      // a product that multiplies what it reads by the factors
  kWindow,     // a product that gathers what lies under the windows of a dense convolution
  kGeneral,    // an output a thread
};

struct CudaBlockOptions {
  CudaMath math = CudaMath::kExact;  // of float32
  CudaPath path = CudaPath::kAuto;   // where forward.h computes the pair
  bool general = false;              // kernels that take anything alone
};

struct CudaBlockPlan {
  CudaBlockExpand expand = CudaBlockExpand::kNone;
  CudaBlockMiddle middle = CudaBlockMiddle::kNone;
  CudaBlockLast last = CudaBlockLast::kNone;
  CudaMath math = CudaMath::kExact;
  CudaPlan forward;         // where forward.h computes the pair
  bool transposed = false;  // NCHW: X, residual and Y go through NHWC copies in the workspace

  // Where things lie in the workspace, which the caller gives: -1 where there is no such thing.
  int64_t x_at_bytes = -1, residual_at_bytes = -1, y_at_bytes = -1;
  int64_t a_at_bytes = -1;             // A
  int64_t unnormalized_at_bytes = -1;  // Z before the norm
  int64_t z_at_bytes = -1;             // Z
  int64_t forward_at_bytes = -1;
  int64_t workspace_bytes = 0;
};

// Fills *plan and returns "", or says why the options do not fit the block or the card.
std::string MakeCudaBlockPlan(const Block& block, const CudaMachine& machine, const CudaBlockOptions& options,
                              CudaBlockPlan* plan);

// "expand product, window, gated ...": for messages, tests and benchmarks.
std::string DescribeCudaBlockPlan(const CudaBlockPlan& plan);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_CUDA_BLOCK_PLAN_H_
