// How one block runs on a GPU: which kernels, and what lies between them in memory. A pure function of the block and
// the card, so that it is tested where there is none.
#ifndef DWSCONV_PLAN_CUDA_BLOCK_PLAN_H_
#define DWSCONV_PLAN_CUDA_BLOCK_PLAN_H_

#include <cstdint>
#include <string>

#include "cc/core/block.h"
#include "cc/plan/cuda/forward_plan.h"

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
  kStrip,             // one kernel for the leading convolution too, and for the last one where there is one
  kForward,           // forward.h computes depthwise and pointwise convolution
  kWindow,            // one kernel, sums in registers until all is done
  kWindowThenPixels,  // the same without the norm, rounded; norm and factors from memory
  kPixels,            // a warp a pixel: any window, and none
};

// What computes the last convolution.
enum class CudaBlockLast : int {
  kNone = 0,
  kInMiddle,   // the kernels of the middle compute it
  kPointwise,  // the product of forward.h's second step
  kGated,      // a product that multiplies what it reads by the factors
  kWindow,     // a product that gathers what lies under the windows of a dense convolution
  kGeneral,    // an output a thread
};

// Whether the leading convolution is computed in the kernel that reads its result.
enum class CudaBlockFusion : int {
  kAuto = 0,  // where the planner thinks that it pays
  kAlways,    // an error where it cannot be
  kNever,
};

struct CudaBlockOptions {
  CudaMath math = CudaMath::kExact;  // of float32
  CudaPath path = CudaPath::kAuto;   // where forward.h computes the pair
  bool general = false;              // kernels that take anything alone
  CudaBlockFusion fusion = CudaBlockFusion::kAuto;
};

// How kStrip runs: a tile of tile_rows x tile_columns output pixels, a multiple of 32 of them, goes down a strip.
struct CudaBlockStrip {
  int tile_rows = 0, tile_columns = 0;
  int in_columns = 0, ring_rows = 0;               // columns and rows of A that a tile reads
  int depth = 0, channels = 0, out_channels = 0;   // E, C and K padded to 16
  int warp_channels = 0;                           // columns of K that a warp sums at a time
  int strips = 0, segments = 1, segment_rows = 0;  // pieces of an image, output rows of one
  int64_t items = 0;                               // pieces of all images: what blocks take turns at
  int blocks_per_multiprocessor = 1;
  int x_pitch = 0, expand_pitch = 0, ring_pitch = 0, p_pitch = 0;  // elements from a row to the next
  // Where things lie in a block's shared memory.
  int expand_offset_bytes = 0, d_offset_bytes = 0, p_offset_bytes = 0, bias_offset_bytes = 0;
  int x_offset_bytes = 0, ring_offset_bytes = 0, z_offset_bytes = 0;
  int64_t shared_bytes = 0;
  double modelled_us = 0;  // what the planner thinks it takes
};

struct CudaBlockPlan {
  CudaBlockExpand expand = CudaBlockExpand::kNone;
  CudaBlockMiddle middle = CudaBlockMiddle::kNone;
  CudaBlockLast last = CudaBlockLast::kNone;
  CudaMath math = CudaMath::kExact;
  CudaPlan forward;         // where forward.h computes the pair
  CudaBlockStrip strip;     // where one kernel computes all
  bool transposed = false;  // NCHW: X, residual and Y go through NHWC copies in the workspace

  // Where things lie in the workspace, which the caller gives: -1 where there is no such thing.
  int64_t x_at_bytes = -1, residual_at_bytes = -1, y_at_bytes = -1;
  int64_t a_at_bytes = -1;             // A
  int64_t unnormalized_at_bytes = -1;  // Z before the norm
  int64_t z_at_bytes = -1;             // Z
  int64_t forward_at_bytes = -1;
  int64_t workspace_bytes = 0;

  double modelled_us = 0;  // what the planner thinks it takes: of an expansion with a depthwise convolution alone
};

// Fills *plan and returns "", or says why the options do not fit the block or the card.
std::string MakeCudaBlockPlan(const Block& block, const CudaMachine& machine, const CudaBlockOptions& options,
                              CudaBlockPlan* plan);

// "expand product, window, gated ...": for messages, tests and benchmarks.
std::string DescribeCudaBlockPlan(const CudaBlockPlan& plan);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_CUDA_BLOCK_PLAN_H_
