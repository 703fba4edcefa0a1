// How one problem's gradients run on a GPU: which kernels, how sums are cut into parts, where things lie in the
// workspace. A pure function, as cuda_plan.h is. The parts depend on the problem, and on the fused path on the number
// of multiprocessors, but on nothing that differs from run to run.
#ifndef DWSCONV_PLAN_CUDA_BACKWARD_PLAN_H_
#define DWSCONV_PLAN_CUDA_BACKWARD_PLAN_H_

#include <cstdint>
#include <string>

#include "cc/core/problem.h"
#include "cc/plan/cuda/forward_plan.h"

namespace dwsconv {

enum class CudaBackwardPath : int {
  kAuto = 0,     // only asked for, never planned
  kGeneral = 1,  // plain kernels: any problem, any card
  kSteps = 2,    // products on tensor cores (or by tiles of fused multiply-adds), a kernel for each step
  kFused = 3,    // two kernels: X, dY, Y to dZ, dP and biases' gradients, then X and dZ to dX and dD
};
constexpr int kCudaBackwardPaths = 4;

const char* CudaBackwardPathName(CudaBackwardPath path);  // "general", "steps", "fused"

// Which gradients are asked for.
struct WantedGradients {
  bool input = true, depthwise_filter = true, pointwise_filter = true;
  bool depthwise_bias = true, bias = true, residual = true;
};

struct CudaBackwardOptions {
  CudaBackwardPath path = CudaBackwardPath::kAuto;
  CudaMath math = CudaMath::kExact;
  int64_t tile_rows = 0, tile_columns = 0;  // of the fused kernel; 0: the planner's choice
  bool aligned = true;  // the pointers of X, dY, Y, dX and the residual's gradient are multiples of 16 bytes
};

// The fused kernel's tile: what a block computes at a step, and how it lies in its shared memory. As in CudaPlan.
struct CudaBackwardTile {
  int tile_rows = 0, tile_columns = 0;  // output pixels: 64 or 128 of them
  int in_columns = 0, ring_rows = 0;    // of X
  int channels = 0, out_channels = 0;   // C and K padded to 16
  int segments = 1, segment_rows = 0;   // pieces that the rows of an image are cut into
  int row_warps = 0, warp_columns = 0;  // of the warps that add up dP: 32 channels each, and columns of K
  int64_t items = 0;                    // segments of strips of images, which parts share evenly
  int z_pitch = 0, g_pitch = 0, p_pitch = 0;
  int p_offset_bytes = 0, z_offset_bytes = 0, g_offset_bytes = 0, d_offset_bytes = 0, bias_offset_bytes = 0;
  int sums_offset_bytes = 0, gradient_offset_bytes = 0, ring_offset_bytes = 0;
  int64_t shared_bytes = 0;
};

struct CudaBackwardPlan {
  CudaBackwardPath path = CudaBackwardPath::kGeneral;
  CudaMath math = CudaMath::kExact;
  WantedGradients wanted;
  bool transposed = false;      // NCHW: tensors go through NHWC copies in the workspace
  bool fast_depthwise = false;  // the kernels for one window, forward and backward

  // What has to be there on the way.
  bool z = false;                     // Z, computed again
  bool between = false;               // the gradient by Z, and with it of X, D and the depthwise bias
  bool between_factors = false;       // mid' as a tensor, as Z does not tell it
  bool before = false;                // what went into the last activation has to be computed again
  bool gradient = false;              // dY through the last activation as a tensor: it is not dY itself
  bool gradient_is_residual = false;  // ... and lies where the residual's gradient is wanted

  // The sums' parts: each is one block's, in one order, and what the parts give is added in order.
  int64_t bias_parts = 0, bias_part_pixels = 0;        // of G, and sums of its columns
  int64_t product_parts = 0, product_part_pixels = 0;  // dP = Z^T G
  int64_t between_parts = 0, between_part_tiles = 0;   // columns of dZ, in tiles of kCudaBackwardTile pixels
  int64_t filter_parts = 0, filter_part_units = 0;     // dD, and dX with it; units: patches of dX, or output pixels

  CudaBackwardTile tile;  // kFused: bias_parts, product_parts and between_parts are the fused kernel's blocks

  // Where things lie in the workspace: -1 where there is no such thing. dZ is written over Z, or over mid'.
  int64_t x_at_bytes = -1, grad_at_bytes = -1, output_at_bytes = -1, residual_at_bytes = -1;  // NHWC copies
  int64_t dx_at_bytes = -1, dr_at_bytes = -1;                                                 // the same, of results
  int64_t z_at_bytes = -1, dz_at_bytes = -1, gradient_at_bytes = -1, p_transposed_at_bytes = -1;
  int64_t bias_sums_at_bytes = -1, product_sums_at_bytes = -1, between_sums_at_bytes = -1, filter_sums_at_bytes = -1;
  int64_t workspace_bytes = 0;

  double modelled_us = 0;
};

constexpr int kCudaBackwardProduct = 128;    // rows and columns of a product's tile
constexpr int kCudaBackwardPatch = 4;        // rows and columns of dX that a thread has at a time
constexpr int kCudaBackwardGroupWords = 32;  // words of channels, at most, of a block of the fast depthwise kernel

// Rows (or columns) of dX in patches; the first patch begins `shift` above row 0, so that a tap of each patch's first
// row is one of dZ's.
constexpr int64_t PatchShift(int64_t stride, int64_t pad) { return pad % stride; }
constexpr int64_t PatchesOf(int64_t size, int64_t stride, int64_t pad) {
  return (size + PatchShift(stride, pad) + kCudaBackwardPatch - 1) / kCudaBackwardPatch;
}

// Fills *plan and returns "", or says why the options do not fit the problem or the card.
std::string MakeCudaBackwardPlan(const Problem& problem, const CudaMachine& machine, const WantedGradients& wanted,
                                 const CudaBackwardOptions& options, CudaBackwardPlan* plan);

std::string DescribeCudaBackwardPlan(const CudaBackwardPlan& plan);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_CUDA_BACKWARD_PLAN_H_
