// How a block of a network, one layer or its gradients run on a GPU. A plan is a short list of steps, each a kernel
// with its tile, the tensors that it reads and the one that it writes. Planning knows the block and the card alone, so
// it is tested where there is no GPU.
#ifndef DWSCONV_PLAN_CUDA_PLAN_H_
#define DWSCONV_PLAN_CUDA_PLAN_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cc/core/chain.h"
#include "cc/plan/cuda/rates.h"
#include "cc/plan/cuda/tile.h"

namespace dwsconv {

// What the planner knows of a card. The defaults are an H200's.
struct CudaMachine {
  CudaRates rates;
  int capability = 90;  // 10 * major + minor
  int multiprocessors = 132;
  int64_t block_shared_bytes = 232448;           // the most that one block may ask for
  int64_t multiprocessor_shared_bytes = 233472;  // of one multiprocessor
  int64_t l2_bytes = int64_t{60} << 20;
  double dram_bytes_per_us = 4.3e6;
  double clock_per_us = 1700;   // cycles
  bool group_products = false;  // 9.0, and the library has code for 9.0a: kWarpgroup* run
};

// Sets bandwidth and clock by what a card says of itself: kHz of its multiprocessors and of its memory, and bits of its
// memory's bus. A card that has no number for one of them (0) keeps the default.
void SetClocks(int clock_khz, int memory_clock_khz, int memory_bits, CudaMachine* machine);

// The numbers are those of capi/c_api.h.
enum class CudaPath : int {
  kAuto = 0,  // asked for: the planner's choice. Of a plan: there is nothing to compute
  // A depthwise convolution and a 1x1 one.
  kDirect = 1,   // plain kernel: anything, on any card
  kTwoStep = 2,  // a kernel for each, Z in global memory
  kStream = 3,   // fused: Z of a tile of pixels in shared memory, and all of P
  // Blocks with other stages, and gradients.
  kGeneral = 4,  // plain kernels: anything, on any card
  kSteps = 5,    // fast kernels, one or more stages each
  kFused = 6,    // gradients in two kernels: X, dY, Y to dZ, dP and biases' gradients; X and dZ to dX and dD
  // A depthwise convolution and a 1x1 one again: kStream with the depthwise half on tensor cores too.
  kTensorStream = 7,
  kDeep = 8,  // fused: Z of a tile of pixels in shared memory, for all channels; P from L2
  // kTwoStep with the product by 9.0's own instructions.
  kTwoStepWgmma = 9,
};
constexpr int kCudaPaths = 10;

const char* CudaPathName(CudaPath path);  // "direct", "two_step", ...

// How float32 is multiplied: exactly, or by tensor cores that read 10 bits of the mantissa (TF32).
enum class CudaMath : int { kExact = 0, kTf32 = 1 };

// Whether the expansion is computed in the kernel that reads its result: where the planner thinks that it pays, always
// (an error where it cannot be), never.
enum class CudaFusion : int { kAuto = 0, kAlways, kNever };

// Which gradients are asked for.
struct WantedGradients {
  bool input = true, depthwise_filter = true, pointwise_filter = true;
  bool depthwise_bias = true, bias = true, residual = true;
};

struct CudaOptions {
  CudaPath path = CudaPath::kAuto;  // an error where the chain does not fit it
  CudaMath math = CudaMath::kExact;
  CudaFusion fusion = CudaFusion::kAuto;
  int64_t tile_rows = 0, tile_columns = 0, segments = 0, groups = 0;  // of a fused kernel; 0: the planner's choice
  std::optional<WantedGradients> gradients;                           // in the place of the output
  bool aligned = true;  // gradients: X, dY, Y, dX and the residual's gradient begin at multiples of 16 bytes
};

enum class CudaKernel : int {
  // Between NCHW, where the caller's tensors are, and NHWC, where kernels work; and of the pointwise filter.
  kToNhwc = 0,
  kToNchw,
  kTransposeFilter,
  // A depthwise convolution: any; a window, by patches of 4 x 4; 7x7 on tensor cores. Then with norm, gate and
  // residual: a window; a warp a pixel, for any window and for none.
  kDepthwise,
  kDepthwiseWindow,
  kDepthwiseTensor,  // windows of up to 5x5 on tensor cores, for 16-bit elements
  kDepthwiseToeplitz,
  kWindow,
  kPixels,
  // A 1x1 convolution as a product of matrices; with the gate where it reads; a dense convolution, which gathers what
  // lies under its windows. Any convolution, an output a thread.
  kProduct,
  kWarpgroupProduct,  // the first of these, for 9.0a
  kGatedProduct,
  kDenseProduct,
  kConvolution,
  // Several stages: depthwise and 1x1 by plain loops; the same fused, on CUDA and tensor cores, on the latter alone, or
  // with all channels of Z and a stream of P; with the expansion too.
  kDirect,
  kStream,
  kTensorStream,
  kDeep,
  kStrip,
  // Gradients.
  kGradientStream,   // kFused's first kernel
  kColumns,          // of a matrix: times the activation's derivative, copied, summed
  kBetweenFactors,   // mid' as a tensor
  kOutputGradient,   // G = dY * out', which takes Z P
  kBetweenGradient,  // dZ = G P^T times mid'
  kFilterProduct,    // dP = Z^T G
  // The last two for 9.0a; the former takes P as it is.
  kWarpgroupBetween,
  kWarpgroupFilterProduct,
  kDepthwiseGradient,  // dX and dD
  kReduce,             // the sums' parts
  kZero,
  kCount,
};

// The caller's tensors, then what lies between kernels.
enum class CudaTensor : int {
  kNone = 0,
  kX,
  kExpandFilter,
  kExpandBias,
  kDepthwiseFilter,
  kDepthwiseBias,
  kPointwiseFilter,
  kBias,
  kGate,
  kResidual,
  kY,
  kGrad,  // of the loss by Y
  kDX,
  kDDepthwiseFilter,
  kDPointwiseFilter,
  kDDepthwiseBias,
  kDBias,
  kDResidual,

