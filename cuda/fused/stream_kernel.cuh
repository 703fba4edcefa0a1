// The fused kernel for layers whose filters fit in shared memory. A block takes a strip of columns of one image and
// goes down it, tile_rows output rows at a step:
//
//   rows of X --cp.async--> ring --depthwise--> Z of the tile --times P, which stays--> sums in registers --> Y
//
// The rows of the next step are under way while this one is computed, and what two steps share of X stays in the ring:
// so X is read once, but for the columns at a strip's edges. Z never leaves shared memory.
//
// The threads of a block are one or more groups, each with a strip, a ring and a Z of its own, which share the filters:
// groups meet at the block's barrier once, and while one waits or multiplies, another may do depthwise sums.
#ifndef DWSCONV_CUDA_FUSED_STREAM_KERNEL_CUH_
#define DWSCONV_CUDA_FUSED_STREAM_KERNEL_CUH_

#include <cstdint>

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

// Of a block, at most: what leaves a thread the registers that its window takes.
template <int kWindow>
constexpr int kStreamThreads = kWindow == 3 ? 384 : 256;

// What stays for the whole kernel: filters and biases. Whether this thread saw a tap of D that is infinite or no
// number.
template <typename Policy, int kTaps>
DWS_DEVICE bool LoadFilters(const StreamArgs& args, const StreamShared<typename Policy::Element>& shared) {
  using T = typename Policy::Element;
  LoadPointwise<Policy>(shared.p, args.p_pitch, static_cast<const T*>(args.p), args.out.channels, args.channels,
                        args.out_channels, args.C, args.out.channels, args.p_vector);
  const bool infinite = LoadDepthwise<T, kTaps>(shared.d, args.d, args.C, args.channels);
  LoadBias<T>(shared.depthwise_bias, args.depthwise_bias, args.C, args.channels);
  LoadBias<T>(shared.bias, args.bias, args.out.channels, args.out_channels);
  return infinite;
}

// The depthwise half of one patch by plain loops, taps outside the image left out: for filters with an infinity or a
// NaN, which times the zeros around the image would be NaN.
template <typename T, typename Win>
DWS_DEVICE void MaskedPatch(const StreamArgs& args, const StreamPlace<Win>& place, const StreamShared<T>& shared,
                            int word, int top, int row, int column, int top_slot) {
  constexpr int kElements = Word<T>::kElements;
  const int words = args.channels / kElements;
  DWS_ROLLED
  for (int pixel = 0; pixel < kPatchPixels; ++pixel) {
    const int a = row + pixel / kPatch, b = column + pixel % kPatch;
    float sums[kElements];
    DWS_UNROLL
    for (int e = 0; e < kElements; ++e) sums[e] = shared.depthwise_bias[word * kElements + e];
    DWS_ROLLED
    for (int tap = 0; tap < Win::kTaps; ++tap) {
      const int j = a * Win::kStride + tap / Win::kSize, i = b * Win::kStride + tap % Win::kSize;
      const int y = place.InRow(args) + top * Win::kStride + j, x = place.InColumn(args) + i;
      if (y < 0 || y >= args.H || x < 0 || x >= args.W) continue;
      const int slot = top_slot + j < args.ring_rows ? top_slot + j : top_slot + j - args.ring_rows;
      float inputs[kElements], weights[kElements];
      WidenWord(reinterpret_cast<const uint32_t*>(shared.ring)[(slot * args.in_columns + i) * words + word], inputs,
                T());
      WidenWord(reinterpret_cast<const uint32_t*>(shared.d)[tap * words + word], weights, T());
      DWS_UNROLL
      for (int e = 0; e < kElements; ++e) sums[e] = fmaf(inputs[e], weights[e], sums[e]);
    }
    DWS_UNROLL
    for (int e = 0; e < kElements; ++e) sums[e] = Activate<T>(sums[e], args.mid);
    *reinterpret_cast<uint32_t*>(shared.z + (a * args.tile_columns + b) * args.z_pitch + word * kElements) =
        NarrowWord(sums, T());
  }
}

