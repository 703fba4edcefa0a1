// The fused kernel for layers whose filters fit in shared memory. A block takes a strip of columns of one image and
// goes down it, tile_rows output rows at a step:
//
//   rows of X --cp.async--> ring --depthwise--> Z of the tile --times P, which stays--> sums in registers --> Y
//
// The rows of the next step are under way while this one is computed, and what two steps share of X stays in the ring:
// so X is read once, but for the columns at a strip's edges. Z never leaves shared memory.
#ifndef DWSCONV_CUDA_STREAM_KERNEL_CUH_
#define DWSCONV_CUDA_STREAM_KERNEL_CUH_

#include <cstdint>

#include "cuda/activation.cuh"
#include "cuda/async_copy.cuh"
#include "cuda/depthwise_patch.cuh"
#include "cuda/element.cuh"
#include "cuda/fragments.cuh"
#include "cuda/platform.cuh"
#include "cuda/store_tile.cuh"

namespace dwsconv {
namespace cuda {

constexpr int kStreamThreads = 256;  // at most; two warps for every 32 pixels of a tile

struct StreamArgs {
  const void *x, *d, *p;              // [N,H,W,C], [R,S,C], [C,K]
  const void *depthwise_bias, *bias;  // [C], [K], or null
  OutputArgs out;
  DeviceActivation mid;
  int H, W, C, Ho, Wo;
  int pad_top, pad_left;
  bool x_vector, p_vector;  // whole 16-byte vectors of channels, and pointers aligned to them
  // As in CudaPlan.
  int tile_rows, tile_columns, tile_columns_log2, in_columns, channels, ring_rows, out_channels, warp_channels;
  int strips, segments, segment_rows;
  int z_pitch, p_pitch;
  int p_offset_bytes, z_offset_bytes, d_offset_bytes, bias_offset_bytes, ring_offset_bytes;
  int64_t items;
};

// A block's shared memory.
template <typename T>
struct StreamShared {
  T* p;                   // [channels][p_pitch]
  T* z;                   // [tile pixels][z_pitch]
  T* d;                   // [taps][channels]
  float* depthwise_bias;  // [channels]
  float* bias;            // [out_channels]
  T* ring;                // [ring_rows][in_columns][channels]

