// The fused kernel of stream_kernel.cuh with the depthwise half on tensor cores, for 16-bit elements and up to 128
// output channels:
//
//   rows of X --cp.async--> ring --ldmatrix, times blocks of D, mid--> Z in registers --times P, which stays--> Y
//
// For 8 channels, two taps of a row of the window are one product: 16 pixels x (2 taps x 8 channels) of X, straight
// from the ring, times a matrix of 16 x 8 that has D's weights on the diagonals of its two halves and zeros elsewhere.
// Sums are float32. They lie in a lane's registers as the next product wants its left side: Z is in no memory at all,
// and a step has one barrier.
//
// A warp has two rows of 16 output pixels, all channels and all output channels: a fragment of X serves both rows.
//
// Times the zeros an infinite input would be NaN in the other channels, and so would an infinite weight times the zeros
// around the image: whoever finds that computes its words again by plain loops.
#ifndef DWSCONV_CUDA_FUSED_TENSOR_STREAM_KERNEL_CUH_
#define DWSCONV_CUDA_FUSED_TENSOR_STREAM_KERNEL_CUH_

#include <cstdint>

#include "cc/plan/cuda/tile.h"
#include "cuda/depthwise/patch.cuh"
#include "cuda/device/activation.cuh"
#include "cuda/device/async_copy.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/fragments.cuh"
#include "cuda/device/load.cuh"
#include "cuda/device/platform.cuh"
#include "cuda/device/store_tile.cuh"
#include "cuda/fused/stream_parts.cuh"

namespace dwsconv {
namespace cuda {

// Of a block, at most. kHalves: output channels by 64. A thread with half as many sums, and fewer taps, gets by with
// fewer registers.
template <int kWindow, int kHalves>
constexpr int kTensorStreamThreads = kWindow == 3 && kHalves == 1 ? 384 : 256;

// Where the ring has a row's elements: pixel by pixel, for copies of 16 bytes that go to places apart fetch each sector
// of 32 bytes twice. With stride 2 the even columns come first. From a pixel to the next it is an odd number of 16
// bytes, so that 8 pixels side by side share no banks for ldmatrix, and every tap lies at the same distance.
template <typename Win>
struct TensorRing {
  static constexpr int kColumns = kTensorStreamColumns;
  static constexpr int kInColumns = (kColumns - 1) * Win::kStride + Win::kSize;
  static constexpr int kOdd = (kInColumns + 1) / 2;          // where odd columns begin
  static constexpr int kInRows = Win::kStride + Win::kSize;  // that two rows of outputs read

  DWS_DEVICE static int Pitch(const StreamArgs& args) { return args.channels + kTensorStreamGap; }
  DWS_DEVICE static int RowElements(const StreamArgs& args) { return kInColumns * Pitch(args); }
  DWS_DEVICE static constexpr int Position(int column) {
    return Win::kStride == 1 ? column : (column & 1) * kOdd + (column >> 1);
  }
  DWS_DEVICE static int At(const StreamArgs& args, int column, int channel) {
    return Position(column) * Pitch(args) + channel;
  }
};

// D as lanes load it. For 16 channels and a row of the window: 8 x 16 bytes for each pair of taps, then 8 x 16 for the
// last one, half of them without use. Lane (g, t) takes part where g / 2 == t: in all others the words are zeros.
template <typename Win>
struct TensorFilter {
  static constexpr int kPairs = Win::kSize / 2;
  static constexpr int kRowWords = 32 * (kPairs + 1);
  static constexpr int kBlockWords = Win::kSize * kRowWords;
  static_assert(kBlockWords * 4 == TensorStreamFilterBytes(Win::kSize), "the planner counts these");

  // Words of a pair are: of the first 8 channels the first tap and the second, then the same of the other 8.
  template <typename T>
  DWS_DEVICE static void Load(uint32_t* shared, const StreamArgs& args) {
    const T* const d = static_cast<const T*>(args.d);
    for (int i = threadIdx.x; i < args.channels / 16 * kBlockWords; i += blockDim.x) {
      const int block = i / kBlockWords, in_block = i - block * kBlockWords;
      const int row = in_block / kRowWords, at = in_block - row * kRowWords;
      // Of the last tap both words come first.
      const bool pair = at < 32 * kPairs;
      const int g = at / 4 % 8, word = at % 4, eight = pair ? word / 2 : word;
      const int column = pair ? at / 32 * 2 + word % 2 : Win::kSize - 1;
      const int channel = block * 16 + eight * 8 + g;
      const bool there = eight < 2 && channel < args.C;
      const uint32_t bits = there ? d[(row * Win::kSize + column) * args.C + channel].bits : 0u;
      shared[i] = bits << 16 * (g & 1);
    }
  }
};

// D: [channels / 16][TensorFilter::kBlockWords]. A row of the ring: TensorRing::RowElements. There is no Z.
template <typename T>
using TensorStreamShared = StreamShared<T, uint32_t>;

// Z of a warp's two rows for 16 channels, as the left side of a product: word i of row m is, by lane (g, t), of pixel g
// + 8 * (i % 2) and channels 2t + 8 * (i / 2) and the next.
using TensorZ = uint32_t[2][4];

// What a warp reads: the first of its rows in the ring, and where that is in X.
template <typename T>
struct TensorRows {
  const T* ring;
  int first_slot, ring_rows, row_elements;
  int y, x;  // of the first tap of the first pixel

