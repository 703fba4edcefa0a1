// The first stage of dD on tensor cores, for 16-bit elements: dD of a tap and a channel is the product of what X has
// under the tap, over all pixels, and dZ. A product of (2 taps x 8 channels) x 16 pixels of X times 16 pixels x 8
// channels of dZ has them on the diagonals of its two halves. Both factors lie in shared memory pixel by pixel, as the
// forward kernel copies them (depthwise/tensor_kernel.cuh), and ldmatrix turns them.
//
// Zeros around the image, or past its last column, times an infinity are NaN, where the formula leaves them out: who
// finds a NaN adds up again by plain loops.
#ifndef DWSCONV_CUDA_BACKWARD_FILTER_KERNEL_CUH_
#define DWSCONV_CUDA_BACKWARD_FILTER_KERNEL_CUH_

#include <cstdint>

#include "cuda/depthwise/tensor_rings.cuh"
#include "cuda/device/fragments.cuh"

namespace dwsconv {
namespace cuda {

struct TensorFilterArgs {
  const void *x, *dz;  // [N,H,W,C], [N,Ho,Wo,C]
  float* sums;         // [parts,R,S,C]
  int H, W, C, Ho, Wo, pad_top, pad_left;
  int64_t x_row, dz_row;  // elements
  TensorCut cut;          // of dZ
  int part_pairs;         // of tiles
  int items;              // blocks' parts x blocks for all channels
};

// Rows of dZ that are on their way while one is read.
template <typename Win>
constexpr int kFilterAhead = Win::kSize == 3 && Win::kStride == 1 ? 3 : 2;
template <typename Win>
using FilterInput = TensorRow<Win, Win::kSize + Win::kStride * kFilterAhead<Win>>;
template <typename Win>
using FilterGradient = TensorRow<Window<1, 1>, kFilterAhead<Win> + 1>;

template <typename T, typename Win>
constexpr int64_t TensorFilterSharedBytes() {
  return int64_t{FilterInput<Win>::kRows * FilterInput<Win>::kElements +
                 FilterGradient<Win>::kRows * FilterGradient<Win>::kElements} *
         sizeof(T);
}

// What of a channel's sums of a part is NaN, again by plain loops, taps outside the image left out.
template <typename T, typename Win>
DWS_CALLED void RepairTaps(const TensorFilterArgs& args, int part, int channel) {
  NoteRepair();
  const int begin = 2 * part * args.part_pairs;
  const int end = begin + 2 * args.part_pairs < args.cut.tiles ? begin + 2 * args.part_pairs : args.cut.tiles;
  const T *const x = static_cast<const T*>(args.x) + channel, *const dz = static_cast<const T*>(args.dz) + channel;
  DWS_ROLLED
  for (int tap = 0; tap < Win::kTaps; ++tap) {
    float* const to = args.sums + (int64_t{part} * Win::kTaps + tap) * args.C + channel;
    if (*to == *to) continue;
    float sum = 0.f;
    for (int tile = begin; tile < end; ++tile) {
      const int64_t image = tile / args.cut.column_tiles;
      const int first = tile % args.cut.column_tiles * 8;
      for (int row = 0; row < args.Ho; ++row) {
        const int y = row * Win::kStride - args.pad_top + tap / Win::kSize;
        if (y < 0 || y >= args.H) continue;
        for (int column = first; column < first + 8 && column < args.Wo; ++column) {
          const int j = column * Win::kStride - args.pad_left + tap % Win::kSize;
          if (j < 0 || j >= args.W) continue;
          sum = fmaf(Widen(x[(image * args.H + y) * args.x_row + int64_t{j} * args.C]),
                     Widen(dz[(image * args.Ho + row) * args.dz_row + int64_t{column} * args.C]), sum);
        }
      }
    }
    *to = sum;
  }
}

// Blocks that a multiprocessor has registers for.
template <typename Win>
constexpr int TensorFilterBlocks() {
  return ResidentBlocks(Win::kSize == 3 ? 4 : Win::kStride == 1 ? 3 : 2);
}

// A warp has 16 channels, and adds up in registers what all pairs of tiles of its part give. Where a block has several
// pairs at a time they are of as many parts.
template <typename T, typename Win>
__global__ void __launch_bounds__(kTensorThreads, (TensorFilterBlocks<Win>()))
    TensorFilterKernel(const DWS_GRID_CONSTANT TensorFilterArgs args) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  __trap();  // the planner gives such cards another kernel
#else
  using X = FilterInput<Win>;
  using G = FilterGradient<Win>;
  constexpr int kStride = Win::kStride, kTaps = Win::kTaps, kPairs = (kTaps + 1) / 2, kAhead = kFilterAhead<Win>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  T* const x_rings = reinterpret_cast<T*>(SharedMemory());
  T* const g_rings = x_rings + X::kRows * X::kElements;
  const TensorCut& cut = args.cut;
  const TensorWarp of(cut, warp);
  // Lanes give the rows, which are pixels, of four matrices: of X the two taps' of one tile, then the other tile's; of
  // dZ both tiles' for the first 8 channels, then for the others.
  const int pixel = lane & 7, second = lane >> 3 & 1, upper = lane >> 4;
  int x_at[Win::kSize];  // by the window's column
  DWS_UNROLL
  for (int s = 0; s < Win::kSize; ++s) x_at[s] = X::At(cut, of.pair, upper, pixel + X::Position(s), 2 * of.group);
  const int g_at = G::At(cut, of.pair, second, pixel, 2 * of.group + upper);
  for (int item = blockIdx.x; item < args.items; item += gridDim.x) {
    const int parts = item / cut.channel_blocks;
    const int channel_of_block = (item - parts * cut.channel_blocks) * (16 << cut.warps_log2);
    const int first_part = parts * (kTensorWarps >> cut.warps_log2), part = first_part + of.pair;
    float sums[kPairs][2][4];
    DWS_UNROLL
    for (int i = 0; i < kPairs * 8; ++i) (&sums[0][0][0])[i] = 0.f;
    for (int of_part = 0; of_part < args.part_pairs; ++of_part) {
      const auto pair_of = [&](int i) { return (first_part + i) * args.part_pairs + of_part; };
      if (pair_of(0) >= cut.pairs) break;
      TensorCopy<T, Win, X> copy_x;
      TensorCopy<T, Window<1, 1>, G> copy_g;
      copy_x.Begin(cut, args.x, args.H, args.W, args.C, channel_of_block, pair_of, -args.pad_top, args.pad_left);
      copy_g.Begin(cut, args.dz, args.Ho, args.Wo, args.C, channel_of_block, pair_of, 0, 0);
      // The next rows of X, from a slot of its ring on, and the next one of dZ.
      const auto next = [&](int rows, int slot_x, int slot_g) {
        DWS_UNROLL
        for (int i = 0; i < rows; ++i) {
          copy_x.Next(x_rings + slot_x * X::kElements, args.H, args.x_row);
          slot_x = slot_x == X::kRows - 1 ? 0 : slot_x + 1;
        }
        copy_g.Next(g_rings + slot_g * G::kElements, args.Ho, args.dz_row);
        CommitCopies();
      };
      SyncBlock();  // nobody reads the rings any more
      next(Win::kSize, 0, 0);
      DWS_UNROLL
      for (int i = 1; i < kAhead; ++i) next(kStride, Win::kSize + (i - 1) * kStride, i);
      int slot_x = 0, slot_g = 0;
      DWS_ROLLED
      for (int row = 0; row < args.Ho; ++row) {
        WaitForCopies<kAhead - 1>();
        // The rows have come, and nobody reads those of the row before, which are written over now.
        SyncBlock();
        int rows[Win::kSize];  // of the window, in the ring
        DWS_UNROLL
        for (int r = 0; r < Win::kSize; ++r) {
          const int slot = slot_x + r;
          rows[r] = (slot < X::kRows ? slot : slot - X::kRows) * X::kElements;
        }
        uint32_t g[4];
        LoadMatricesTransposed(g, g_rings + g_at + slot_g * G::kElements);
        // The rings end where what is read begins.
        next(kStride, slot_x < kStride ? slot_x + X::kRows - kStride : slot_x - kStride,
             slot_g == 0 ? G::kRows - 1 : slot_g - 1);
        DWS_UNROLL
        for (int q = 0; q < kPairs; ++q) {
          // The other half of the last product is of no use.
          const int tap = 2 * q, other = 2 * q + 1 < kTaps ? 2 * q + 1 : tap;
          const int tap_at = rows[tap / Win::kSize] + x_at[tap % Win::kSize];
          const int other_at = rows[other / Win::kSize] + x_at[other % Win::kSize];
          const int from = second == 0 ? tap_at : other_at;
          DWS_UNROLL
          for (int eight = 0; eight < 2; ++eight) {
            uint32_t x[4];
            LoadMatricesTransposed(x, x_rings + (from ^ eight * 8));
            MultiplyAdd(sums[q][eight], x, g[2 * eight], g[2 * eight + 1], T());
          }
        }
        slot_x = slot_x + kStride < X::kRows ? slot_x + kStride : slot_x + kStride - X::kRows;
        slot_g = slot_g == G::kRows - 1 ? 0 : slot_g + 1;
      }
      WaitForCopies<0>();
    }
    // On the diagonals: lane (g, t) with g / 2 == t has channel g.
    const int mine = lane >> 2;
    if (mine >> 1 != (lane & 3)) continue;
    DWS_UNROLL
    for (int eight = 0; eight < 2; ++eight) {
      const int channel = channel_of_block + of.group * 16 + eight * 8 + mine;
      if (channel >= args.C) continue;
      bool repairs = false;
      DWS_UNROLL
      for (int tap = 0; tap < kTaps; ++tap) {
        const float* const two = &sums[tap / 2][eight][tap % 2 * 2];
        const float sum = (mine & 1) != 0 ? two[1] : two[0];
        repairs = repairs || sum != sum;
        args.sums[(int64_t{part} * kTaps + tap) * args.C + channel] = sum;
      }
      if (repairs) RepairTaps<T, Win>(args, part, channel);
    }
  }
#endif
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_BACKWARD_FILTER_KERNEL_CUH_