  kExpanded,
  kUnnormalized,  // Z before the norm
  kZ,
  kG,   // dY through the last activation
  kDZ,  // the gradient by Z, before that mid'
  kTransposedFilter,
  // Sums' parts, in the order in which they are added up.
  kProductSums,
  kFilterSums,
  kBetweenSums,
  kBiasSums,
  kCount,
};
constexpr int kCudaTensors = static_cast<int>(CudaTensor::kCount);

struct CudaStep {
  CudaKernel kernel;
  CudaTensor from = CudaTensor::kNone, with = CudaTensor::kNone, to = CudaTensor::kNone;
  CudaTensor sums = CudaTensor::kNone;                     // gradients: where parts of sums go
  bool normalize = false, gate = false, residual = false;  // stages that this step has
  CudaTile tile = {};
};

// A sum's parts: each is one block's, in one order, and what the parts give is added in order. They depend on the
// chain, on the fused path and by 9.0's own instructions on the number of multiprocessors too, but on nothing that
// differs from run to run.
struct CudaParts {
  int64_t count = 0, units = 0;
};

struct CudaPlan {
  CudaPath path = CudaPath::kAuto;
  CudaMath math = CudaMath::kExact;
  bool gradients = false;
  bool transposed = false;                  // NCHW: tensors go through NHWC copies in the workspace
  bool window = false;                      // gradients: the depthwise kernels are those for one window
  bool tensor = false;                      // of these the ones on tensor cores
  bool reads_output = false;                // gradients: Y is needed
  bool named = false;                       // the path was asked for: what it does not take is an error
  int multiprocessors = 0, capability = 0;  // of the card
  std::vector<CudaStep> steps;

  // Gradients.
  CudaParts bias;     // pixels: columns of G
  CudaParts product;  // pixels: dP
  CudaParts between;  // tiles of kGradientProduct pixels: columns of dZ
  CudaParts filter;   // dD, and dX with it: patches of dX, or output pixels

  // Where tensors lie in the workspace, which the caller gives; -1 for what is not there. A tensor of the caller's that
  // has a place is its NHWC copy.
  std::array<int64_t, kCudaTensors> at_bytes;
  int64_t workspace_bytes = 0;

  double modelled_us = 0;  // what the planner thinks it takes; 0 where it does not compare

  CudaPlan() { at_bytes.fill(-1); }
};

// [N,H,W,C] of one of the caller's tensors but filters, and of those between kernels but sums; [1,1,CM,K] of P, its
// gradient and the like.
std::array<int64_t, 4> CudaSizes(const Chain& chain, CudaTensor tensor);

// Fills *plan and returns "", or says why the options do not fit the block or the card.
std::string MakeCudaPlan(const Chain& chain, const CudaMachine& machine, const CudaOptions& options, CudaPlan* plan);

// "expand product, window, gated": for messages, tests and benchmarks.
std::string DescribeCudaPlan(const CudaPlan& plan);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_CUDA_PLAN_H_
