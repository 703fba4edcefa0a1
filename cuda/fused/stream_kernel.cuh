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

namespace dwsconv {
namespace cuda {

// Of a block, at most: what leaves a thread the registers that its window takes.
template <int kWindow>
constexpr int kStreamThreads = kWindow == 3 ? 384 : 256;

struct StreamArgs {
  const void *x, *d, *p;              // [N,H,W,C], [R,S,C], [C,K]
  const void *depthwise_bias, *bias;  // [C], [K], or null
  OutputArgs out;
  DeviceActivation mid;
  int H, W, C, Ho, Wo;
  int pad_top, pad_left;
  bool x_vector, p_vector;  // whole 16-byte vectors of channels, and pointers aligned to them
  // As in CudaTile.
  int tile_rows, tile_columns, tile_columns_log2, in_columns, channels, ring_rows, out_channels, warp_channels;
  int strips, segments, segment_rows;
  int groups, group_threads, group_threads_log2;
  int word_step, patch_step;  // from one of a thread's units of the depthwise half to the next
  int copy_step;              // columns from one that it copies to the next
  int z_pitch, p_pitch;
  int p_offset_bytes, d_offset_bytes, bias_offset_bytes, z_offset_bytes, ring_offset_bytes, group_bytes;
  int items;
  int image_outputs;  // Ho * Wo * K
};

// A block's shared memory, as one group sees it.
template <typename T>
struct StreamShared {
  T* p;                   // [channels][p_pitch]
  T* d;                   // [taps][channels]
  float* depthwise_bias;  // [channels]
  float* bias;            // [out_channels]
  T* z;                   // [tile pixels][z_pitch]
  T* ring;                // [ring_rows][in_columns][channels]

  DWS_DEVICE StreamShared(const StreamArgs& args, int group) {
    char* const shared = SharedMemory();
    p = reinterpret_cast<T*>(shared + args.p_offset_bytes);
    d = reinterpret_cast<T*>(shared + args.d_offset_bytes);
    depthwise_bias = reinterpret_cast<float*>(shared + args.bias_offset_bytes);
    bias = depthwise_bias + args.channels;
    z = reinterpret_cast<T*>(shared + args.z_offset_bytes + group * args.group_bytes);
    ring = reinterpret_cast<T*>(shared + args.ring_offset_bytes + group * args.group_bytes);
  }
};

// Which of the block's groups a thread is in, and which of the group's threads it is.
DWS_DEVICE int GroupOf(const StreamArgs& args) { return static_cast<int>(threadIdx.x) >> args.group_threads_log2; }
DWS_DEVICE int IndexInGroup(const StreamArgs& args) { return static_cast<int>(threadIdx.x) & (args.group_threads - 1); }

// A thread's part in its group, found once: the divisions are done here.
struct StreamThread {
  int word, patch;                // the first unit of the depthwise half that is its own
  int copy_channel, copy_column;  // what it copies of a row: this piece of this column and every copy_step-th after it

  template <typename T>
  DWS_DEVICE void Find(const StreamArgs& args, T) {
    constexpr int kVector = 16 / sizeof(T);
    const int words = args.channels / Word<T>::kElements, pieces = args.channels / kVector;
    const int index = IndexInGroup(args);
    patch = index / words;
    word = index - patch * words;
    copy_column = index / pieces;
    copy_channel = (index - copy_column * pieces) * kVector;
    if (copy_column >= args.copy_step) copy_column = args.in_columns;  // it copies nothing
  }
};

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

// Where a group is: a strip of one image's columns, a segment of its rows.
struct StreamPlace {
  int image;
  int row, end_row, column;  // of Y
  int in_row, in_column;     // of X: of the first tap; negative in the padding
};

template <typename Win>
DWS_DEVICE StreamPlace PlaceOf(const StreamArgs& args, int item) {
  StreamPlace place;
  const int rest = item / args.strips, strip = item - rest * args.strips;
  place.image = rest / args.segments;
  const int segment = rest - place.image * args.segments;
  place.row = segment * args.segment_rows;
  place.end_row = place.row + args.segment_rows < args.Ho ? place.row + args.segment_rows : args.Ho;
  place.column = strip * args.tile_columns;
  place.in_row = place.row * Win::kStride - args.pad_top;
  place.in_column = place.column * Win::kStride - args.pad_left;
  return place;
}

// The item that PlaceOf made a place of: one register less to keep.
DWS_DEVICE int ItemOf(const StreamArgs& args, const StreamPlace& place) {
  return (place.image * args.segments + place.row / args.segment_rows) * args.strips +
         (place.column >> args.tile_columns_log2);
}

// What of X a group copies next.
template <typename T>
struct StreamCopy {
  const T* from;  // the row of X that is next, at place.in_column and the thread's channels; maybe outside
  int at;         // where it goes in the ring, in elements