// The depthwise half of one tile: from the ring to Z. `top` is the tile's first row below place.row, top_slot the place
// in the ring of the first row that it reads.
template <typename T, typename Win>
DWS_DEVICE void DepthwiseTile(const StreamArgs& args, const StreamThread& me, const StreamPlace<Win>& place,
                              const StreamShared<T>& shared, int top, int top_slot, bool infinite_filter) {
  constexpr int kElements = Word<T>::kElements;
  const int words = args.channels / kElements;
  const int patch_columns_log2 = args.tile_columns_log2 - 2;
  const int patches = args.tile_rows / kPatch << patch_columns_log2;
  const int row_words = args.in_columns * words, ring_words = args.ring_rows * row_words;
  float weights[Win::kTaps][kElements];
  int word_before = -1;
  int word = me.FirstWord() - args.word_step, patch = me.FirstPatch() - args.patch_step;
  for (;;) {
    word += args.word_step;
    patch += args.patch_step;
    if (word >= words) {
      word -= words;
      ++patch;
    }
    if (patch >= patches) break;
    const int row = (patch >> patch_columns_log2) * kPatch;
    const int column = (patch & ((1 << patch_columns_log2) - 1)) * kPatch;
    if (place.row + top + row >= place.end_row || place.column + column >= args.Wo) continue;
    if (infinite_filter) {
      MaskedPatch<T, Win>(args, place, shared, word, top, row, column, top_slot);
      continue;
    }
    if (word != word_before) {
      LoadTaps<Win>(weights, shared.d, words, word, T());
      word_before = word;
    }
    PatchSums<T> sums;
    DWS_UNROLL
    for (int i = 0; i < kPatchPixels * kElements; ++i) {
      (&sums[0][0])[i] = shared.depthwise_bias[word * kElements + i % kElements];
    }
    int first_slot = top_slot + row * Win::kStride;
    if (first_slot >= args.ring_rows) first_slot -= args.ring_rows;
    struct Load {
      const uint32_t* ring;                     // of this word and its first column
      int first, row_words, ring_words, words;  // `first`: where the first row is
      DWS_DEVICE const uint32_t* operator()(int j) const {
        const int at = first + j * row_words;
        return ring + (at >= ring_words ? at - ring_words : at);
      }
      DWS_DEVICE uint32_t operator()(const uint32_t* from, int i) const { return from[i * words]; }
    };
    const uint32_t* const ring = reinterpret_cast<const uint32_t*>(shared.ring);
    // The compiler would load ahead more rows of the largest window than there are registers for: to it, a row may be
    // missing.
    const uint32_t rows = Win::kSize < 7 || args.in_columns > 0 ? kAllInside : 0u;
    SumPatch<T, Win>(
        sums, weights, rows, kAllInside,
        Load{ring + column * Win::kStride * words + word, first_slot * row_words, row_words, ring_words, words});
    uint32_t z_words[kPatchPixels];
    PatchWords<T>(z_words, sums, args.mid);
    T* const z = shared.z + (row * args.tile_columns + column) * args.z_pitch + word * kElements;
    DWS_UNROLL
    for (int a = 0; a < kPatch; ++a) {
      DWS_UNROLL
      for (int b = 0; b < kPatch; ++b) {
        *reinterpret_cast<uint32_t*>(z + (a * args.tile_columns + b) * args.z_pitch) = z_words[a * kPatch + b];
      }
    }
  }
}

