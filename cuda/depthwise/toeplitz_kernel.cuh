// The depthwise half of a 7x7 window on tensor cores, for 16-bit elements: CUDA cores would bound it.
//
// For a channel and a row r of the window, 8 outputs side by side are the 14 inputs that they read times a matrix:
//
//   output[n] += sum over k of input[k] * B[k][n],  B[k][n] = weight[r][k - n], zero where k - n is no tap
//
// B is a Toeplitz matrix of 16 x 8, one register of a lane, which stays. The 16 rows of the product are 16 rows of
// outputs. Sums are float32.
//
// Times a zero of B an infinite input would be NaN, in outputs that do not read it; so would an infinite weight times
// the zeros around the image. Whoever finds sums that are not finite computes them again by plain loops.
#ifndef DWSCONV_CUDA_DEPTHWISE_TOEPLITZ_KERNEL_CUH_
#define DWSCONV_CUDA_DEPTHWISE_TOEPLITZ_KERNEL_CUH_

#include <cstdint>

#include "cc/plan/cuda/tile.h"
#include "cuda/device/activation.cuh"
#include "cuda/device/async_copy.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/fragments.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

constexpr int kToeplitzThreads = 128;  // 4 warps of 8 channels each
constexpr int kToeplitzWindow = 7;
constexpr int kToeplitzRows = 16, kToeplitzColumns = 16;  // of outputs, of a step: two halves side by side
constexpr int kToeplitzInColumns = 24;                    // 22 are read, the last two times zeros
constexpr int kToeplitzWindowRows = kToeplitzRows + kToeplitzWindow - 1;
constexpr int kToeplitzRingRows = kToeplitzWindowRows + kToeplitzRows;
// In 16-byte units, both odd: so the 8 rows and columns that 8 lanes load from lie in different banks.
constexpr int kToeplitzPixelPitch = kToeplitzChannels / 8 + 1;
constexpr int kToeplitzRowPitch = kToeplitzInColumns * kToeplitzPixelPitch + 1;
constexpr int kToeplitzSharedBytes = kToeplitzRingRows * kToeplitzRowPitch * 16;

static_assert(kToeplitzPixelPitch % 2 == 1 && kToeplitzRowPitch % 2 == 1, "lanes would share banks");
static_assert(kToeplitzRows == kToeplitzTile && kToeplitzColumns == kToeplitzTile, "the planner counts these");
static_assert(kToeplitzSharedBytes <= kToeplitzMostSharedBytes, "the planner asks for these");

struct ToeplitzArgs {
  const void *x, *d, *bias;  // [N,H,W,C], [7,7,C], [C] or null; C is a multiple of 8, x, d and z aligned to 16 bytes
  void* z;                   // [N,Ho,Wo,C]
  DeviceActivation mid;
  int H, W, C, Ho, Wo, pad_top, pad_left;
  int strips, segments, segment_rows;  // of columns; of rows, a multiple of kToeplitzRows
  int groups;                          // of channels
  int items;                           // of each group: images * segments * strips
};

// A lane's share of B: for each row of the window and each of its warp's 8 channels the taps (d, d + 1) and (d + 8, d +
// 9), d = 2 * (lane % 4) - lane / 4. One of the two pairs is outside the window always, so one register holds both.
using ToeplitzWeights = uint32_t[kToeplitzWindow][8];

DWS_DEVICE int ToeplitzDistance(int lane) { return 2 * (lane & 3) - (lane >> 2); }

