// The depthwise half alone, of 16-bit elements, on tensor cores:
//
//   rows of X --cp.async--> ring of a warp --ldmatrix, times blocks of D, mid--> Z
//
// As in fused/tensor_stream_kernel.cuh two taps of a row of the window are one product for 8 channels: 16 pixels x (2
// taps x 8 channels) of X times a matrix of 16 x 8 that has D's weights on the diagonals of its two halves and zeros
// elsewhere. Here a warp is by itself. It goes down two tiles of 8 columns, of any images, for 16 channels. All weights
// stay in its registers. Each row of X is multiplied for all rows of Z that have a tap there, and then done with.
//
// Times the zeros an infinite input would be NaN in the other channels, and so would an infinite weight times the zeros
// around the image: whoever finds that computes its words again by plain loops.
#ifndef DWSCONV_CUDA_DEPTHWISE_TENSOR_KERNEL_CUH_
#define DWSCONV_CUDA_DEPTHWISE_TENSOR_KERNEL_CUH_

#include <cstdint>

#include "cc/plan/cuda/slide.h"
#include "cuda/depthwise/patch.cuh"
#include "cuda/device/activation.cuh"
#include "cuda/device/async_copy.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/fragments.cuh"
#include "cuda/device/platform.cuh"
#include "cuda/device/store_tile.cuh"

namespace dwsconv {
namespace cuda {

struct TensorArgs {
  const void *x, *d, *bias;  // [N,H,W,C], [R,S,C], [C] or null
  void* z;                   // [N,Ho,Wo,C]
  DeviceActivation mid;
  int H, W, C, Ho, Wo, pad_top, pad_left;
  bool turned;  // the window by half a turn: D's last tap is the first
  TensorCut cut;
};

// A warp's ring: a row has 8 channels of each of a tile's columns, 16 bytes a column, then the other 8, then the same
// of the other tile. With stride 2 the even columns come first, so that 8 pixels are 128 bytes side by side.
template <typename Win>
struct TensorRow {
  static constexpr int kColumns = 7 * Win::kStride + Win::kSize;  // that a tile reads
  static constexpr int kOdd = (kColumns + 1) / 2;                 // where odd ones begin
  static constexpr int kEight = kColumns * 8;                     // elements of 8 channels
  static constexpr int kElements = 4 * kEight;
  static constexpr int kPieces = 4 * kColumns;  // of 16 bytes
  static constexpr int kRows = TensorRingRows(Win::kSize, Win::kStride);
  static constexpr int kCopies = (kPieces + 31) / 32;

