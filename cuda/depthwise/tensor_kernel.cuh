// The depthwise half alone, of 16-bit elements, on tensor cores:
//
//   rows of X --cp.async--> rings --ldmatrix, times blocks of D, mid--> a row of Z in shared memory --> Z
//
// As in fused/tensor_stream_kernel.cuh two taps of a row of the window are one product for 8 channels: 16 pixels x (2
// taps x 8 channels) of X times a matrix of 16 x 8 that has D's weights on the diagonals of its two halves and zeros
// elsewhere. Here a warp goes down two tiles of 8 columns, of any images, for 16 channels. All weights stay in its
// registers. Each row of X is multiplied for all rows of Z that have a tap there, and then done with.
//
// Times the zeros an infinite input would be NaN in the other channels, and so would an infinite weight times the zeros
// around the image: whoever finds that computes its words again by plain loops.
#ifndef DWSCONV_CUDA_DEPTHWISE_TENSOR_KERNEL_CUH_
#define DWSCONV_CUDA_DEPTHWISE_TENSOR_KERNEL_CUH_

#include <cstdint>

#include "cuda/depthwise/tensor_rings.cuh"
#include "cuda/device/activation.cuh"
#include "cuda/device/fragments.cuh"

namespace dwsconv {
namespace cuda {

struct TensorArgs {
  const void *x, *d, *bias;  // [N,H,W,C], [R,S,C], [C] or null
  void* z;                   // [N,Ho,Wo,C]
  DeviceActivation mid;
  int H, W, C, Ho, Wo, pad_top, pad_left;
  int64_t x_row, z_row;  // elements
  bool turned;           // the window by half a turn: D's last tap is the first
  TensorCut cut;
};

// Of a row's neighbours one is read at a time, and the others are on their way.
template <typename Win>
using TensorInput = TensorRow<Win, Win::kStride == 2 ? (Win::kSize == 3 ? 4 : 6)
                                   : Win::kSize == 3 ? 6
                                                     : 5>;

// A row of Z in shared memory: 16 pixels of each of the block's pairs, and between them 16 bytes for the banks.
constexpr int kTensorZElements = 16 * kTensorWarps * (16 + 8);

// Where a block is: channels from `channel` on, pairs from `pair` on, rows first to before last.
struct TensorBlock {
  int channel, pair, first, last;

  DWS_DEVICE TensorBlock(const TensorArgs& args, int item) {
    const TensorCut& cut = args.cut;
    const int segment = item / cut.blocks, place = item - segment * cut.blocks, pairs = place / cut.channel_blocks;
    channel = (place - pairs * cut.channel_blocks) * (16 << cut.warps_log2);
    pair = pairs * (kTensorWarps >> cut.warps_log2);
    first = segment * cut.segment_rows;
    last = first + cut.segment_rows < args.Ho ? first + cut.segment_rows : args.Ho;
  }
};

// What a thread stores of a row of Z: 16 bytes of a pixel.
struct TensorStored {
  int pixel, piece;            // of the block's
  int image, column, channel;  // image: -1 where there is nothing

  DWS_DEVICE TensorStored(const TensorCut& cut, const TensorBlock& block) {
    const int log2 = cut.warps_log2 + 1;
    pixel = static_cast<int>(threadIdx.x) >> log2;
    piece = threadIdx.x & ((1 << log2) - 1);
    const TensorTile tile(cut, block.pair + (pixel >> 4), pixel >> 3 & 1);
    image = tile.image;
    column = tile.column + (pixel & 7);
    channel = block.channel + piece * 8;
  }
};

// What a thread stored that is not finite, again by plain loops, taps outside the image left out. Called, as it is long
// and hardly ever needed.
template <typename T, typename Win>
DWS_CALLED void RepairStrip(const TensorArgs& args, int item) {
  NoteRepair();
  const TensorBlock block(args, item);
  const TensorStored stored(args.cut, block);
  const int first = block.first, last = block.last;
  const T *const d = static_cast<const T*>(args.d), *const bias = static_cast<const T*>(args.bias);
  const T* const x = static_cast<const T*>(args.x) + int64_t{stored.image} * args.H * args.x_row;
  T* const z = static_cast<T*>(args.z) + int64_t{stored.image} * args.Ho * args.z_row + int64_t{stored.column} * args.C;
  DWS_ROLLED
  for (int i = first * 8; i < last * 8; ++i) {
    const int row = i / 8, channel = stored.channel + i % 8;
    T* const to = z + row * args.z_row + channel;
    if (IsFinite(Widen(*to))) continue;
    float sum = bias == nullptr ? 0.f : Widen(bias[channel]);
    DWS_ROLLED
    for (int tap = 0; tap < Win::kTaps; ++tap) {
      const int y = row * Win::kStride - args.pad_top + tap / Win::kSize;
      const int j = stored.column * Win::kStride - args.pad_left + tap % Win::kSize;
      if (y < 0 || y >= args.H || j < 0 || j >= args.W) continue;
      sum = fmaf(Widen(x[y * args.x_row + int64_t{j} * args.C + channel]),
                 Widen(d[(args.turned ? Win::kTaps - 1 - tap : tap) * args.C + channel]), sum);
    }
    *to = Narrow<T>(Activate<T>(sum, args.mid));
  }
}

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
    const int step = args.turned ? -args.C : args.C;
    DWS_UNROLL
    for (int eight = 0; eight < 2; ++eight) {
      const int mine = channel + eight * 8 + g;
      const bool there = takes_part && mine < args.C;
      const T* from = static_cast<const T*>(args.d) + (args.turned ? (Win::kTaps - 1) * args.C : 0) + mine;
      DWS_UNROLL
      for (int tap = 0; tap < Win::kTaps; ++tap, from += step) {
        const int r = tap / Win::kSize, s = tap % Win::kSize;
        const uint32_t word = there ? uint32_t{from->bits} << 16 * (g & 1) : 0u;
        (s == Win::kSize - 1 ? last[r][eight] : pairs[r][s / 2 % kPairs][eight][s % 2]) = word;
      }
    }
  }
};