template <typename T>
DWS_DEVICE void LoadToeplitz(ToeplitzWeights& weights, const ToeplitzArgs& args, int channel, int lane) {
  const int distance = ToeplitzDistance(lane), first = distance < -1 ? distance + 8 : distance;
  const T* from = static_cast<const T*>(args.d) + first * args.C + channel;
  DWS_UNROLL
  for (int r = 0; r < kToeplitzWindow; ++r) {
    uint32_t taps[2][4];
    DWS_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int s = first + i;
      const bool there = s >= 0 && s < kToeplitzWindow && channel < args.C;
      const uint4 four = there ? *reinterpret_cast<const uint4*>(from + i * args.C) : make_uint4(0, 0, 0, 0);
      taps[i][0] = four.x;
      taps[i][1] = four.y;
      taps[i][2] = four.z;
      taps[i][3] = four.w;
    }
    DWS_UNROLL
    for (int e = 0; e < 8; ++e) weights[r][e] = PairHalves(taps[0][e / 2], taps[1][e / 2], e & 1);
    from += kToeplitzWindow * args.C;
  }
}

// Where a block is.
struct ToeplitzPlace {
  int group;  // of channels
  int image;
  int row, end_row, column;  // of Z
};

DWS_DEVICE ToeplitzPlace ToeplitzPlaceOf(const ToeplitzArgs& args, int item) {
  ToeplitzPlace place;
  const int rest = item / args.strips;
  place.column = (item - rest * args.strips) * kToeplitzColumns;
  place.image = rest / args.segments;
  place.row = (rest - place.image * args.segments) * args.segment_rows;
  place.end_row = place.row + args.segment_rows < args.Ho ? place.row + args.segment_rows : args.Ho;
  return place;
}

// Starts the copies of `count` rows of X to the ring, from slot `slot` on: row `first` below the segment's first one
// and the next; zeros for what is outside the image.
template <typename T>
DWS_DEVICE void CopyToeplitzRows(const ToeplitzArgs& args, const ToeplitzPlace& place, int group, uint4* ring,
                                 int first, int slot, int count) {
  constexpr int kPieces = kToeplitzChannels / 8;
  constexpr int kTogether = kToeplitzThreads / kPieces;
  const int piece = static_cast<int>(threadIdx.x) % kPieces;
  const int channel = group * kToeplitzChannels + piece * 8;
  const T* const image = static_cast<const T*>(args.x) + static_cast<int64_t>(place.image) * args.H * args.W * args.C;
  for (int i = static_cast<int>(threadIdx.x) / kPieces; i < count * kToeplitzInColumns; i += kTogether) {
    const int row = i / kToeplitzInColumns, column = i - row * kToeplitzInColumns;
    const int y = place.row - args.pad_top + first + row, x = place.column - args.pad_left + column;
    const bool inside = y >= 0 && y < args.H && x >= 0 && x < args.W && channel < args.C;
    const int at = slot + row < kToeplitzRingRows ? slot + row : slot + row - kToeplitzRingRows;
    CopyAsync16(ring + at * kToeplitzRowPitch + column * kToeplitzPixelPitch + piece,
                image + (static_cast<int64_t>(y) * args.W + x) * args.C + channel, inside);
  }
}

// One output's sum for one channel, by plain loops: taps outside the image are left out.
template <typename T>
DWS_DEVICE float PlainSum(const ToeplitzArgs& args, const ToeplitzPlace& place, int row, int column, int channel) {
  const T* const image = static_cast<const T*>(args.x) + static_cast<int64_t>(place.image) * args.H * args.W * args.C;
  float sum = args.bias == nullptr ? 0.f : Widen(static_cast<const T*>(args.bias)[channel]);
  DWS_ROLLED
  for (int tap = 0; tap < kToeplitzWindow * kToeplitzWindow; ++tap) {
    const int y = row - args.pad_top + tap / kToeplitzWindow, x = column - args.pad_left + tap % kToeplitzWindow;
    if (y < 0 || y >= args.H || x < 0 || x >= args.W) continue;
    sum = fmaf(Widen(image[(static_cast<int64_t>(y) * args.W + x) * args.C + channel]),
               Widen(static_cast<const T*>(args.d)[tap * args.C + channel]), sum);
  }
  return sum;
}