  DWS_DEVICE void Begin(const StreamArgs& args, const StreamThread& me, const StreamPlace& place) {
    at = 0;
    from = static_cast<const T*>(args.x) +
           ((static_cast<int64_t>(place.image) * args.H + place.in_row) * args.W + place.in_column) * args.C +
           me.copy_channel;
  }

  // Starts the copies of `count` rows, which is row `first` below place.in_row and the next ones; zeros for what is
  // outside the image.
  DWS_DEVICE void Rows(const StreamArgs& args, const StreamThread& me, const StreamPlace& place, T* ring, int first,
                       int count) {
    int y = place.in_row + first;
    const int row_elements = args.in_columns * args.channels, ring_elements = args.ring_rows * row_elements;
    const int64_t image_row = static_cast<int64_t>(args.W) * args.C;
    if (args.x_vector) {
      T* const to_channel = ring + me.copy_channel;
      // Four rows at a time: copies side by side cost fewer instructions.
      for (int row = 0; row < count; row += 4) {
        int to_row[4];
        bool inside[4];
        DWS_UNROLL
        for (int i = 0; i < 4; ++i) {
          to_row[i] = at;
          inside[i] = me.copy_channel < args.C && static_cast<unsigned>(y + i) < static_cast<unsigned>(args.H);
          if (row + i < count) at = at + row_elements == ring_elements ? 0 : at + row_elements;
        }
        DWS_ROLLED
        for (int column = me.copy_column; column < args.in_columns; column += args.copy_step) {
          const bool in_row = static_cast<unsigned>(place.in_column + column) < static_cast<unsigned>(args.W);
          const T* const from_column = from + column * args.C;
          T* const to = to_channel + column * args.channels;
          if (row + 4 <= count) {
            DWS_UNROLL
            for (int i = 0; i < 4; ++i) CopyAsync16(to + to_row[i], from_column + i * image_row, in_row && inside[i]);
          } else {
            DWS_UNROLL
            for (int i = 0; i < 3; ++i) {
              if (row + i < count) CopyAsync16(to + to_row[i], from_column + i * image_row, in_row && inside[i]);
            }
          }
        }
        const int done = count - row < 4 ? count - row : 4;
        from += done * image_row;
        y += done;
      }
      return;
    }
    for (int row = 0; row < count; ++row) {
      for (int i = IndexInGroup(args); i < row_elements; i += args.group_threads) {
        const int column = i / args.channels, channel = i - column * args.channels, x = place.in_column + column;
        const bool valid = y >= 0 && y < args.H && x >= 0 && x < args.W && channel < args.C;
        ring[at + i] = valid ? from[static_cast<int64_t>(column) * args.C + channel - me.copy_channel] : Narrow<T>(0.f);
      }
      at = at + row_elements == ring_elements ? 0 : at + row_elements;
      from += image_row;
      ++y;
    }
  }
};

// The depthwise half of one patch by plain loops, taps outside the image left out: for filters with an infinity or a
// NaN, which times the zeros around the image would be NaN.
template <typename T, typename Win>
DWS_DEVICE void MaskedPatch(const StreamArgs& args, const StreamPlace& place, const StreamShared<T>& shared, int word,
                            int top, int row, int column, int top_slot) {
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
      const int y = place.in_row + top * Win::kStride + j, x = place.in_column + i;
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
DWS_DEVICE void DepthwiseTile(const StreamArgs& args, const StreamThread& me, const StreamPlace& place,
                              const StreamShared<T>& shared, int top, int top_slot, bool infinite_filter) {
  constexpr int kElements = Word<T>::kElements;
  const int words = args.channels / kElements;
  const int patch_columns_log2 = args.tile_columns_log2 - 2;
  const int patches = args.tile_rows / kPatch << patch_columns_log2;
  const int row_words = args.in_columns * words, ring_words = args.ring_rows * row_words;
  float weights[Win::kTaps][kElements];
  int word_before = -1;
  int word = me.word - args.word_step, patch = me.patch - args.patch_step;
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
template <typename Policy>
DWS_DEVICE void MultiplyTile(const StreamArgs& args, const StreamPlace& place,
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
  StreamPlace place{};
  StreamCopy<T> copy{};
  if (first_item < args.items) {
    place = PlaceOf<Win>(args, first_item);
    copy.Begin(args, me, place);
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
      MultiplyTile<Policy>(args, place, shared, top);
      top_slot += advance;
      if (top_slot >= args.ring_rows) top_slot -= args.ring_rows;
    }
    const int item = ItemOf(args, place) + static_cast<int>(gridDim.x) * args.groups;
    if (item >= args.items) return;
    place = PlaceOf<Win>(args, item);
    copy.Begin(args, me, place);
    copy.Rows(args, me, place, shared.ring, 0, window);
    CommitCopies();
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_FUSED_STREAM_KERNEL_CUH_