// Blocks that a multiprocessor has registers for.
template <typename Win>
constexpr int TensorBlocks() {
  return ResidentBlocks(Win::kSize == 3 ? 5 : 3);
}

template <typename T, typename Win>
constexpr int64_t TensorSharedBytes() {
  return int64_t{TensorInput<Win>::kRows * TensorInput<Win>::kElements + 2 * kTensorZElements} * sizeof(T);
}

// kClamps: mid is none or a clamp, so that the loop need not have the code of all others.
template <typename T, typename Win, bool kClamps>
__global__ void __launch_bounds__(kTensorThreads, (TensorBlocks<Win>()))
    DepthwiseTensorKernel(const DWS_GRID_CONSTANT TensorArgs args) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  __trap();  // the planner gives such cards other kernels
#else
  using Row = TensorInput<Win>;
  constexpr int kSize = Win::kSize, kStride = Win::kStride, kPairs = TensorTaps<Win>::kPairs;
  constexpr int kLive = (kSize - 1) / kStride + 1;  // rows of Z that a row of X has taps of
  constexpr int kShared = kSize - kStride;          // rows of an output that the one above reads too
  // Rows of Z until registers and the ring have their first meaning again.
  constexpr int kTurn = kStride == 1 && kSize == 3 ? 2 * kLive : kLive;
  static_assert(kTurn * kStride % Row::kRows == 0, "a turn is whole");
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  T* const rings = reinterpret_cast<T*>(SharedMemory());
  T* const z_rows = rings + Row::kRows * Row::kElements;  // two rows of Z: one is written, one is read
  const WordClamp clamp = WordClamp::Of(args.mid, T());
  const TensorCut& cut = args.cut;
  const TensorWarp of(cut, warp);
  // Lanes give the rows of four matrices: pixels of one tile and of the other, and the same of the next tap, or the
  // other 8 channels.
  const int half = lane >> 3 & 1, other = lane >> 4;
  int pairs_at[kPairs];
  DWS_UNROLL
  for (int q = 0; q < kPairs; ++q) {
    pairs_at[q] = Row::At(cut, of.pair, half,
                          (lane & 7) + (other == 0 ? Row::Position(2 * q) : Row::Position(2 * q + 1)), 2 * of.group);
  }
  const int last_at = Row::At(cut, of.pair, half, (lane & 7) + Row::Position(kSize - 1), 2 * of.group + other);
  // Lane (g, t) has channels 2t and 2t + 1 of pixel g of both tiles; a thread then stores 16 bytes of a pixel.
  const int z_pitch = (16 << cut.warps_log2) + 8;
  const int z_to = (of.pair * 16 + (lane >> 2)) * z_pitch + of.group * 16 + 2 * (lane & 3);
  for (int item = blockIdx.x; item < cut.items; item += gridDim.x) {
    const TensorBlock block(args, item);
    const int first = block.first, last_row = block.last;
    TensorCopy<T, Win, Row> copy;
    copy.Begin(
        cut, args.x, args.H, args.W, args.C, block.channel, [&](int i) { return block.pair + i; },
        first * kStride - args.pad_top, args.pad_left);
    DWS_UNROLL
    for (int i = 0; i < Row::kRows - 1; ++i) {
      copy.Next(rings + i * Row::kElements, args.H, args.x_row);
      CommitCopies();
    }
    const int my_channel = block.channel + of.group * 16;
    TensorTaps<Win> taps;
    taps.Load(args, my_channel, lane, T());
    float bias[2][2], sums[kLive][2][4];
    DWS_UNROLL
    for (int eight = 0; eight < 2; ++eight) {
      DWS_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int channel = my_channel + eight * 8 + 2 * (lane & 3) + e;
        const bool there = args.bias != nullptr && channel < args.C;
        bias[eight][e] = there ? Widen(static_cast<const T*>(args.bias)[channel]) : 0.f;
      }
    }
    const TensorStored stored(cut, block);
    const bool stores = stored.image >= 0 && stored.column < args.Wo && stored.channel < args.C;
    T* z = static_cast<T*>(args.z) + (int64_t{stored.image} * args.Ho + first) * args.z_row +
           int64_t{stored.column} * args.C + stored.channel;
    const int z_from = stored.pixel * z_pitch + stored.piece * 8;
    int next_z = first;  // the next row to store
    uint32_t probe = 0;  // NaN where one was stored
    const auto store = [&] {
      if (stores) {
        const uint4 words = *reinterpret_cast<const uint4*>(z_rows + z_from + (next_z & 1) * kTensorZElements);
        probe = ProbeWord(ProbeWord(probe, words.x, T()), words.y, T());
        probe = ProbeWord(ProbeWord(probe, words.z, T()), words.w, T());
        *reinterpret_cast<uint4*>(z) = words;
      }
      z += args.z_row;
      ++next_z;
    };
    // Row `row` of X in the ring, which is row r of the first live output, to all that have a tap there. `turn`: whose
    // the sums are. stores_one: the row of Z before is stored.
    const auto add = [&](int row, int r, int turn, bool stores_one) {
      WaitForCopies<Row::kRows - 2>();
      // The row has come, and the row of Z; nobody reads the row before, which is written over now.
      SyncBlock();
      if (stores_one) store();
      const int at = row % Row::kRows * Row::kElements;
      uint32_t inputs[kPairs][2][4], last[4];
      DWS_UNROLL
      for (int q = 0; q < kPairs; ++q) {
        DWS_UNROLL
        for (int eight = 0; eight < 2; ++eight) {
          LoadMatrices(inputs[q][eight], rings + at + (pairs_at[q] ^ eight * 8));
        }
      }
      LoadMatrices(last, rings + at + last_at);
      copy.Next(rings + (row + Row::kRows - 1) % Row::kRows * Row::kElements, args.H, args.x_row);
      CommitCopies();
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
              constexpr float kNone[4] = {};
              MultiplyAddTo(four, kNone, inputs[q][eight], b[0], b[1], T());
            } else {
              MultiplyAdd(four, inputs[q][eight], b[0], b[1], T());
            }
          }
          MultiplyAddHalf(four, last[2 * eight], last[2 * eight + 1], taps.last[tap][eight], T());
        }
      }
    };
    DWS_UNROLL
    for (int r = 0; r < kShared; ++r) add(r, r, 0, false);
    for (int row = first; row < last_row; row += kTurn) {
      DWS_UNROLL
      for (int turn = 0; turn < kTurn; ++turn) {
        if (row + turn >= last_row) break;
        DWS_UNROLL
        for (int i = 0; i < kStride; ++i) {
          add(kShared + turn * kStride + i, kShared + i, turn, i == 0 && row + turn > first);
        }
        float done[1][8];
        DWS_UNROLL
        for (int i = 0; i < 8; ++i) done[0][i] = sums[turn % kLive][i / 4][i % 4] + bias[i / 4][i % 2];
        if constexpr (!kClamps) ActivateAll<T>(done, args.mid, true);
        uint32_t words[4];  // of both tiles, first 8 channels and the others
        DWS_UNROLL
        for (int i = 0; i < 4; ++i) {
          const float values[2] = {done[0][(i & 1) * 4 + (i >> 1) * 2], done[0][(i & 1) * 4 + (i >> 1) * 2 + 1]};
          words[i] = NarrowWord(values, T());
        }
        clamp.All(words, T());
        T* const to = z_rows + z_to + ((row + turn) & 1) * kTensorZElements;
        DWS_UNROLL
        for (int i = 0; i < 4; ++i) {
          *reinterpret_cast<uint32_t*>(to + (i >> 1) * 8 * z_pitch + (i & 1) * 8) = words[i];
        }
      }
    }
    WaitForCopies<0>();
    // The last row of Z is there, and nobody reads the rings any more.
    SyncBlock();
    store();
    if (probe != 0) RepairStrip<T, Win>(args, item);
  }
#endif
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEPTHWISE_TENSOR_KERNEL_CUH_