  DWS_DEVICE explicit StreamShared(const StreamArgs& args) {
    char* const shared = SharedMemory();
    p = reinterpret_cast<T*>(shared + args.p_offset_bytes);
    z = reinterpret_cast<T*>(shared + args.z_offset_bytes);
    d = reinterpret_cast<T*>(shared + args.d_offset_bytes);
    depthwise_bias = reinterpret_cast<float*>(shared + args.bias_offset_bytes);
    bias = depthwise_bias + args.channels;
    ring = reinterpret_cast<T*>(shared + args.ring_offset_bytes);
  }
};

// Floats of a bias to shared memory, zeros past its end and where there is none.
template <typename T>
DWS_DEVICE void LoadBias(float* shared, const void* bias, int size, int padded) {
  for (int i = threadIdx.x; i < padded; i += blockDim.x) {
    shared[i] = bias != nullptr && i < size ? Widen(static_cast<const T*>(bias)[i]) : 0.f;
  }
}

// Rows [0, rows) x columns [0, columns) of a row-major matrix to shared memory, zeros where row >= valid_rows or column
// >= valid_columns. `columns` is a multiple of a vector. The copies are not committed.
template <typename T>
DWS_DEVICE void LoadMatrix(T* shared, int shared_pitch, const T* global, int64_t global_pitch, int rows, int columns,
                           int valid_rows, int valid_columns, bool vector) {
  constexpr int kVector = 16 / sizeof(T);
  if (vector) {
    const int pieces = columns / kVector;
    for (int i = threadIdx.x; i < rows * pieces; i += blockDim.x) {
      const int row = i / pieces, column = i % pieces * kVector;
      const bool valid = row < valid_rows && column < valid_columns;
      CopyAsync16(shared + row * shared_pitch + column, valid ? global + row * global_pitch + column : global, valid);
    }
  } else {
    for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) {
      const int row = i / columns, column = i % columns;
      const bool valid = row < valid_rows && column < valid_columns;
      shared[row * shared_pitch + column] = valid ? global[row * global_pitch + column] : Narrow<T>(0.f);
    }
  }
}

// What stays for the whole kernel: filters and biases.
template <typename T, int kTaps>
DWS_DEVICE void LoadFilters(const StreamArgs& args, const StreamShared<T>& shared) {
  LoadMatrix(shared.p, args.p_pitch, static_cast<const T*>(args.p), args.out.channels, args.channels, args.out_channels,
             args.C, args.out.channels, args.p_vector);
  LoadMatrix(shared.d, args.channels, static_cast<const T*>(args.d), args.C, kTaps, args.channels, kTaps, args.C,
             false);
  LoadBias<T>(shared.depthwise_bias, args.depthwise_bias, args.C, args.channels);
  LoadBias<T>(shared.bias, args.bias, args.out.channels, args.out_channels);
  if (!args.x_vector) {  // then nobody else writes the channels past C
    const int words = args.ring_rows * args.in_columns * args.channels * static_cast<int>(sizeof(T)) / 4;
    for (int i = threadIdx.x; i < words; i += blockDim.x) reinterpret_cast<uint32_t*>(shared.ring)[i] = 0;
    SyncBlock();
  }
}

// Where a block is: a strip of one image's columns, a segment of its rows.
struct StreamPlace {
  int64_t image;
  int row, end_row, column;  // of Y
  int in_row, in_column;     // of X: of the first tap; negative in the padding
  int in_rows;               // rows of X below in_row that are inside the image and needed
};

template <typename Win>
DWS_DEVICE StreamPlace PlaceOf(const StreamArgs& args, int64_t item) {
  StreamPlace place;
  const int strip = static_cast<int>(item % args.strips);
  const int64_t rest = item / args.strips;
  const int segment = static_cast<int>(rest % args.segments);
  place.image = rest / args.segments;
  place.row = segment * args.segment_rows;
  place.end_row = place.row + args.segment_rows < args.Ho ? place.row + args.segment_rows : args.Ho;
  place.column = strip * args.tile_columns;
  place.in_row = place.row * Win::kStride - args.pad_top;
  place.in_column = place.column * Win::kStride - args.pad_left;
  const int needed = (place.end_row - 1 - place.row) * Win::kStride + Win::kSize;
  place.in_rows = args.H - place.in_row < needed ? args.H - place.in_row : needed;
  return place;
}

// Starts the copies of rows [first, first + count) below place.in_row into the ring. What is outside the image stays as
// it is: nobody reads it.
template <typename T>
DWS_DEVICE void LoadRows(const StreamArgs& args, const StreamPlace& place, T* ring, int first, int count) {
  constexpr int kVector = 16 / sizeof(T);
  const T* const image = static_cast<const T*>(args.x) + place.image * args.H * args.W * args.C;
  int slot = first % args.ring_rows;
  if (args.x_vector) {
    const int pieces = args.channels / kVector;
    const int together = blockDim.x / pieces;  // pixels that the block copies at a time
    const int channel = threadIdx.x % pieces * kVector;
    int column = threadIdx.x / pieces;
    if (column >= together) return;
    const bool inside = channel < args.C;
    int row = 0;
    while (row < count) {
      if (column >= args.in_columns) {
        column -= args.in_columns;
        ++row;
        slot = slot + 1 == args.ring_rows ? 0 : slot + 1;
        continue;
      }
      const int y = place.in_row + first + row, x = place.in_column + column;
      if (y >= 0 && first + row < place.in_rows && x >= 0 && x < args.W) {
        const T* const from = image + (static_cast<int64_t>(y) * args.W + x) * args.C;
        CopyAsync16(ring + (slot * args.in_columns + column) * args.channels + channel, inside ? from + channel : from,
                    inside);
      }
      column += together;
    }
  } else {
    for (int row = 0; row < count; ++row, slot = slot + 1 == args.ring_rows ? 0 : slot + 1) {
      const int y = place.in_row + first + row;
      if (y < 0 || first + row >= place.in_rows) continue;
      for (int i = threadIdx.x; i < args.in_columns * args.C; i += blockDim.x) {
        const int column = i / args.C, channel = i - column * args.C, x = place.in_column + column;
        if (x < 0 || x >= args.W) continue;
        ring[(slot * args.in_columns + column) * args.channels + channel] =
            image[(static_cast<int64_t>(y) * args.W + x) * args.C + channel];
      }
    }
  }
}

// The depthwise half of one tile: from the ring to Z. `top` is the tile's first row below place.row.
template <typename T, typename Win>
DWS_DEVICE void DepthwiseTile(const StreamArgs& args, const StreamPlace& place, const StreamShared<T>& shared,
                              int top) {
  constexpr int kElements = Word<T>::kElements;
  const int words = args.channels / kElements;
  const int patch_columns = args.tile_columns / kPatch;
  const int units = words * patch_columns * (args.tile_rows / kPatch);
  float weights[Win::kTaps][kElements];
  int word_before = -1;
  for (int unit = threadIdx.x; unit < units; unit += blockDim.x) {
    const int patch = unit / words, word = unit - patch * words;
    const int row = patch / patch_columns * kPatch, column = patch % patch_columns * kPatch;
    if (place.row + top + row >= place.end_row || place.column + column >= args.Wo) continue;
    if (word != word_before) {
      DWS_UNROLL
      for (int tap = 0; tap < Win::kTaps; ++tap) {
        WidenWord(reinterpret_cast<const uint32_t*>(shared.d)[tap * words + word], weights[tap], T());
      }
      word_before = word;
    }
    PatchSums<T> sums;
    DWS_UNROLL
    for (int i = 0; i < kPatchPixels * kElements; ++i) {
      (&sums[0][0])[i] = shared.depthwise_bias[word * kElements + i % kElements];
    }
    const int first = (top + row) * Win::kStride;  // row of X below place.in_row
    const int in_column = column * Win::kStride;
    const uint32_t rows = InsideMask(place.in_row + first, place.in_row + place.in_rows, Win::kIn);
    const uint32_t columns = InsideMask(place.in_column + in_column, args.W, Win::kIn);
    const int first_slot = first % args.ring_rows;
    const uint32_t* const ring = reinterpret_cast<const uint32_t*>(shared.ring) + in_column * words + word;
    struct Load {
      const uint32_t* ring;
      int first_slot, ring_rows, row_words, words;
      DWS_DEVICE const uint32_t* operator()(int j) const {
        const int slot = first_slot + j;
        return ring + (slot < ring_rows ? slot : slot - ring_rows) * row_words;
      }
      DWS_DEVICE uint32_t operator()(const uint32_t* from, int i) const { return from[i * words]; }
    };
    SumPatch<T, Win>(sums, weights, rows, columns,
                     Load{ring, first_slot, args.ring_rows, args.in_columns * words, words});
    ActivateAll(sums, args.mid);
    T* const z = shared.z + (row * args.tile_columns + column) * args.z_pitch + word * kElements;
    DWS_UNROLL
    for (int a = 0; a < kPatch; ++a) {
      DWS_UNROLL
      for (int b = 0; b < kPatch; ++b) {
        *reinterpret_cast<uint32_t*>(z + (a * args.tile_columns + b) * args.z_pitch) = PatchWord<T>(sums, a, b);
      }
    }
  }
}

// Z times P for the pixels of one tile, and Y.
template <typename Policy>
DWS_DEVICE void MultiplyTile(const StreamArgs& args, const StreamPlace& place,
                             const StreamShared<typename Policy::Element>& shared, int top) {
  using T = typename Policy::Element;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first_pixel = warp / 2 * kWarpRows;
  OutputArgs out = args.out;
  const int64_t image = place.image * args.Ho * args.Wo * out.channels;
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
    Policy::Multiply(sums, shared.z + first_pixel * args.z_pitch, args.z_pitch, shared.p + first_channel, args.p_pitch,
                     args.channels, tiles, lane);
    StoreTile<Policy>(sums, lane, tiles, first_channel, rows, shared.bias, out);
  }
}

