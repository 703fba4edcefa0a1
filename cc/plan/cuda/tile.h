// The tile of a kernel that keeps filters and rows of its input in shared memory, and what planners and kernels both
// count with.
#ifndef DWSCONV_PLAN_CUDA_TILE_H_
#define DWSCONV_PLAN_CUDA_TILE_H_

#include <cstdint>

#include "cc/core/whole.h"

namespace dwsconv {

// What a block of threads computes in a step, and how it lies in the block's shared memory. A block goes down a strip
// of columns of one image, tile_rows output rows a step. Each kernel reads the fields it has a use for.
struct CudaTile {
  int tile_rows = 0, tile_columns = 0;             // output pixels
  int in_columns = 0;                              // columns of the input that a tile reads
  int ring_rows = 0;                               // rows of the input in shared memory: in use, and under way
  int depth = 0, channels = 0, out_channels = 0;   // E, C and K, padded
  int warp_channels = 0;                           // columns of K that a warp sums at a time
  int row_warps = 0, warp_columns = 0;             // of the warps that sum dP: 32 channels each, columns of K
  int strips = 0, segments = 1, segment_rows = 0;  // pieces of an image's columns and rows; output rows of one
  int64_t items = 0;                               // pieces of all images: what blocks take turns at
  int groups = 1, threads = 0;                     // groups of a block's threads, each with a tile of its own
  int blocks_per_multiprocessor = 1;
  int x_pitch = 0, expand_pitch = 0, ring_pitch = 0;  // elements from a row to the next
  int z_pitch = 0, g_pitch = 0, p_pitch = 0;
  int expand_offset_bytes = 0, p_offset_bytes = 0, d_offset_bytes = 0, bias_offset_bytes = 0;
  int x_offset_bytes = 0, ring_offset_bytes = 0, z_offset_bytes = 0, g_offset_bytes = 0;
  int sums_offset_bytes = 0, gradient_offset_bytes = 0;
  int group_bytes = 0;  // from one group's Z and ring to the next one's
  int64_t shared_bytes = 0;
  double modelled_us = 0;
};

// Elements from one row of a tile in shared memory to the next: no two of the eight rows that a warp reads together
// fall into the same banks.
constexpr int ZPitch(int channels, int element_bytes) { return channels + (element_bytes == 2 ? 8 : 4); }
constexpr int PPitch(int out_channels) { return out_channels + 8; }

// cuda/fused/tensor_stream_kernel.cuh: columns of a tile; elements between two pixels of the ring; bytes of D for 16
// channels; output channels at most.
constexpr int kTensorStreamColumns = 16;
constexpr int kTensorStreamGap = 8;
constexpr int TensorStreamFilterBytes(int window) { return window * (window / 2 + 1) * 128; }
constexpr int kTensorStreamOutChannels = 128;

// cuda/depthwise/toeplitz_kernel.cuh: rows and columns of a tile, channels and shared memory of a block.
constexpr int kToeplitzTile = 16;
constexpr int kToeplitzChannels = 32;
constexpr int kToeplitzBlocks = 2;  // that a multiprocessor has registers for
constexpr int kToeplitzMostSharedBytes = 75 << 10;

// cuda/product: what a block's ring of stages takes of its shared memory: of Z 64 bytes of each row and 16 more, of P
// 64 bytes' worth of rows with 8 columns more; then a float for each column, and 16 bytes a row where windows are
// gathered. A block of compute capability 7.5 may have 64 KB, so there it has three stages; copies wait on it anyway.
constexpr int kProductTile = 128;
constexpr int ProductStages(int capability) { return capability < 80 ? 3 : 4; }
constexpr int64_t ProductSharedBytes(int stages, bool gathers) {
  return int64_t{stages} * (kProductTile * (64 + 16) + 64 * (kProductTile + 8)) + kProductTile * 4 +
         (gathers ? kProductTile * 16 : 0);
}

// cuda/product/warpgroup_ring.cuh, for 9.0a: of a stage, 128 rows (columns) of both sides, 64 of the sum's index each,
// or 32 of floats. Before the ring up to 1024 bytes, so that it begins at a multiple of them; behind it two barriers a
// stage, and floats.
constexpr int kGroupDepth = 64;
constexpr int kGroupStageBytes = 2 * kProductTile * kGroupDepth * 2;
constexpr int64_t GroupSharedBytes(int stages, int floats) {
  return 1024 + int64_t{stages} * (kGroupStageBytes + 2 * 8) + int64_t{4} * floats;
}

// cuda/product/warpgroup_kernel.cuh: stages of which a multiprocessor has room for two blocks'; two bias' floats for
// each of two warpgroups.
constexpr int kGroupStages = 3;
constexpr int64_t kGroupSharedBytes = GroupSharedBytes(kGroupStages, 2 * 2 * kProductTile);

// cuda/fused/deep_kernel.cuh: pixels of a tile at most; columns of P of a group of threads, of which a panel has one or
// two; threads of a block at most, by the registers that a thread needs; stages of P's ring, and rows of P in one.
constexpr int kDeepPixels = 128;
constexpr int kDeepGroupColumns = 128;
constexpr int DeepMostThreads(int window, int element_bytes) {
  return window > 5 ? 256 : window > 3 || element_bytes == 4 ? 384 : 512;
}
constexpr int kDeepStages = 4;
constexpr int DeepStageRows(int groups, int element_bytes) { return 64 / element_bytes / groups; }

// cuda/backward: rows and columns of a product's tile; rows and columns of dX that a thread has at a time; words of
// channels, at most, of a block of the depthwise kernel for windows.
constexpr int kGradientProduct = 128;
constexpr int kGradientPatch = 4;
constexpr int kGradientGroupWords = 32;

constexpr int kGradientStages = 3;
constexpr int64_t kGradientProductSharedBytes =
    int64_t{kGradientStages} * (kGradientProduct * (64 + 16) + 64 * (kGradientProduct + 8)) + 4 * kGradientProduct * 4;

// cuda/backward/warpgroup_kernel.cuh: dZ as the forward product has it, with sums of columns of each of 8 warps; dP
// with more stages, as one block of a multiprocessor writes half the parts that two would.
constexpr int64_t kGroupBetweenSharedBytes = GroupSharedBytes(kGroupStages, 8 * kGradientProduct);
constexpr int kGroupFilterStages = 6;
constexpr int64_t kGroupFilterSharedBytes = GroupSharedBytes(kGroupFilterStages, 0);

// Rows (or columns) of dX in patches. The first patch begins pad % stride above row 0, so that a tap of each patch's
// first row is one of dZ's.
constexpr int64_t GradientPatches(int64_t size, int64_t stride, int64_t pad) {
  return CeilDiv(size + pad % stride, kGradientPatch);
}

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_CUDA_TILE_H_
