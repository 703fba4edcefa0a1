// The block's fused kernel: expansion (a 1x1 convolution), depthwise convolution and, where there is one, the last 1x1
// one. A block of threads takes a strip of columns of one image and goes down it, tile_rows output rows a step:
//
//   rows of X --cp.async--> shared --times the expand filter--> ring of A --depthwise, mid--> Z --times P--> Y
//
// A, several times X, exists in the ring alone: rows of it that the next step reads stay there. Only the columns that
// two strips share, and the rows above a segment, are computed twice. Without a last convolution Z is the output.
#ifndef DWSCONV_CUDA_FUSED_STRIP_KERNEL_CUH_
#define DWSCONV_CUDA_FUSED_STRIP_KERNEL_CUH_

#include <cstdint>

#include "cuda/depthwise/patch.cuh"
#include "cuda/device/activation.cuh"
#include "cuda/device/async_copy.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/fragments.cuh"
#include "cuda/device/platform.cuh"
#include "cuda/device/store_tile.cuh"

namespace dwsconv {
namespace cuda {

constexpr int kBlockStripThreads = 256;
constexpr int kBlockStripWarps = kBlockStripThreads / 32;

// Blocks of a multiprocessor that registers are divided by. Code for 12.0 is made of that for 10.0, and spills where
// there are two.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
#define DWS_BLOCK_STRIP_BLOCKS 1
#else
#define DWS_BLOCK_STRIP_BLOCKS 2
#endif

struct BlockStripArgs {
  const void *x, *expand, *expand_bias;  // [N,H,W,E], [E,C], [C] or null
  const void *d, *depthwise_bias;        // [R,S,C], [C] or null
  const void *p, *bias;                  // [C,K] or null: then Y is Z; [K] or null
  OutputArgs out;                        // without P: y and channels (C) alone
  DeviceActivation expand_activation, mid;
  int H, W, E, C, Ho, Wo, pad_top, pad_left;
  bool x_vector, expand_vector, p_vector;  // whole 16-byte vectors in a row, and pointers aligned to them
  bool y_words;                            // without P: whole words in a row of Y, and aligned
  // As in CudaTile.
  int tile_rows, tile_columns, in_columns, ring_rows, depth, channels, out_channels, warp_channels;
  int column_units;  // of A: what a warp sums at a time of its channels
  int strips, segments, segment_rows;
  int expand_offset_bytes, d_offset_bytes, p_offset_bytes, bias_offset_bytes;
  int x_offset_bytes, ring_offset_bytes, z_offset_bytes;
  int x_pitch, expand_pitch, ring_pitch, p_pitch;  // of the ring, and of Z
  int items;
};

template <typename T>
struct BlockStripShared {
  T *expand, *d, *p;                           // [depth][expand_pitch], [taps][channels], [channels][p_pitch]
  float *expand_bias, *depthwise_bias, *bias;  // [channels], [channels], [out_channels]
  T *x, *ring, *z;  // [rows of X][in_columns][x_pitch], [ring_rows][in_columns][ring_pitch], [pixels][ring_pitch]

  DWS_DEVICE explicit BlockStripShared(const BlockStripArgs& args) {
    char* const shared = SharedMemory();
    expand = reinterpret_cast<T*>(shared + args.expand_offset_bytes);
    d = reinterpret_cast<T*>(shared + args.d_offset_bytes);
    p = reinterpret_cast<T*>(shared + args.p_offset_bytes);
    expand_bias = reinterpret_cast<float*>(shared + args.bias_offset_bytes);
    depthwise_bias = expand_bias + args.channels;
    bias = depthwise_bias + args.channels;
    x = reinterpret_cast<T*>(shared + args.x_offset_bytes);
    ring = reinterpret_cast<T*>(shared + args.ring_offset_bytes);
    z = reinterpret_cast<T*>(shared + args.z_offset_bytes);
  }
};

// Where a block is: a strip of one image's columns, a segment of its rows.
template <typename Win>
struct BlockStripPlace {
  int image;
  int row, column;  // of Y

  // Of Y: behind the last one.
  DWS_DEVICE int EndRow(const BlockStripArgs& args) const {
    return row + args.segment_rows < args.Ho ? row + args.segment_rows : args.Ho;
  }