template <typename Policy, typename Win>
__global__ void __launch_bounds__(kStreamThreads, 1) StreamKernel(const StreamArgs args) {
  using T = typename Policy::Element;
  const StreamShared<T> shared(args);
  LoadFilters<T, Win::kTaps>(args, shared);
  const int advance = args.tile_rows * Win::kStride;                    // rows of X from one step to the next
  const int window = (args.tile_rows - 1) * Win::kStride + Win::kSize;  // rows of X that a step reads
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    const StreamPlace place = PlaceOf<Win>(args, item);
    LoadRows(args, place, shared.ring, 0, window);
    CommitCopies();
    for (int top = 0; place.row + top < place.end_row; top += args.tile_rows) {
      const int first = top * Win::kStride;
      if (place.row + top + args.tile_rows < place.end_row) {
        LoadRows(args, place, shared.ring, first + window, advance);
      }
      CommitCopies();
      WaitForCopies<1>();
      // Every warp has finished with Z of the step before, and this step's rows have come.
      SyncBlock();
      DepthwiseTile<T, Win>(args, place, shared, top);
      // Z is whole, and nobody reads this step's rows any more.
      SyncBlock();
      MultiplyTile<Policy>(args, place, shared, top);
    }
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_STREAM_KERNEL_CUH_