// Z times P for the pixels of one tile, and Y.
template <typename Policy, typename Win>
DWS_DEVICE void MultiplyTile(const StreamArgs& args, const StreamPlace<Win>& place,
                             const StreamShared<typename Policy::Element>& shared, int top) {
  using T = typename Policy::Element;
  const int lane = IndexInGroup(args) % 32, warp = IndexInGroup(args) / 32;
  const int first_pixel = warp / 2 * kWarpRows;
  OutputArgs out = args.out;
  const int64_t image = static_cast<int64_t>(place.image) * args.image_outputs;
  out.y = static_cast<T*>(out.y) + image;
  if (out.residual != nullptr) out.residual = static_cast<const T*>(out.residual) + image;
  int rows[Policy::kRows];
  DWS_UNROLL
  for (int i = 0; i < Policy::kRows; ++i) {
    const int pixel = first_pixel + Policy::Row(lane, i);
    const int row = place.row + top + (pixel >> args.tile_columns_log2);
    const int column = place.column + (pixel & (args.tile_columns - 1));
    rows[i] = row < place.end_row && column < args.Wo ? (row * args.Wo + column) * out.channels : -1;
  }
  for (int block = 0; block < args.out_channels; block += 2 * args.warp_channels) {
    const int first_channel = block + warp % 2 * args.warp_channels;
    const int most = args.warp_channels / kTileColumns, left = (args.out_channels - first_channel) / kTileColumns;
    const int tiles = left < most ? left : most;
    if (tiles <= 0) continue;
    Sums sums;
    ClearSums(sums);
    // Past the last column it multiplies what lies there, for nobody.
    const T* const z = shared.z + first_pixel * args.z_pitch;
    const T* const p = shared.p + first_channel;
    if (args.warp_channels > 2 * kTileColumns) {
      Policy::Multiply(sums, z, args.z_pitch, p, args.p_pitch, args.channels, kTiles, lane);
    } else {
      Policy::Multiply(sums, z, args.z_pitch, p, args.p_pitch, args.channels, 2, lane);
    }
    if constexpr (Policy::kPermuted) {
      StorePermuted<T>(sums, lane, tiles, first_channel, rows, shared.bias, out);
    } else {
      StoreTile<Policy>(sums, lane, tiles, first_channel, rows, shared.bias, out);
    }
  }
}

template <typename Policy, typename Win>
__global__ void __launch_bounds__(kStreamThreads<Win::kSize>, 1) StreamKernel(const StreamArgs args) {
  using T = typename Policy::Element;
  StreamThread me;
  me.Find(args, T());
  const StreamShared<T> shared(args, GroupOf(args));
  bool infinite_filter = LoadFilters<Policy, Win::kTaps>(args, shared);
  const int advance = args.tile_rows * Win::kStride;                    // rows of X from one step to the next
  const int window = (args.tile_rows - 1) * Win::kStride + Win::kSize;  // rows of X that a step reads
  const int first_item = static_cast<int>(blockIdx.x) * args.groups + GroupOf(args);
  StreamPlace<Win> place{};
  StreamCopy<T, Win, PixelRing> copy{};
  if (first_item < args.items) {
    place = PlaceOf<Win>(args, first_item);
    copy.Begin(args, me, place, shared.ring);
    copy.Rows(args, me, place, shared.ring, 0, window);
  }
  CommitCopies();
  WaitForCopies<0>();
  // The filters have come for all groups.
  infinite_filter = SyncBlockOr(infinite_filter);
  if (first_item >= args.items) return;
  for (;;) {
    int top_slot = 0;  // where the ring has this step's rows, the next one's after them
    for (int top = 0; place.row + top < place.end_row; top += args.tile_rows) {
      if (place.row + top + args.tile_rows < place.end_row) {
        copy.Rows(args, me, place, shared.ring, top * Win::kStride + window, advance);
      }
      CommitCopies();
      WaitForCopies<1>();
      // Every warp has finished with Z of the step before, and this step's rows have come.
      SyncGroup(GroupOf(args), args.group_threads);
      DepthwiseTile<T, Win>(args, me, place, shared, top, top_slot, infinite_filter);
      // Z is whole, and nobody reads this step's rows any more.
      SyncGroup(GroupOf(args), args.group_threads);
      MultiplyTile<Policy, Win>(args, place, shared, top);
      top_slot += advance;
      if (top_slot >= args.ring_rows) top_slot -= args.ring_rows;
    }
    const int item = ItemOf(args, place) + static_cast<int>(gridDim.x) * args.groups;
    if (item >= args.items) return;
    place = PlaceOf<Win>(args, item);
    copy.Begin(args, me, place, shared.ring);
    copy.Rows(args, me, place, shared.ring, 0, window);
    CommitCopies();
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_FUSED_STREAM_KERNEL_CUH_