  DWS_DEVICE const T* operator()(int j) const {
    const int slot = first_slot + j;
    return ring + (slot < ring_rows ? slot : slot - ring_rows) * row_elements;
  }
};

// One word of Z by plain loops, taps outside the image left out. `channel` is the lane's.
template <typename T, typename Win>
DWS_DEVICE uint32_t PlainZ(const StreamArgs& args, const TensorRows<T>& rows, const float* bias, int row, int pixel,
                           int channel) {
  const T* const d = static_cast<const T*>(args.d);
  float sums[2] = {bias[channel], bias[channel + 1]};
  DWS_ROLLED
  for (int tap = 0; tap < Win::kTaps; ++tap) {
    const int j = row * Win::kStride + tap / Win::kSize, i = pixel * Win::kStride + tap % Win::kSize;
    const int y = rows.y + j, x = rows.x + i;
    if (y < 0 || y >= args.H || x < 0 || x >= args.W) continue;
    const T* const from = rows(j) + TensorRing<Win>::At(args, i, channel);
    DWS_UNROLL
    for (int e = 0; e < 2; ++e) {
      if (channel + e < args.C) sums[e] = fmaf(Widen(from[e]), Widen(d[tap * args.C + channel + e]), sums[e]);
    }
  }
  DWS_UNROLL
  for (int e = 0; e < 2; ++e) sums[e] = Activate<T>(sums[e], args.mid);
  return NarrowWord(sums, T());
}

// The weights of as many rows of the window as are in use at a time. In lanes that take no part they stay zeros.
template <typename Win>
struct TensorWeights {
  static constexpr int kRows = Win::kStride + 1;
  uint32_t pairs[kRows][TensorFilter<Win>::kPairs][4] = {};
  uint32_t last[kRows][2] = {};

  // d: of these 16 channels, from the lane's words on.
  DWS_DEVICE void LoadRow(const uint32_t* d, int r, bool takes_part) {
    constexpr int kPairs = TensorFilter<Win>::kPairs;
    d += r * TensorFilter<Win>::kRowWords;
    DWS_UNROLL
    for (int q = 0; q < kPairs; ++q) LoadWordsIf(pairs[r % kRows][q], d + q * 32, takes_part);
    LoadWordsIf(last[r % kRows], d + kPairs * 32, takes_part);
  }
};

// What a lane reads of shared memory for 16 channels: its rows of matrices in each row of the ring, for the first of
// two taps and for the last tap; its words of D and of the bias.
template <typename T, typename Win>
struct TensorLane {
  static constexpr int kRows = TensorRing<Win>::kInRows;
  const T *pairs[kRows], *last[kRows];
  const uint32_t* d;
  const float* bias;
  int pitch;
  bool takes_part;

  DWS_DEVICE void Begin(const StreamArgs& args, const TensorStreamShared<T>& shared, const TensorRows<T>& rows,
                        int lane) {
    using Ring = TensorRing<Win>;
    // Lanes give the rows of four matrices: pixels 0 to 7 and 8 to 15, and the same of the next tap or the next 8
    // channels.
    const int pixel = lane & 15, other = lane >> 4;
    pitch = Ring::Pitch(args);
    const int pair_at = (pixel + other * Ring::Position(1)) * pitch;
    const int last_at = (pixel + Ring::Position(Win::kSize - 1)) * pitch + other * 8;
    DWS_UNROLL
    for (int j = 0; j < kRows; ++j) {
      pairs[j] = rows(j) + pair_at;
      last[j] = rows(j) + last_at;
    }
    d = shared.d + (lane >> 2) * 4;
    bias = shared.depthwise_bias + 2 * (lane & 3);
    takes_part = lane >> 3 == (lane & 3);
  }