// The words of 8 channels of columns 2t and 2t + 1 of row g, then of row g + 8, in the ring.
using ToeplitzInputs = uint32_t[4][4];

DWS_DEVICE void LoadToeplitzInputs(ToeplitzInputs& inputs, const uint4* row, const uint4* row_8) {
  DWS_UNROLL
  for (int i = 0; i < 4; ++i) {
    const uint4 four = (i < 2 ? row : row_8)[i % 2 * kToeplitzPixelPitch];
    inputs[i][0] = four.x;
    inputs[i][1] = four.y;
    inputs[i][2] = four.z;
    inputs[i][3] = four.w;
  }
}

// sums += the inputs of 16 columns, `left` and the 8 right of them, times one row of the window. near: all bits set in
// the lanes whose weights are of the first pair, none in the others.
template <typename T>
DWS_DEVICE void MultiplyToeplitz(float (&sums)[8][4], const ToeplitzInputs& left, const ToeplitzInputs& right,
                                 const uint32_t (&weights)[8], uint32_t near) {
  DWS_UNROLL
  for (int c = 0; c < 8; ++c) {
    const uint32_t a[4] = {
        PairHalves(left[0][c / 2], left[1][c / 2], c & 1), PairHalves(left[2][c / 2], left[3][c / 2], c & 1),
        PairHalves(right[0][c / 2], right[1][c / 2], c & 1), PairHalves(right[2][c / 2], right[3][c / 2], c & 1)};
    MultiplyAdd(sums[c], a, weights[c] & near, weights[c] & ~near, T());
  }
}

// The sums of half a step: sums[c][i] of channel c, output row lane / 4 + 8 * (i / 2), column 2 * (lane % 4) + i % 2.
// ring: from the half's first column and the warp's first channel on.
template <typename T>
DWS_DEVICE void ToeplitzSums(float (&sums)[8][4], const ToeplitzWeights& weights, const uint4* ring, int top_slot,
                             int rows, int lane) {
  const uint4* const from = ring + 2 * (lane & 3) * kToeplitzPixelPitch;
  // Opaque: else both masked forms of all weights would be kept in registers.
  const uint32_t near = Opaque(ToeplitzDistance(lane) < -1 ? 0u : 0xffffffffu);
  const int slot = top_slot + (lane >> 2);
  DWS_UNROLL
  for (int r = 0; r < kToeplitzWindow; ++r) {
    if (r >= rows) continue;
    const int at = slot + r < kToeplitzRingRows ? slot + r : slot + r - kToeplitzRingRows;
    const int at_8 = slot + r + 8 < kToeplitzRingRows ? slot + r + 8 : slot + r + 8 - kToeplitzRingRows;
    const uint4* const row = from + at * kToeplitzRowPitch;
    const uint4* const row_8 = from + at_8 * kToeplitzRowPitch;
    ToeplitzInputs left, right;
    LoadToeplitzInputs(left, row, row_8);
    LoadToeplitzInputs(right, row + 8 * kToeplitzPixelPitch, row_8 + 8 * kToeplitzPixelPitch);
    MultiplyToeplitz<T>(sums, left, right, weights[r], near);
  }
}