  DWS_DEVICE static constexpr int Position(int column) {
    return Win::kStride == 1 ? column : (column & 1) * kOdd + (column >> 1);
  }
};

// Eight channels of Z by plain loops, taps outside the image left out. Called, as it is long and hardly ever needed.
template <typename T, typename Win>
DWS_CALLED uint4 PlainWords(const TensorArgs& args, int image, int row, int column, int channel) {
  const T *const d = static_cast<const T*>(args.d), *const bias = static_cast<const T*>(args.bias);
  const T* const x = static_cast<const T*>(args.x) + int64_t{image} * args.H * args.W * args.C;
  uint32_t words[4] = {};
  DWS_ROLLED
  for (int i = 0; i < 4; ++i, channel += 2) {
    float sums[2] = {bias == nullptr ? 0.f : Widen(bias[channel]), bias == nullptr ? 0.f : Widen(bias[channel + 1])};
    DWS_ROLLED
    for (int tap = 0; tap < Win::kTaps; ++tap) {
      const int y = row * Win::kStride - args.pad_top + tap / Win::kSize;
      const int j = column * Win::kStride - args.pad_left + tap % Win::kSize;
      if (y < 0 || y >= args.H || j < 0 || j >= args.W) continue;
      const T* const from = x + (int64_t{y} * args.W + j) * args.C + channel;
      const T* const weight = d + (args.turned ? Win::kTaps - 1 - tap : tap) * args.C + channel;
      DWS_UNROLL
      for (int e = 0; e < 2; ++e) sums[e] = fmaf(Widen(from[e]), Widen(weight[e]), sums[e]);
    }
    DWS_UNROLL
    for (int e = 0; e < 2; ++e) sums[e] = Activate<T>(sums[e], args.mid);
    const uint32_t word = NarrowWord(sums, T());
    DWS_UNROLL
    for (int k = 0; k < 4; ++k) words[k] = k == i ? word : words[k];
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Where a warp is: 16 channels from `channel` on, rows `first` to before `last`, a pair of tiles.
struct TensorPlace {
  int channel, first, last, pair;

  DWS_DEVICE TensorPlace(const TensorArgs& args, int item) {
    const TensorCut& cut = args.cut;
    const int rest = item / cut.groups;
    pair = rest / cut.segments;
    channel = (item - rest * cut.groups) * 16;
    first = (rest - pair * cut.segments) * cut.segment_rows;
    last = first + cut.segment_rows < args.Ho ? first + cut.segment_rows : args.Ho;
  }
};

// One of a pair's tiles: its image, or -1, and its first column.
struct TensorTileOf {
  int image, column;

  DWS_DEVICE TensorTileOf(const TensorCut& cut, int pair, int half) {
    const int tile = 2 * pair + half;
    image = tile / cut.column_tiles;
    column = (tile - image * cut.column_tiles) * 8;
    if (tile >= cut.tiles) image = -1;
  }
};

// A lane's copies of rows of X to the warp's ring.
template <typename T, typename Win>
struct TensorCopy {
  using Row = TensorRow<Win>;
  const T* from[Row::kCopies];  // in the next row
  T* to[Row::kCopies];          // in the ring's first row
  bool copies[Row::kCopies], inside[Row::kCopies];
  int y;

  DWS_DEVICE TensorCopy(const TensorArgs& args, const TensorPlace& place, T* ring, int lane) {
    y = place.first * Win::kStride - args.pad_top;
    DWS_UNROLL
    for (int i = 0; i < Row::kCopies; ++i) {
      const int piece = i * 32 + lane, half = piece / (2 * Row::kColumns), in_half = piece % (2 * Row::kColumns);
      // Of a pixel both pieces side by side: they are in one sector of global memory.
      const int column = in_half / 2, eight = in_half % 2, channel = place.channel + eight * 8;
      const TensorTileOf tile(args.cut, place.pair, half);
      const int j = tile.column * Win::kStride - args.pad_left + column;
      copies[i] = piece < Row::kPieces;
      to[i] = ring + (half * 2 + eight) * Row::kEight + Row::Position(column) * 8;
      inside[i] = tile.image >= 0 && j >= 0 && j < args.W && channel < args.C;
      from[i] = static_cast<const T*>(args.x) +
                (inside[i] ? ((int64_t{tile.image} * args.H + y) * args.W + j) * args.C + channel : int64_t{0});
    }
  }

  DWS_DEVICE void Next(const TensorArgs& args, int slot) {
    const bool there = static_cast<uint32_t>(y) < static_cast<uint32_t>(args.H);
    const int64_t step = static_cast<int64_t>(args.W) * args.C;
    DWS_UNROLL
    for (int i = 0; i < Row::kCopies; ++i) {
      // Where nothing is to be read the address is of no meaning.
      if (i * 32 + 32 <= Row::kPieces || copies[i]) {
        CopyAsync16(to[i] + slot * Row::kElements, from[i], there && inside[i]);
      }
      from[i] += step;
    }
    CommitCopies();
    ++y;
  }
};

// The window's weights as the right sides of products: lane (g, t) takes part where g / 2 == t; in all others the words
// are zeros. Of each row pairs of taps for the first 8 channels and the other 8, then the last tap.
template <typename Win>
struct TensorTaps {
  static constexpr int kPairs = Win::kSize / 2;
  uint32_t pairs[Win::kSize][kPairs][2][2], last[Win::kSize][2];

  template <typename T>
  DWS_DEVICE void Load(const TensorArgs& args, int channel, int lane, T) {
    const int g = lane >> 2;
    const bool takes_part = g >> 1 == (lane & 3);
    const T* const d = static_cast<const T*>(args.d);
    const auto word = [&](int r, int s, int eight) {
      const int mine = channel + eight * 8 + g, tap = r * Win::kSize + s;
      const bool there = takes_part && mine < args.C;
      return there ? uint32_t{d[(args.turned ? Win::kTaps - 1 - tap : tap) * args.C + mine].bits} << 16 * (g & 1) : 0u;
    };
    DWS_UNROLL
    for (int r = 0; r < Win::kSize; ++r) {
      DWS_UNROLL
      for (int eight = 0; eight < 2; ++eight) {
        DWS_UNROLL
        for (int q = 0; q < kPairs; ++q) {
          DWS_UNROLL
          for (int i = 0; i < 2; ++i) pairs[r][q][eight][i] = word(r, 2 * q + i, eight);
        }
        last[r][eight] = word(r, Win::kSize - 1, eight);
      }
    }
  }
};

// Blocks that a multiprocessor has registers for.
template <typename Win>
constexpr int TensorBlocks() {
  return Win::kSize == 3 ? 4 : 3;
}

template <typename T, typename Win>
constexpr int64_t TensorSharedBytes() {
  return int64_t{kTensorWarps} * TensorRow<Win>::kRows * TensorRow<Win>::kElements * sizeof(T);
}

// kClamps: mid is none or a clamp, so that the loop need not have the code of all others.
template <typename T, typename Win, bool kClamps>
__global__ void __launch_bounds__(kTensorWarps * 32, (TensorBlocks<Win>()))
    DepthwiseTensorKernel(const DWS_GRID_CONSTANT TensorArgs args) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  __trap();  // the planner gives such cards other kernels
#else
  using Row = TensorRow<Win>;
  constexpr int kSize = Win::kSize, kStride = Win::kStride, kPairs = TensorTaps<Win>::kPairs;
  constexpr int kLive = (kSize - 1) / kStride + 1;  // rows of Z that a row of X has taps of
  constexpr int kShared = kSize - kStride;          // rows of an output that the one above reads too
  // Rows of Z until registers and the ring have their first meaning again.
  constexpr int kTurn = kStride == 1 && kSize == 3 ? 2 * kLive : kLive;
  static_assert(kTurn * kStride % Row::kRows == 0, "a turn is whole");
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  T* const ring = reinterpret_cast<T*>(SharedMemory()) + warp * Row::kRows * Row::kElements;
  const WordClamp clamp = WordClamp::Of(args.mid, T());
  // Lanes give the rows of four matrices: pixels of one tile and of the other, and the same of the next tap, or the
  // other 8 channels.
  const int pixel = (lane & 7) * 8 + (lane >> 3 & 1) * 2 * Row::kEight, other = lane >> 4;
  const T* const pairs_at = ring + pixel + other * Row::Position(1) * 8;
  const T* const last_at = ring + pixel + other * Row::kEight + Row::Position(kSize - 1) * 8;
  for (int item = blockIdx.x * kTensorWarps + warp; item < args.cut.items; item += gridDim.x * kTensorWarps) {
    const TensorPlace place(args, item);
    TensorCopy<T, Win> copy(args, place, ring, lane);
    SyncWarp();  // nobody reads the ring any more
    DWS_UNROLL
    for (int i = 0; i < Row::kRows - 1; ++i) copy.Next(args, i);
    TensorTaps<Win> taps;
    taps.Load(args, place.channel, lane, T());
    float bias[2][4], sums[kLive][2][4];
    DWS_UNROLL
    for (int eight = 0; eight < 2; ++eight) {
      DWS_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int channel = place.channel + eight * 8 + 2 * (lane & 3) + e;
        const bool there = args.bias != nullptr && channel < args.C;
        bias[eight][e] = bias[eight][2 + e] = there ? Widen(static_cast<const T*>(args.bias)[channel]) : 0.f;
      }
    }
    // Row `row` of X in the ring, which is row r of the first live output, to all that have a tap there. `turn`: whose
    // the sums are.
    const auto add = [&](int row, int r, int turn) {
      WaitForCopies<Row::kRows - 2>();
      // The row has come, and nobody reads the one before, which is written over now.
      SyncWarp();
      const int at = row % Row::kRows * Row::kElements;
      uint32_t inputs[kPairs][2][4], last[4];
      DWS_UNROLL
      for (int q = 0; q < kPairs; ++q) {
        DWS_UNROLL
        for (int eight = 0; eight < 2; ++eight) {
          LoadMatrices(inputs[q][eight], pairs_at + at + eight * Row::kEight + Row::Position(2 * q) * 8);
        }
      }
      LoadMatrices(last, last_at + at);
      copy.Next(args, (row + Row::kRows - 1) % Row::kRows);
      DWS_UNROLL
      for (int t = 0; t < kLive; ++t) {
        const int tap = r - t * kStride;
        if (tap < 0) continue;
        DWS_UNROLL
        for (int eight = 0; eight < 2; ++eight) {
          float* const four = sums[(turn + t) % kLive][eight];
          DWS_UNROLL
          for (int q = 0; q < kPairs; ++q) {
            const uint32_t (&b)[2] = taps.pairs[tap][q][eight];
            if (tap == 0 && q == 0) {
              MultiplyAddTo(four, bias[eight], inputs[q][eight], b[0], b[1], T());
            } else {
              MultiplyAdd(four, inputs[q][eight], b[0], b[1], T());
            }
          }
          MultiplyAddHalf(four, last[2 * eight], last[2 * eight + 1], taps.last[tap][eight], T());
        }
      }
    };
    DWS_UNROLL
    for (int r = 0; r < kShared; ++r) add(r, r, 0);
    // What a lane stores: 8 channels of a pixel, as quads exchange their words.
    const TensorTileOf tile(args.cut, place.pair, lane >> 1 & 1);
    const int column = tile.column + (lane >> 2), channel = place.channel + (lane & 1) * 8;
    const bool stores = tile.image >= 0 && column < args.Wo && channel < args.C;
    T* z =
        static_cast<T*>(args.z) + ((int64_t{tile.image} * args.Ho + place.first) * args.Wo + column) * args.C + channel;
    for (int row = place.first; row < place.last; row += kTurn) {
      DWS_UNROLL
      for (int turn = 0; turn < kTurn; ++turn) {
        if (row + turn >= place.last) break;
        DWS_UNROLL
        for (int i = 0; i < kStride; ++i) add(kShared + turn * kStride + i, kShared + i, turn);
        float done[1][8];
        DWS_UNROLL
        for (int i = 0; i < 8; ++i) done[0][i] = sums[turn % kLive][i / 4][i % 4];
        ActivateAll<T, kClamps>(done, args.mid, true);
        uint32_t words[4], probe = 0;  // of both tiles, first 8 channels and the others
        DWS_UNROLL
        for (int i = 0; i < 4; ++i) {
          const float values[2] = {done[0][(i & 1) * 4 + (i >> 1) * 2], done[0][(i & 1) * 4 + (i >> 1) * 2 + 1]};
          words[i] = NarrowWord(values, T());
        }
        clamp.All(words, T());
        TransposeQuad(words, lane);
        if (stores) {
          DWS_UNROLL
          for (int i = 0; i < 4; ++i) probe = ProbeWord(probe, words[i], T());
          const uint4 four = probe == 0 ? make_uint4(words[0], words[1], words[2], words[3])
                                        : PlainWords<T, Win>(args, tile.image, row + turn, column, channel);
          *reinterpret_cast<uint4*>(z) = four;
        }
        z += static_cast<int64_t>(args.Wo) * args.C;
      }
    }
    WaitForCopies<0>();
  }
#endif
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEPTHWISE_TENSOR_KERNEL_CUH_
