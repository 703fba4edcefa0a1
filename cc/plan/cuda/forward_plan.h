// How one problem runs on a GPU: which kernels, and how they are cut. A pure function of the problem and the card, so
// that it is tested where there is none.
#ifndef DWSCONV_PLAN_CUDA_FORWARD_PLAN_H_
#define DWSCONV_PLAN_CUDA_FORWARD_PLAN_H_

#include <cstdint>
#include <initializer_list>
#include <string>

#include "cc/core/problem.h"

namespace dwsconv {

// What the planner needs to know of a card. The defaults are an H200's.
struct CudaMachine {
  int capability = 90;  // 10 * major + minor
  int multiprocessors = 132;
  int64_t block_shared_bytes = 232448;           // the most that one block may ask for
  int64_t multiprocessor_shared_bytes = 233472;  // of one multiprocessor
  int64_t l2_bytes = int64_t{60} << 20;
  double dram_bytes_per_us = 4.3e6;
  double clock_per_us = 1700;  // cycles
};

enum class CudaPath : int {
  kAuto = 0,     // only asked for, never planned
  kDirect = 1,   // general: any problem, sums on CUDA cores
  kTwoStep = 2,  // depthwise kernel, Z in global memory, pointwise kernel
  kStream = 3,   // fused: a block streams down H, Z of a tile of pixels in shared memory, all of C and of P there
};

const char* CudaPathName(CudaPath path);  // "direct", "two_step", "stream"

// How float32 is multiplied: exactly, or by tensor cores that read 10 bits of the mantissa (TF32).
enum class CudaMath : int { kExact = 0, kTf32 = 1 };

struct CudaOptions {
  CudaPath path = CudaPath::kAuto;  // asked for; an error where the problem does not fit it
  CudaMath math = CudaMath::kExact;
  int64_t tile_rows = 0, tile_columns = 0, segments = 0, groups = 0;  // 0: the planner's choice
};

struct CudaPlan {
  CudaPath path = CudaPath::kDirect;
  CudaMath math = CudaMath::kExact;
  bool transposed = false;      // NCHW: X, residual and Y go through NHWC copies in the workspace
  bool fast_depthwise = false;  // kTwoStep: a kernel for this window, not the general one

  bool toeplitz = false;  // kTwoStep: 7x7 on tensor cores, `segments`, `segment_rows` and `items` are of that

  // kStream: an output tile of tile_rows x tile_columns pixels, a multiple of 32 of them.
  int tile_rows = 0, tile_columns = 0;
  int in_columns = 0;      // columns of X that a tile reads
  int channels = 0;        // C padded to 16
  int out_channels = 0;    // K padded to 32
  int ring_rows = 0;       // rows of X in shared memory: in use, and under way
  int warp_channels = 64;  // columns of K that a warp sums at a time
  int segments = 1;        // pieces that the rows of an image are cut into
  int segment_rows = 0;    // output rows of a piece, a multiple of tile_rows
  int groups = 1;          // of a block's threads, each with a tile of its own
  int threads = 0;
  int64_t items = 0;  // pieces of all images: what groups take turns at
  int blocks_per_multiprocessor = 1;

  // Where things lie in a block's shared memory: the filters and biases once, then Z and the ring of the first group,
  // each further group's group_bytes on.
  int p_offset_bytes = 0, d_offset_bytes = 0, bias_offset_bytes = 0;
  int z_offset_bytes = 0, ring_offset_bytes = 0, group_bytes = 0;
  int64_t shared_bytes = 0;

  // Where things lie in the workspace, which the caller gives: -1 where there is no such thing.
  int64_t z_at_bytes = -1, x_at_bytes = -1, residual_at_bytes = -1, y_at_bytes = -1;
  int64_t workspace_bytes = 0;

  double modelled_us = 0;  // what the planner thinks it takes
};

// Elements from one row of a tile in shared memory to the next: such that no two of the eight rows that a warp reads
// together fall into the same banks.
constexpr int ZPitch(int channels, int element_bytes) { return channels + (element_bytes == 2 ? 8 : 4); }
constexpr int PPitch(int out_channels) { return out_channels + 8; }

// What cuda/depthwise/toeplitz_kernel.cuh takes: rows and columns of a tile, shared memory of a block.
constexpr int kToeplitzTile = 16;
constexpr int kToeplitzMostSharedBytes = 75 << 10;

// The windows that have kernels of their own: 3x3 and 5x5 with stride 1 and 2, 7x7 with stride 1; no dilation, M = 1.
bool HasFastWindow(const Problem& problem);

// "" where the GPU kernels know all of them; else which they do not know. For all planners.
std::string CudaRefusesActivations(std::initializer_list<Activation> activations);

// Fills *plan and returns "", or says why the options do not fit the problem or the card.
std::string MakeCudaPlan(const Problem& problem, const CudaMachine& machine, const CudaOptions& options,
                         CudaPlan* plan);

// "stream tile 4x16 ...": for messages, tests and benchmarks.
std::string DescribeCudaPlan(const CudaPlan& plan);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_CUDA_FORWARD_PLAN_H_