// Bias, activation, rounding and Z of one half of a step, whose first row and column of Z are given.
template <typename T>
DWS_DEVICE void StoreToeplitz(float (&sums)[8][4], const ToeplitzArgs& args, const ToeplitzPlace& place, int row,
                              int column, int channel, int lane) {
  if (channel >= args.C) return;
  float probe = 0.f;
  DWS_UNROLL
  for (int c = 0; c < 8; ++c) {
    const float bias = args.bias == nullptr ? 0.f : Widen(static_cast<const T*>(args.bias)[channel + c]);
    DWS_UNROLL
    for (int i = 0; i < 4; ++i) {
      probe = fmaf(sums[c][i], 0.f, probe);
      sums[c][i] += bias;
    }
  }
  const bool finite = probe == 0.f;
  if (finite) ActivateAll<T>(sums, args.mid, true);
  const WordClamp clamp = WordClamp::Of(args.mid, T());
  row += lane >> 2;
  column += 2 * (lane & 3);
  T* const z = static_cast<T*>(args.z) + static_cast<int64_t>(place.image) * args.Ho * args.Wo * args.C + channel;
  DWS_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int a = row + 8 * (i >> 1), b = column + (i & 1);
    if (a >= place.end_row || b >= args.Wo) continue;
    T* const to = z + (static_cast<int64_t>(a) * args.Wo + b) * args.C;
    if (!finite) {
      NoteRepair();
      DWS_ROLLED
      for (int c = 0; c < 8; ++c) {
        to[c] = Narrow<T>(Activate<T>(PlainSum<T>(args, place, a, b, channel + c), args.mid));
      }
      continue;
    }
    uint32_t words[4];
    DWS_UNROLL
    for (int w = 0; w < 4; ++w) {
      const float values[2] = {sums[2 * w][i], sums[2 * w + 1][i]};
      words[w] = clamp(NarrowWord(values, T()), T());
    }
    *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

// A block keeps to 32 channels, whose weights stay in registers. It takes a strip of columns of an image and goes down
// it, 16 rows of outputs a step; the next step's rows are under way meanwhile.
template <typename T>
__global__ void __launch_bounds__(kToeplitzThreads, kToeplitzBlocks) DepthwiseToeplitzKernel(const ToeplitzArgs args) {
  uint4* const ring = reinterpret_cast<uint4*>(SharedMemory());
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
  // Blocks that share a group of channels, or one that takes several groups in turn.
  const int together = blocks < args.groups ? 1 : blocks / args.groups;
  const int group_step = blocks < args.groups ? blocks : args.groups;
  if (block >= group_step * together) return;
  // All of them. The compiler would load ahead more of the next row than there are registers for: to it, it may be
  // missing.
  const int rows = args.items > 0 ? kToeplitzWindow : 0;
  for (int group = block % group_step; group < args.groups; group += group_step) {
    const int channel = group * kToeplitzChannels + warp * 8;
    ToeplitzWeights weights;
    LoadToeplitz<T>(weights, args, channel, lane);
    for (int item = block / group_step; item < args.items; item += together) {
      const ToeplitzPlace place = ToeplitzPlaceOf(args, item);
      CopyToeplitzRows<T>(args, place, group, ring, 0, 0, kToeplitzWindowRows);
      CommitCopies();
      int top_slot = 0;
      for (int top = 0; place.row + top < place.end_row; top += kToeplitzRows) {
        if (place.row + top + kToeplitzRows < place.end_row) {
          const int slot = top_slot + kToeplitzWindowRows;
          CopyToeplitzRows<T>(args, place, group, ring, top + kToeplitzWindowRows,
                              slot < kToeplitzRingRows ? slot : slot - kToeplitzRingRows, kToeplitzRows);
        }
        CommitCopies();
        WaitForCopies<1>();
        SyncBlock();  // this step's rows have come for all
        const int halves = place.column + kToeplitzColumns / 2 < args.Wo ? 2 : 1;
        DWS_ROLLED
        for (int half = 0; half < halves; ++half) {
          const int column = half * (kToeplitzColumns / 2);
          float sums[8][4] = {};
          ToeplitzSums<T>(sums, weights, ring + column * kToeplitzPixelPitch + warp, top_slot, rows, lane);
          if (half + 1 == halves) SyncBlock();  // nobody reads this step's first rows any more
          StoreToeplitz<T>(sums, args, place, place.row + top, place.column + column, channel, lane);
        }
        top_slot += kToeplitzRows;
        if (top_slot >= kToeplitzRingRows) top_slot -= kToeplitzRingRows;
      }
    }
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEPTHWISE_TOEPLITZ_KERNEL_CUH_
