// What the depthwise kernels on tensor cores share: where a block and its warps are, and rows of tensors in shared
// memory.
#ifndef DWSCONV_CUDA_DEPTHWISE_TENSOR_RINGS_CUH_
#define DWSCONV_CUDA_DEPTHWISE_TENSOR_RINGS_CUH_

#include <cstdint>

#include "cc/plan/cuda/tensor_cut.h"
#include "cuda/depthwise/patch.cuh"
#include "cuda/device/async_copy.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

// Of a pair of tiles a warp has 16 channels, and the warps of a block have up to 64 side by side: of a pixel they copy
// 128 bytes together, or 32 or 64 where there are no more, and then the block has several pairs. Copies of 16 bytes
// that go to different places would fetch each sector of 32 bytes twice.
struct TensorWarp {
  int pair, group;  // of the block's

  DWS_DEVICE TensorWarp(const TensorCut& cut, int warp)
      : pair(warp >> cut.warps_log2), group(warp & ((1 << cut.warps_log2) - 1)) {}
};

// One of a pair's tiles: its image, or -1, and its first column.
struct TensorTile {
  int image, column;

  DWS_DEVICE TensorTile(const TensorCut& cut, int pair, int half) {
    const int tile = 2 * pair + half;
    image = tile / cut.column_tiles;
    column = (tile - image * cut.column_tiles) * 8;
    if (tile >= cut.tiles) image = -1;
  }
};

// A row of a block's pairs in shared memory: pixel by pixel, of each pair one tile's columns and then the other's. With
// stride 2 the even columns come first, so that 8 pixels of a matrix lie side by side. A pixel has 2, 4 or 8 pieces of
// 8 channels. They are permuted, so that no two of 8 pixels' pieces fall into the same banks. kRows: of a ring.
template <typename Win, int kRows_>
struct TensorRow {
  static constexpr int kColumns = 7 * Win::kStride + Win::kSize;  // that a tile reads
  static constexpr int kOdd = (kColumns + 1) / 2;                 // where odd ones begin
  static constexpr int kRows = kRows_;
  static constexpr int kPieces = 2 * kColumns * 2 * kTensorWarps;  // of 16 bytes
  static constexpr int kElements = 8 * kPieces;
  static constexpr int kCopies = (kPieces + kTensorThreads - 1) / kTensorThreads;  // of a thread

  DWS_DEVICE static constexpr int Position(int column) {
    return Win::kStride == 1 ? column : (column & 1) * kOdd + (column >> 1);
  }
  // Where piece `piece` of a pixel lies, in elements. The other one of a warp's two pieces: with bit 3 changed.
  DWS_DEVICE static int At(const TensorCut& cut, int pair, int half, int position, int piece) {
    const int pixel = (pair * 2 + half) * kColumns + position, log2 = cut.warps_log2 + 1;
    return ((pixel << log2) + (piece ^ (pixel >> (3 - log2) & ((1 << log2) - 1)))) * 8;
  }
};

// A thread's copies of rows of a tensor [N,H,W,C] to the block's rows.
template <typename T, typename Win, typename Row>
struct TensorCopy {
  const T* from[Row::kCopies];  // in the next row
  int to[Row::kCopies];         // in a row
  uint32_t inside;              // bit i: copy i has a column of the image
  int y;

  // channel: the block's first one. pair_of(i): its i-th pair of tiles. first_y, pad_left: of the tensor, where the
  // first row and a tile's first column begin.
  template <typename PairOf>
  DWS_DEVICE void Begin(const TensorCut& cut, const void* x, int H, int W, int C, int channel, PairOf pair_of,
                        int first_y, int pad_left) {
    y = first_y;
    inside = 0;
    const int log2 = cut.warps_log2 + 1;
    DWS_UNROLL
    for (int i = 0; i < Row::kCopies; ++i) {
      const int at = i * kTensorThreads + static_cast<int>(threadIdx.x);
      const int piece = at & ((1 << log2) - 1), pixel = at >> log2;
      const int tile_of_block = pixel / Row::kColumns, column = pixel - tile_of_block * Row::kColumns;
      const int pair = tile_of_block >> 1, half = tile_of_block & 1;
      const TensorTile tile(cut, pair_of(pair), half);
      const int j = tile.column * Win::kStride - pad_left + column, first = channel + piece * 8;
      const bool there = tile.image >= 0 && j >= 0 && j < W && first < C;
      if (there) inside |= 1u << i;
      to[i] = Row::At(cut, pair, half, Row::Position(column), piece);
      from[i] = static_cast<const T*>(x) + (there ? ((int64_t{tile.image} * H + y) * W + j) * C + first : int64_t{0});
    }
  }

  // step: elements of a row.
  DWS_DEVICE void Next(T* row, int H, int64_t step) {
    const uint32_t valid = static_cast<uint32_t>(y) < static_cast<uint32_t>(H) ? inside : 0u;
    DWS_UNROLL
    for (int i = 0; i < Row::kCopies; ++i) {
      // Where nothing is to be read the address is of no meaning.
      if ((i + 1) * kTensorThreads <= Row::kPieces ||
          i * kTensorThreads + static_cast<int>(threadIdx.x) < Row::kPieces) {
        CopyAsync16(row + to[i], from[i], (valid >> i & 1u) != 0);
      }
      from[i] += step;
    }
    ++y;
  }
};

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEPTHWISE_TENSOR_RINGS_CUH_