  DWS_DEVICE void Next() {
    DWS_UNROLL
    for (int j = 0; j < kRows; ++j) {
      pairs[j] += 16;
      last[j] += 16;
    }
    d += TensorFilter<Win>::kBlockWords;
    bias += 16;
  }
};

// Z of 16 channels.
template <typename T, typename Win>
DWS_DEVICE void TensorDepthwise(TensorZ& z, TensorWeights<Win>& weights, const TensorLane<T, Win>& me,
                                DeviceActivation mid, const WordClamp& clamp) {
  using Ring = TensorRing<Win>;
  constexpr int kPairs = TensorFilter<Win>::kPairs, kWeightRows = TensorWeights<Win>::kRows;
  float sums[1][16];  // four of each row and 8 channels
  float bias[2][4];
  DWS_UNROLL
  for (int eight = 0; eight < 2; ++eight) {
    const float2 two = *reinterpret_cast<const float2*>(me.bias + eight * 8);
    bias[eight][0] = bias[eight][2] = two.x;
    bias[eight][1] = bias[eight][3] = two.y;
  }
  DWS_UNROLL
  for (int j = 0; j < Ring::kInRows; ++j) {
    if (j < Win::kSize) weights.LoadRow(me.d, j, me.takes_part);
    uint32_t inputs[kPairs][2][4], last[4];
    DWS_UNROLL
    for (int q = 0; q < kPairs; ++q) {
      DWS_UNROLL
      for (int eight = 0; eight < 2; ++eight) {
        LoadMatrices(inputs[q][eight], me.pairs[j] + eight * 8 + Ring::Position(2 * q) * me.pitch);
      }
    }
    LoadMatrices(last, me.last[j]);
    DWS_UNROLL
    for (int m = 0; m < 2; ++m) {
      const int r = j - m * Win::kStride;
      if (r < 0 || r >= Win::kSize) continue;
      DWS_UNROLL
      for (int eight = 0; eight < 2; ++eight) {
        float* const four = &sums[0][(m * 2 + eight) * 4];
        DWS_UNROLL
        for (int q = 0; q < kPairs; ++q) {
          const uint32_t (&b)[4] = weights.pairs[r % kWeightRows][q];
          if (r == 0 && q == 0) {
            MultiplyAddTo(four, bias[eight], inputs[q][eight], b[2 * eight], b[2 * eight + 1], T());
          } else {
            MultiplyAdd(four, inputs[q][eight], b[2 * eight], b[2 * eight + 1], T());
          }
        }
        MultiplyAddHalf(four, last[2 * eight], last[2 * eight + 1], weights.last[r % kWeightRows][eight], T());
      }
    }
  }
  ActivateAll<T>(sums, mid, true);
  uint32_t words[8];
  DWS_UNROLL
  for (int i = 0; i < 8; ++i) {
    const float* const pair = &sums[0][(i >> 1) * 4 + (i & 1) * 2];
    const float values[2] = {pair[0], pair[1]};
    words[i] = NarrowWord(values, T());
  }
  clamp.All(words, T());
  DWS_UNROLL
  for (int i = 0; i < 8; ++i) z[i >> 2][i & 3] = words[i];
}

// Words of Z that are not finite, again: what NaN is due to others' inputs goes.
template <typename T, typename Win>
DWS_DEVICE void RepairZ(TensorZ& z, const StreamArgs& args, const TensorRows<T>& rows, const float* bias, int channel,
                        int lane) {
  uint32_t probe = 0;
  DWS_UNROLL
  for (int i = 0; i < 8; ++i) probe = ProbeWord(probe, z[i >> 2][i & 3], T());
  if (probe == 0) return;
  NoteRepair();
  DWS_ROLLED
  for (int i = 0; i < 8; ++i) {
    const uint32_t word = PlainZ<T, Win>(args, rows, bias, i >> 2, (lane >> 2) + 8 * (i & 1),
                                         channel + 2 * (lane & 3) + 8 * (i >> 1 & 1));
    DWS_UNROLL
    for (int k = 0; k < 8; ++k) {
      if (k == i) z[k >> 2][k & 3] = word;
    }
  }
}

// Two rows of a tile, from the ring to Y. `top` is the warp's first row below place.row, first_slot the place in the
// ring of the first row that it reads.
template <typename T, typename Win, int kHalves>
DWS_DEVICE void TensorTile(const StreamArgs& args, const StreamPlace<Win>& place, const TensorStreamShared<T>& shared,
                           int top, int first_slot, int lane) {
  using Ring = TensorRing<Win>;
  const TensorRows<T> from{shared.ring,
                           first_slot < args.ring_rows ? first_slot : first_slot - args.ring_rows,
                           args.ring_rows,
                           Ring::RowElements(args),
                           place.InRow(args) + top * Win::kStride,
                           place.InColumn(args)};
  TensorLane<T, Win> me;
  me.Begin(args, shared, from, lane);
  Sums sums[kHalves];
  DWS_UNROLL
  for (int half = 0; half < kHalves; ++half) ClearSums(sums[half]);
  TensorWeights<Win> weights;
  const WordClamp clamp = WordClamp::Of(args.mid, T());
  const T* p_row = shared.p + (lane & 15) * args.p_pitch + (lane >> 4) * 8;
  DWS_ROLLED
  for (int channel = 0; channel < args.channels; channel += 16, p_row += 16 * args.p_pitch, me.Next()) {
    TensorZ z;
    TensorDepthwise<T, Win>(z, weights, me, args.mid, clamp);
    RepairZ<T, Win>(z, args, from, shared.depthwise_bias, channel, lane);
    DWS_UNROLL
    for (int j = 0; j < kHalves * kTiles; ++j) {
      float (&tile)[kTileSums] = sums[j / kTiles][j % kTiles];
      uint32_t b[4];
      LoadMatricesTransposed(b, p_row + j * kTileColumns);
      DWS_UNROLL
      for (int m = 0; m < 2; ++m) {
        MultiplyAdd(&tile[m * 4], z[m], b[0], b[1], T());
        MultiplyAdd(&tile[(2 + m) * 4], z[m], b[2], b[3], T());
      }
    }
  }
  OutputArgs out = args.out;
  const int64_t image = static_cast<int64_t>(place.image) * args.image_outputs;
  out.y = static_cast<T*>(out.y) + image;
  if (out.residual != nullptr) out.residual = static_cast<const T*>(out.residual) + image;
  int to[4];
  DWS_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int row = place.row + top + (i >> 1), column = place.column + (i & 1) * 8 + (lane >> 2);
    to[i] = row < place.end_row && column < args.Wo ? (row * args.Wo + column) * out.channels : -1;
  }
  DWS_UNROLL
  for (int half = 0; half < kHalves; ++half) {
    StorePermuted<T>(sums[half], lane, kTiles, half * kTiles * kTileColumns, to, shared.bias, out);
  }
}

template <typename T, typename Win, int kHalves>
__global__ void __launch_bounds__(kTensorStreamThreads<Win::kSize, kHalves>, 1)
    TensorStreamKernel(const StreamArgs args) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  __trap();  // the planner gives such cards the other kernel
#else
  StreamThread me;
  me.Find(args, T());
  const TensorStreamShared<T> shared(args, GroupOf(args));
  const int advance = args.tile_rows * Win::kStride;                    // rows of X from one step to the next
  const int window = (args.tile_rows - 1) * Win::kStride + Win::kSize;  // rows of X that a step reads
  const int warp_row = IndexInGroup(args) / 32 * 2, lane = IndexInGroup(args) % 32;
  const int first_item = static_cast<int>(blockIdx.x) * args.groups + GroupOf(args);
  StreamPlace<Win> place{};
  StreamCopy<T, Win, TensorRing<Win> > copy{};
  if (first_item < args.items) {
    place = PlaceOf<Win>(args, first_item);
    copy.Begin(args, me, place, shared.ring);
    copy.Rows(args, me, place, shared.ring, 0, window);
  }
  CommitCopies();
  LoadPointwise<TensorCores16<T> >(shared.p, args.p_pitch, static_cast<const T*>(args.p), args.out.channels,
                                   args.channels, args.out_channels, args.C, args.out.channels, args.p_vector);
  TensorFilter<Win>::template Load<T>(shared.d, args);
  LoadBias<T>(shared.depthwise_bias, args.depthwise_bias, args.C, args.channels);
  LoadBias<T>(shared.bias, args.bias, args.out.channels, args.out_channels);
  // The filters have come for all groups.
  SyncBlock();
  if (first_item >= args.items) return;
  for (;;) {
    int top_slot = 0;  // where the ring has this step's rows, the next one's after them
    for (int top = 0; place.row + top < place.end_row; top += args.tile_rows) {
      WaitForCopies<0>();
      // This step's rows have come, and nobody reads those of the step before, which are written over now.
      SyncGroup(GroupOf(args), args.group_threads);
      if (place.row + top + args.tile_rows < place.end_row) {
        copy.Rows(args, me, place, shared.ring, top * Win::kStride + window, advance);
      }
      CommitCopies();
      if (place.row + top + warp_row < place.end_row) {
        TensorTile<T, Win, kHalves>(args, place, shared, top + warp_row, top_slot + warp_row * Win::kStride, lane);
      }
      top_slot += advance;
      if (top_slot >= args.ring_rows) top_slot -= args.ring_rows;
    }
    const int item = ItemOf(args, place) + static_cast<int>(gridDim.x) * args.groups;
    if (item >= args.items) return;
    // Nobody reads the ring any more.
    SyncGroup(GroupOf(args), args.group_threads);
    place = PlaceOf<Win>(args, item);
    copy.Begin(args, me, place, shared.ring);
    copy.Rows(args, me, place, shared.ring, 0, window);
    CommitCopies();
  }
#endif
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_FUSED_TENSOR_STREAM_KERNEL_CUH_