  // Of A: of the first tap; negative in the padding.
  DWS_DEVICE int InRow(const BlockStripArgs& args) const { return row * Win::kStride - args.pad_top; }
  DWS_DEVICE int InColumn(const BlockStripArgs& args) const { return column * Win::kStride - args.pad_left; }

  // Rows of A below InRow that are inside the image and needed.
  DWS_DEVICE int InRows(const BlockStripArgs& args) const {
    const int needed = (EndRow(args) - 1 - row) * Win::kStride + Win::kSize, left = args.H - InRow(args);
    return left < needed ? left : needed;
  }
};

// Numbers that follow from these are computed where they are used, as registers are few.
template <typename Win>
DWS_DEVICE BlockStripPlace<Win> PlaceOfStrip(const BlockStripArgs& args, int item) {
  BlockStripPlace<Win> place;
  const int rest = item / args.strips, strip = item - rest * args.strips;
  place.image = rest / args.segments;
  place.row = (rest - place.image * args.segments) * args.segment_rows;
  place.column = strip * args.tile_columns;
  return place;
}

// The item that PlaceOfStrip made a place of.
template <typename Win>
DWS_DEVICE int ItemOfStrip(const BlockStripArgs& args, const BlockStripPlace<Win>& place) {
  return (place.image * args.segments + place.row / args.segment_rows) * args.strips + place.column / args.tile_columns;
}

// A row-major matrix to shared memory, zeros past its rows and columns. The copies are not committed.
template <typename T>
DWS_DEVICE void LoadPadded(T* shared, int pitch, int rows, int columns, const void* from, int valid_rows,
                           int valid_columns, bool vector) {
  const T* const global = static_cast<const T*>(from);
  const int width = vector ? 16 / static_cast<int>(sizeof(T)) : 1, pieces = columns / width;
  for (int i = threadIdx.x; i < rows * pieces; i += kBlockStripThreads) {
    const int row = i / pieces, column = (i - row * pieces) * width;
    const bool valid = row < valid_rows && column < valid_columns;
    const T* const at = valid ? global + static_cast<int64_t>(row) * valid_columns + column : global;
    if (vector) {
      CopyAsync16(shared + row * pitch + column, at, valid);
    } else {
      shared[row * pitch + column] = valid ? *at : Narrow<T>(0.f);
    }
  }
}

template <typename T>
DWS_DEVICE void LoadPaddedBias(float* shared, int padded, const void* bias, int size) {
  for (int i = threadIdx.x; i < padded; i += kBlockStripThreads) {
    shared[i] = bias != nullptr && i < size ? Widen(static_cast<const T*>(bias)[i]) : 0.f;
  }
}

// Starts the copies of rows [first, first + count) of X below the place's first one. Pixels outside the image stay as
// they are: what is made of them is dropped.
template <typename T, typename Win>
DWS_DEVICE void LoadStripRows(const BlockStripArgs& args, const BlockStripPlace<Win>& place, T* shared, int first,
                              int count) {
  const T* const image = static_cast<const T*>(args.x) + static_cast<int64_t>(place.image) * args.H * args.W * args.E;
  const int width = args.x_vector ? 16 / static_cast<int>(sizeof(T)) : 1, pieces = args.depth / width;
  for (int i = threadIdx.x; i < count * args.in_columns * pieces; i += kBlockStripThreads) {
    const int pixel = i / pieces, channel = (i - pixel * pieces) * width;
    const int row = pixel / args.in_columns, x = place.InColumn(args) + pixel - row * args.in_columns;
    const int y = place.InRow(args) + first + row;
    if (y < 0 || first + row >= place.InRows(args) || x < 0 || x >= args.W) continue;
    const bool valid = channel < args.E;
    const T* const from = image + (static_cast<int64_t>(y) * args.W + x) * args.E + (valid ? channel : 0);
    T* const to = shared + pixel * args.x_pitch + channel;
    if (args.x_vector) {
      CopyAsync16(to, from, valid);
    } else {
      *to = valid ? *from : Narrow<T>(0.f);
    }
  }
}

DWS_DEVICE void StoreSums(float* to, const float* pair) {
  *reinterpret_cast<float2*>(to) = make_float2(pair[0], pair[1]);
}
template <typename T>
DWS_DEVICE void StoreSums(T* to, const float* pair) {
  const float values[2] = {pair[0], pair[1]};
  *reinterpret_cast<uint32_t*>(to) = NarrowWord(values, T());
}

// Rows [first, first + count) of A below the place's first one, from X in shared memory to the ring; zeros for pixels
// outside the image.
template <typename Policy, typename Win>
DWS_DEVICE void ExpandRows(const BlockStripArgs& args, const BlockStripPlace<Win>& place,
                           const BlockStripShared<typename Policy::Element>& shared, int first, int count) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int pixels = count * args.in_columns, units = (pixels + kWarpRows - 1) / kWarpRows * args.column_units;
  for (int unit = warp; unit < units; unit += kBlockStripWarps) {
    const int first_pixel = unit / args.column_units * kWarpRows;
    const int first_channel = unit % args.column_units * kTiles * kTileColumns;
    const int left = (args.channels - first_channel) / kTileColumns, tiles = left < kTiles ? left : kTiles;
    Sums sums;
    ClearSums(sums);
    Policy::Multiply(sums, shared.x + first_pixel * args.x_pitch, args.x_pitch, shared.expand + first_channel,
                     args.expand_pitch, args.depth, tiles, lane);
    Policy::ForEach(sums, lane, tiles, [&](int, int column, float* pair) {
      pair[0] += shared.expand_bias[first_channel + column];
      pair[1] += shared.expand_bias[first_channel + column + 1];
    });
    ActivateAll<typename Policy::Element>(sums, args.expand_activation);
    int rows[Policy::kRows];
    uint32_t inside = 0;
    DWS_UNROLL
    for (int i = 0; i < Policy::kRows; ++i) {
      const int pixel = first_pixel + Policy::Row(lane, i);
      const int row = pixel / args.in_columns, column = pixel - row * args.in_columns;
      const int y = place.InRow(args) + first + row, x = place.InColumn(args) + column;
      rows[i] = pixel < pixels ? ((first + row) % args.ring_rows * args.in_columns + column) * args.ring_pitch : -1;
      if (y >= 0 && y < args.H && x >= 0 && x < args.W) inside |= 1u << i;
    }
    Policy::ForEach(sums, lane, tiles, [&](int i, int column, float* pair) {
      if (((inside >> i) & 1u) == 0) pair[0] = pair[1] = 0.f;
      if (rows[i] >= 0) StoreSums(shared.ring + rows[i] + first_channel + column, pair);
    });
  }
}

// The depthwise sums of one patch by plain loops, taps outside the image left out: for filters with an infinity or a
// NaN, which times the zeros around the image would be NaN. `first` is the patch's first row of A below the place's
// first one.
template <typename T, typename Win>
DWS_DEVICE void MaskedSums(const BlockStripArgs& args, const BlockStripPlace<Win>& place,
                           const BlockStripShared<T>& shared, PatchSums<T>& sums, int word, int first, int in_column) {
  constexpr int kElements = Word<T>::kElements;
  const int words = args.channels / kElements, ring_words = args.ring_pitch / kElements;
  DWS_ROLLED
  for (int tap = 0; tap < Win::kTaps; ++tap) {
    float weights[kElements];
    WidenWord(reinterpret_cast<const uint32_t*>(shared.d)[tap * words + word], weights, T());
    DWS_UNROLL
    for (int pixel = 0; pixel < kPatchPixels; ++pixel) {
      const int row = first + pixel / kPatch * Win::kStride + tap / Win::kSize;
      const int column = in_column + pixel % kPatch * Win::kStride + tap % Win::kSize;
      const int y = place.InRow(args) + row, x = place.InColumn(args) + column;
      if (y < 0 || y >= args.H || x < 0 || x >= args.W) continue;
      const int at = (row % args.ring_rows * args.in_columns + column) * ring_words + word;
      float inputs[kElements];
      WidenWord(reinterpret_cast<const uint32_t*>(shared.ring)[at], inputs, T());
      DWS_UNROLL
      for (int e = 0; e < kElements; ++e) {
        float& sum = (&sums[0][0])[pixel * kElements + e];
        sum = fmaf(inputs[e], weights[e], sum);
      }
    }
  }
}

// The depthwise half of one tile: from the ring to Z, or to Y. `top` is the tile's first row below place.row.
template <typename T, typename Win>
DWS_DEVICE void DepthwiseOfStrip(const BlockStripArgs& args, const BlockStripPlace<Win>& place,
                                 const BlockStripShared<T>& shared, int top, bool infinite_filter) {
  constexpr int kElements = Word<T>::kElements;
  const int words = args.channels / kElements, ring_words = args.ring_pitch / kElements;
  const int patch_columns = args.tile_columns / kPatch;
  const int units = words * patch_columns * (args.tile_rows / kPatch);
  T* const image =
      static_cast<T*>(args.out.y) + static_cast<int64_t>(place.image) * args.Ho * args.Wo * args.C;  // without P
  for (int unit = threadIdx.x; unit < units; unit += kBlockStripThreads) {
    const int patch = unit / words, word = unit - patch * words;
    const int row = patch / patch_columns * kPatch, column = patch % patch_columns * kPatch;
    const int out_row = place.row + top + row, out_column = place.column + column;
    if (out_row >= place.EndRow(args) || out_column >= args.Wo) continue;
    PatchSums<T> sums;
    float* const flat = &sums[0][0];
    DWS_UNROLL
    for (int i = 0; i < kPatchPixels * kElements; ++i) {
      flat[i] = shared.depthwise_bias[word * kElements + i % kElements];
    }
    const int first = (top + row) * Win::kStride;  // row of A below the place's first one
    const int in_column = column * Win::kStride;
    struct Load {
      const uint32_t* ring;
      int first_slot, ring_rows, row_words, words;
      DWS_DEVICE const uint32_t* operator()(int j) const {
        const int slot = first_slot + j;
        return ring + (slot < ring_rows ? slot : slot - ring_rows) * row_words;
      }
      DWS_DEVICE uint32_t operator()(const uint32_t* from, int i) const { return from[i * words]; }
    };
    if (infinite_filter) {
      MaskedSums<T, Win>(args, place, shared, sums, word, first, in_column);
    } else {
      float weights[Win::kTaps][kElements];
      DWS_UNROLL
      for (int tap = 0; tap < Win::kTaps; ++tap) {
        WidenWord(reinterpret_cast<const uint32_t*>(shared.d)[tap * words + word], weights[tap], T());
      }
      const uint32_t* const ring = reinterpret_cast<const uint32_t*>(shared.ring) + in_column * ring_words + word;
      SumPatch<T, Win>(sums, weights, kAllInside, kAllInside,
                       Load{ring, first % args.ring_rows, args.ring_rows, args.in_columns * ring_words, ring_words});
    }
    ActivateAll<T>(sums, args.mid);
    DWS_UNROLL
    for (int a = 0; a < kPatch; ++a) {
      DWS_UNROLL
      for (int b = 0; b < kPatch; ++b) {
        float values[kElements];
        DWS_UNROLL
        for (int e = 0; e < kElements; ++e) values[e] = flat[(a * kPatch + b) * kElements + e];
        if (args.p != nullptr) {
          T* const z = shared.z + ((row + a) * args.tile_columns + column + b) * args.ring_pitch + word * kElements;
          *reinterpret_cast<uint32_t*>(z) = NarrowWord(values, T());
          continue;
        }
        if (out_row + a >= place.EndRow(args) || out_column + b >= args.Wo) continue;
        T* const y = image + ((out_row + a) * args.Wo + out_column + b) * args.C + word * kElements;
        const int left = args.C - word * kElements;
        if (args.y_words) {
          if (left > 0) *reinterpret_cast<uint32_t*>(y) = NarrowWord(values, T());
        } else {
          DWS_UNROLL
          for (int e = 0; e < kElements; ++e) {
            if (left > e) y[e] = Narrow<T>(values[e]);
          }
        }
      }
    }
  }
}

// Z times P for the pixels of one tile, and Y.
template <typename Policy, typename Win>
DWS_DEVICE void MultiplyOfStrip(const BlockStripArgs& args, const BlockStripPlace<Win>& place,
                                const BlockStripShared<typename Policy::Element>& shared, int top) {
  using T = typename Policy::Element;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int groups = args.tile_rows * args.tile_columns / kWarpRows;
  const int units = groups * ((args.out_channels + args.warp_channels - 1) / args.warp_channels);
  for (int unit = warp; unit < units; unit += kBlockStripWarps) {
    const int first_pixel = unit % groups * kWarpRows, first_channel = unit / groups * args.warp_channels;
    const int most = args.warp_channels / kTileColumns, left = (args.out_channels - first_channel) / kTileColumns;
    const int tiles = left < most ? left : most;
    Sums sums;
    ClearSums(sums);
    Policy::Multiply(sums, shared.z + first_pixel * args.ring_pitch, args.ring_pitch, shared.p + first_channel,
                     args.p_pitch, args.channels, tiles, lane);
    OutputArgs out = args.out;
    const int64_t image = static_cast<int64_t>(place.image) * args.Ho * args.Wo * out.channels;
    out.y = static_cast<T*>(out.y) + image;
    if (out.residual != nullptr) out.residual = static_cast<const T*>(out.residual) + image;
    int rows[Policy::kRows];
    DWS_UNROLL
    for (int i = 0; i < Policy::kRows; ++i) {
      const int pixel = first_pixel + Policy::Row(lane, i), tile_row = pixel / args.tile_columns;
      const int row = place.row + top + tile_row, column = place.column + pixel - tile_row * args.tile_columns;
      rows[i] = row < place.EndRow(args) && column < args.Wo ? (row * args.Wo + column) * out.channels : -1;
    }
    StoreTile<Policy>(sums, lane, tiles, first_channel, rows, shared.bias, out);
  }
}

template <typename Policy, typename Win>
__global__ void __launch_bounds__(kBlockStripThreads, DWS_BLOCK_STRIP_BLOCKS)
    BlockStripKernel(const BlockStripArgs args) {
  using T = typename Policy::Element;
  const BlockStripShared<T> shared(args);
  LoadPadded(shared.expand, args.expand_pitch, args.depth, args.channels, args.expand, args.E, args.C,
             args.expand_vector);
  bool infinite = false;
  for (int i = threadIdx.x; i < Win::kTaps * args.channels; i += kBlockStripThreads) {
    const int tap = i / args.channels, channel = i - tap * args.channels;
    const T tap_weight = channel < args.C ? static_cast<const T*>(args.d)[tap * args.C + channel] : Narrow<T>(0.f);
    infinite = infinite || !IsFinite(Widen(tap_weight));
    shared.d[i] = tap_weight;
  }
  infinite = SyncBlockOr(infinite);
  LoadPaddedBias<T>(shared.expand_bias, args.channels, args.expand_bias, args.C);
  LoadPaddedBias<T>(shared.depthwise_bias, args.channels, args.depthwise_bias, args.C);
  if (args.p != nullptr) {
    LoadPadded(shared.p, args.p_pitch, args.channels, args.out_channels, args.p, args.C, args.out.channels,
               args.p_vector);
    LoadPaddedBias<T>(shared.bias, args.out_channels, args.bias, args.out.channels);
  }
  const int advance = args.tile_rows * Win::kStride;  // rows of A from one step to the next
  if (static_cast<int>(blockIdx.x) >= args.items) return;
  BlockStripPlace<Win> place = PlaceOfStrip<Win>(args, static_cast<int>(blockIdx.x));
  for (;;) {
    LoadStripRows(args, place, shared.x, 0, args.ring_rows);
    CommitCopies();
    for (int top = 0; place.row + top < place.EndRow(args); top += args.tile_rows) {
      // Rows of A that are new to this step.
      const int count = top == 0 ? args.ring_rows : advance;
      const int first = top == 0 ? 0 : args.ring_rows - advance + top * Win::kStride;
      WaitForCopies<0>();
      // This step's rows of X have come, and nobody reads the step before's A and Z any more.
      SyncBlock();
      ExpandRows<Policy, Win>(args, place, shared, first, count);
      // A is whole, and nobody reads X any more.
      SyncBlock();
      if (place.row + top + args.tile_rows < place.EndRow(args)) {
        LoadStripRows(args, place, shared.x, args.ring_rows + top * Win::kStride, advance);
      }
      CommitCopies();
      DepthwiseOfStrip<T, Win>(args, place, shared, top, infinite);
      if (args.p == nullptr) continue;
      // Z is whole.
      SyncBlock();
      MultiplyOfStrip<Policy, Win>(args, place, shared, top);
    }
    const int item = ItemOfStrip(args, place) + static_cast<int>(gridDim.x);
    if (item >= args.items) return;
    place = PlaceOfStrip<Win>(args, item);
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_FUSED_STRIP_KERNEL_CUH_
