// The fused kernel of the backward pass, for layers whose P fits into shared memory: dZ and the first stages of dP and
// both biases' gradients, from X, dY and Y, each read once. A block goes down strips of images, a tile of output pixels
// at a step:
//
//   rows of X --cp.async--> ring --depthwise, mid--> Z of the tile
//   dY, Y of the tile --cp.async--> times out' --> G of the tile
//   dP += Z^T G, in registers to the end; dZ = G P^T, times mid' of Z --> global memory
//
// Neither Z nor G is ever in global memory, but for G where the residual's gradient is wanted.
#ifndef DWSCONV_CUDA_BACKWARD_STREAM_KERNEL_CUH_
#define DWSCONV_CUDA_BACKWARD_STREAM_KERNEL_CUH_

#include <cstdint>

#include "cuda/backward/derivative.cuh"
#include "cuda/backward/fragments.cuh"
#include "cuda/backward/reduce_kernel.cuh"
#include "cuda/depthwise/patch.cuh"
#include "cuda/device/activation.cuh"
#include "cuda/device/async_copy.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

constexpr int kBackwardStreamThreads = 256;
constexpr int kBackwardStreamWarps = kBackwardStreamThreads / 32;
constexpr int kBetweenTiles = 2;  // of 16 columns of dZ, a warp's

struct BackwardStreamArgs {
  const void *x, *d, *p_transposed;                // [N,H,W,C], [R,S,C], [K,C]
  const void* depthwise_bias;                      // [C], or null
  const void *gradient, *y;                        // [N,Ho,Wo,K]; y null: the activation is none
  void *dz, *residual_gradient;                    // [N,Ho,Wo,C], [N,Ho,Wo,K] or null; the latter may be `gradient`
  float *product_sums, *bias_sums, *between_sums;  // [parts,C,K], [parts,K] or null, [parts,C] or null
  DeviceActivation mid, out;
  int H, W, C, K, Ho, Wo, pad_top, pad_left;
  // As in CudaTile.
  int tile_rows, tile_columns, tile_columns_log2, in_columns, channels, ring_rows, out_channels;
  int strips, segments, segment_rows;
  int z_pitch, g_pitch, p_pitch;
  int p_offset_bytes, z_offset_bytes, g_offset_bytes, d_offset_bytes, bias_offset_bytes, sums_offset_bytes;
  int gradient_offset_bytes, ring_offset_bytes;
  int row_warps, warp_columns;  // of dP
  int64_t items, parts;
};

// A block's shared memory.
template <typename T>
struct BackwardStreamShared {
  T* p;            // [out_channels][p_pitch]: P transposed
  T* z;            // [tile pixels][z_pitch]
  T* g;            // [tile pixels][g_pitch]
  T* d;            // [taps][channels]
  float* bias;     // [channels]: the depthwise one
  float* sums;     // [tile pixels / 32][channels]: of the columns of dZ
  T* gradient;     // [2][tile pixels][out_channels]: dY, this step's and the next one's
  T* y;            // the same of Y
  T* ring;         // [ring_rows][in_columns][channels]
  float* scratch;  // of kBackwardStreamThreads * a vector's elements, where the ring is

  DWS_DEVICE explicit BackwardStreamShared(const BackwardStreamArgs& args) {
    char* const shared = SharedMemory();
    p = reinterpret_cast<T*>(shared + args.p_offset_bytes);
    z = reinterpret_cast<T*>(shared + args.z_offset_bytes);
    g = reinterpret_cast<T*>(shared + args.g_offset_bytes);
    d = reinterpret_cast<T*>(shared + args.d_offset_bytes);
    bias = reinterpret_cast<float*>(shared + args.bias_offset_bytes);
    sums = reinterpret_cast<float*>(shared + args.sums_offset_bytes);
    gradient = reinterpret_cast<T*>(shared + args.gradient_offset_bytes);
    y = gradient + 2 * args.tile_rows * args.tile_columns * args.out_channels;
    ring = reinterpret_cast<T*>(shared + args.ring_offset_bytes);
    scratch = reinterpret_cast<float*>(ring);
  }
};

// Where a block is: a strip of one image's columns, a segment of its rows.
struct BackwardStreamPlace {
  int64_t image;
  int row, end_row, column;  // of Y
  int in_row, in_column;     // of X: of the first tap; negative in the padding

  template <typename Win>
  DWS_DEVICE static BackwardStreamPlace Of(const BackwardStreamArgs& args, int64_t item, Win) {
    BackwardStreamPlace place;
    const int64_t rest = item / args.strips;
    place.image = rest / args.segments;
    place.row = static_cast<int>(rest % args.segments) * args.segment_rows;
    place.end_row = place.row + args.segment_rows < args.Ho ? place.row + args.segment_rows : args.Ho;
    place.column = static_cast<int>(item % args.strips) * args.tile_columns;
    place.in_row = place.row * Win::kStride - args.pad_top;
    place.in_column = place.column * Win::kStride - args.pad_left;
    return place;
  }
};

// What stays for the whole kernel. The copies are not committed.
template <typename T, int kTaps>
DWS_DEVICE void LoadBackwardFilters(const BackwardStreamArgs& args, const BackwardStreamShared<T>& shared) {
  constexpr int kVector = 16 / sizeof(T);
  const int pieces = args.channels / kVector;
  for (int i = threadIdx.x; i < args.out_channels * pieces; i += kBackwardStreamThreads) {
    const int row = i / pieces, column = i % pieces * kVector;
    const bool valid = row < args.K && column < args.C;
    const T* const from = static_cast<const T*>(args.p_transposed);
    CopyAsync16(shared.p + row * args.p_pitch + column, valid ? from + row * args.C + column : from, valid);
  }
  for (int i = threadIdx.x; i < kTaps * args.channels; i += kBackwardStreamThreads) {
    const int tap = i / args.channels, channel = i % args.channels;
    shared.d[i] = channel < args.C ? static_cast<const T*>(args.d)[tap * args.C + channel] : Narrow<T>(0.f);
  }
  for (int i = threadIdx.x; i < args.channels; i += kBackwardStreamThreads) {
    shared.bias[i] =
        args.depthwise_bias != nullptr && i < args.C ? Widen(static_cast<const T*>(args.depthwise_bias)[i]) : 0.f;
  }
}

// What a thread copies: 16 bytes of one pixel, then of that `step` pixels further on. The divisions are done once.
template <typename T>
struct BackwardCopies {
  int ring_channel, ring_row, ring_column, ring_rows_step, ring_columns_step;
  int tile_channel, tile_pixel, tile_step;

  DWS_DEVICE explicit BackwardCopies(const BackwardStreamArgs& args) {
    constexpr int kVector = 16 / sizeof(T);
    const int thread = static_cast<int>(threadIdx.x);
    const int pieces = args.channels / kVector, step = kBackwardStreamThreads / pieces;
    const int pixel = thread / pieces;
    ring_channel = (thread - pixel * pieces) * kVector;
    ring_row = pixel / args.in_columns;
    ring_column = pixel - ring_row * args.in_columns;
    ring_rows_step = step / args.in_columns;
    ring_columns_step = step - ring_rows_step * args.in_columns;
    if (pixel >= step) ring_row = args.ring_rows;  // it copies nothing
    const int tile_pieces = args.out_channels / kVector;
    tile_step = kBackwardStreamThreads / tile_pieces;
    tile_pixel = thread / tile_pieces;
    tile_channel = (thread - tile_pixel * tile_pieces) * kVector;
    if (tile_pixel >= tile_step) tile_pixel = args.tile_rows * args.tile_columns;
  }

  // Starts the copies of rows [first, first + count) below place.in_row into the ring. What is outside the image stays
  // as it is: nobody reads it.
  DWS_DEVICE void Ring(const BackwardStreamArgs& args, const BackwardStreamPlace& place, T* ring, int first,
                       int count) const {
    const T* const image = static_cast<const T*>(args.x) + place.image * args.H * args.W * args.C + ring_channel;
    const int top = place.in_row + first, top_slot = first % args.ring_rows;
    const bool valid = ring_channel < args.C;
    for (int row = ring_row, column = ring_column; row < count;) {
      const int y = top + row, x = place.in_column + column;
      const int slot = top_slot + row < args.ring_rows ? top_slot + row : top_slot + row - args.ring_rows;
      if (static_cast<unsigned>(y) < static_cast<unsigned>(args.H) &&
          static_cast<unsigned>(x) < static_cast<unsigned>(args.W)) {
        CopyAsync16(ring + (slot * args.in_columns + column) * args.channels + ring_channel,
                    image + (static_cast<int64_t>(y) * args.W + x) * args.C, valid);
      }
      row += ring_rows_step;
      column += ring_columns_step;
      if (column >= args.in_columns) {
        column -= args.in_columns;
        ++row;
      }
    }
  }

  // Starts the copies of a tile of a tensor as dY, zeros outside.
  DWS_DEVICE void Tile(const BackwardStreamArgs& args, const BackwardStreamPlace& place, T* tile, const void* tensor,
                       int top) const {
    const T* const image = static_cast<const T*>(tensor) + place.image * args.Ho * args.Wo * args.K + tile_channel;
    const int pixels = args.tile_rows * args.tile_columns;
    T* to = tile + tile_pixel * args.out_channels + tile_channel;
    for (int pixel = tile_pixel; pixel < pixels; pixel += tile_step, to += tile_step * args.out_channels) {
      const int row = place.row + top + (pixel >> args.tile_columns_log2);
      const int column = place.column + (pixel & (args.tile_columns - 1));
      const bool valid = row < place.end_row && column < args.Wo && tile_channel < args.K;
      CopyAsync16(to, image + (static_cast<int64_t>(row) * args.Wo + column) * args.K, valid);
    }
  }
};

// G of the tile, and this thread's share of its columns' sums.
template <typename T, int kUnit>
DWS_DEVICE void GradientTile(const BackwardStreamArgs& args, const BackwardStreamPlace& place,
                             const BackwardStreamShared<T>& shared, int top, int buffer, float (&sums)[kUnit]) {
  const int units = args.out_channels / kUnit, lanes = kBackwardStreamThreads / units;
  const int lane = static_cast<int>(threadIdx.x) / units, channel = static_cast<int>(threadIdx.x) % units * kUnit;
  const int pixels = args.tile_rows * args.tile_columns;
  if (lane >= lanes) return;
  for (int pixel = lane; pixel < pixels; pixel += lanes) {
    const int at = (buffer * pixels + pixel) * args.out_channels + channel;
    float gradient[kUnit];
    LoadUnit(shared.gradient + at, gradient);
    if (args.y != nullptr) {
      float y[kUnit];
      LoadUnit(shared.y + at, y);
      DWS_UNROLL
      for (int e = 0; e < kUnit; ++e) gradient[e] = ScaleFromOutput(gradient[e], y[e], args.out);
    }
    DWS_UNROLL
    for (int e = 0; e < kUnit; ++e) sums[e] += gradient[e];
    StoreUnit(shared.g + pixel * args.g_pitch + channel, gradient);
    if (args.residual_gradient != nullptr && channel < args.K) {
      const int row = place.row + top + (pixel >> args.tile_columns_log2);
      const int column = place.column + (pixel & (args.tile_columns - 1));
      if (row < place.end_row && column < args.Wo) {
        StoreUnit(static_cast<T*>(args.residual_gradient) +
                      ((place.image * args.Ho + row) * args.Wo + column) * args.K + channel,
                  gradient);
      }
    }
  }
}

// Z of the tile, zeros outside the image.
template <typename T, typename Win>
DWS_DEVICE void BetweenTile(const BackwardStreamArgs& args, const BackwardStreamPlace& place,
                            const BackwardStreamShared<T>& shared, int top) {
  constexpr int kElements = Word<T>::kElements;
  const int words = args.channels / kElements, patch_columns = args.tile_columns / kPatch;
  const int units = words * patch_columns * (args.tile_rows / kPatch);
  for (int unit = threadIdx.x; unit < units; unit += kBackwardStreamThreads) {
    const int patch = unit / words, word = unit - patch * words;
    const int row = patch / patch_columns * kPatch, column = patch % patch_columns * kPatch;
    float weights[Win::kTaps][kElements];
    LoadTaps<Win>(weights, shared.d, words, word, T());
    PatchSums<T> sums;
    DWS_UNROLL
    for (int i = 0; i < kPatchPixels * kElements; ++i) (&sums[0][0])[i] = shared.bias[word * kElements + i % kElements];
    const int first = (top + row) * Win::kStride;  // row of X below place.in_row
    const int in_column = column * Win::kStride;
    const uint32_t rows = InsideMask(place.in_row + first, args.H, Win::kIn);
    const uint32_t columns = InsideMask(place.in_column + in_column, args.W, Win::kIn);
    const uint32_t* const ring = reinterpret_cast<const uint32_t*>(shared.ring) + in_column * words + word;
    SumPatch<T, Win>(sums, weights, rows, columns,
                     RingRows{ring, first % args.ring_rows, args.ring_rows, args.in_columns * words, words});
    ActivateAll<T>(sums, args.mid);
    T* const z = shared.z + (row * args.tile_columns + column) * args.z_pitch + word * kElements;
    DWS_UNROLL
    for (int i = 0; i < kPatchPixels; ++i) {
      const int a = i / kPatch, b = i % kPatch;
      const bool inside = place.row + top + row + a < place.end_row && place.column + column + b < args.Wo;
      float values[kElements];
      DWS_UNROLL
      for (int e = 0; e < kElements; ++e) values[e] = inside ? (&sums[0][0])[i * kElements + e] : 0.f;
      *reinterpret_cast<uint32_t*>(z + (a * args.tile_columns + b) * args.z_pitch) = NarrowWord(values, T());
    }
  }
}

// dZ of the tile to global memory, and its columns' sums.
template <typename Policy>
DWS_DEVICE void BetweenGradientTile(const BackwardStreamArgs& args, const BackwardStreamPlace& place,
                                    const BackwardStreamShared<typename Policy::Element>& shared, int top) {
  using T = typename Policy::Element;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row_warps = args.tile_rows * args.tile_columns / kWarpRows;
  const int first_pixel = warp % row_warps * kWarpRows;
  const int first_channel = warp / row_warps * kBetweenTiles * kTileColumns;
  const int left = (args.channels - first_channel) / kTileColumns;
  const int tiles = left < kBetweenTiles ? left : kBetweenTiles;
  if (tiles <= 0) return;
  TileSums<kBetweenTiles> sums;
  ClearSums(sums);
  // Both tiles: what is past the last channel has room, and goes nowhere.
  BackwardProduct<Policy>::template Row<kBetweenTiles>(sums, shared.g + first_pixel * args.g_pitch, args.g_pitch,
                                                       shared.p + first_channel, args.p_pitch, args.out_channels,
                                                       kBetweenTiles, lane);
  if (args.mid.kind != static_cast<int>(ActivationKind::kNone)) {
    ForEachPair(sums, lane, tiles, Policy(), [&](int i, int column, float* pair) {
      const int pixel = first_pixel + Policy::Row(lane, i);
      float z[2];
      LoadPair(shared.z + pixel * args.z_pitch + first_channel + column, z);
      pair[0] = ScaleFromOutput(pair[0], z[0], args.mid);
      pair[1] = ScaleFromOutput(pair[1], z[1], args.mid);
    });
  }
  if (args.between_sums != nullptr) {
    float* const mine = shared.sums + first_pixel / kWarpRows * args.channels + first_channel;
    SumColumns(sums, lane, tiles, Policy(), [&](int column, float sum, float next) {
      mine[column] += sum;
      mine[column + 1] += next;
    });
  }
  int rows[Policy::kRows];
  DWS_UNROLL
  for (int i = 0; i < Policy::kRows; ++i) {
    const int pixel = first_pixel + Policy::Row(lane, i);
    const int row = place.row + top + (pixel >> args.tile_columns_log2);
    const int column = place.column + (pixel & (args.tile_columns - 1));
    rows[i] = row < place.end_row && column < args.Wo ? (row * args.Wo + column) * args.C : -1;
  }
  StoreSums<Policy, true>(sums, lane, tiles, first_channel, rows,
                          static_cast<T*>(args.dz) + place.image * args.Ho * args.Wo * args.C, args.C, true);
}

template <typename Policy, typename Win>
__global__ void __launch_bounds__(kBackwardStreamThreads, 1) BackwardStreamKernel(const BackwardStreamArgs args) {
  using T = typename Policy::Element;
  constexpr int kUnit = 16 / sizeof(T);
  const BackwardStreamShared<T> shared(args);
  LoadBackwardFilters<T, Win::kTaps>(args, shared);
  const int pixels = args.tile_rows * args.tile_columns;
  const int advance = args.tile_rows * Win::kStride;                    // rows of X from one step to the next
  const int window = (args.tile_rows - 1) * Win::kStride + Win::kSize;  // rows of X that a step reads
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int product_row = warp % args.row_warps * kWarpRows;
  const int product_column = warp / args.row_warps * args.warp_columns;
  const int most = args.warp_columns / kTileColumns, left = (args.out_channels - product_column) / kTileColumns;
  const int product_tiles = product_row < args.channels ? (left < most ? left : most) : 0;
  const BackwardCopies<T> copies(args);
  const auto load_step = [&](const BackwardStreamPlace& place, int top, int buffer) {
    const int at = buffer * pixels * args.out_channels;
    copies.Tile(args, place, shared.gradient + at, args.gradient, top);
    if (args.y != nullptr) copies.Tile(args, place, shared.y + at, args.y, top);
    CommitCopies();
  };
  for (int64_t part = blockIdx.x; part < args.parts; part += gridDim.x) {
    TileSums<kTiles> product;
    ClearSums(product);
    float bias[kUnit];
    DWS_UNROLL
    for (int e = 0; e < kUnit; ++e) bias[e] = 0.f;
    // Seen after the first step's barriers.
    for (int i = threadIdx.x; i < pixels / kWarpRows * args.channels; i += kBackwardStreamThreads) shared.sums[i] = 0.f;
    const int64_t end = args.items * (part + 1) / args.parts;
    for (int64_t item = args.items * part / args.parts; item < end; ++item) {
      const BackwardStreamPlace place = BackwardStreamPlace::Of(args, item, Win());
      copies.Ring(args, place, shared.ring, 0, window);
      load_step(place, 0, 0);
      int buffer = 0;
      for (int top = 0; place.row + top < place.end_row; top += args.tile_rows, buffer ^= 1) {
        WaitForCopies<0>();
        // This step's rows have come for all, and all have finished with Z and G of the step before.
        SyncBlock();
        if (place.row + top + args.tile_rows < place.end_row) {
          copies.Ring(args, place, shared.ring, top * Win::kStride + window, advance);
          load_step(place, top + args.tile_rows, buffer ^ 1);
        }
        GradientTile<T, kUnit>(args, place, shared, top, buffer, bias);
        BetweenTile<T, Win>(args, place, shared, top);
        // Z and G are whole, and nobody reads this step's rows any more.
        SyncBlock();
        BetweenGradientTile<Policy>(args, place, shared, top);
        // By a number of tiles that the compiler knows, the fourth where there are three: its columns have room.
        const T* const z = shared.z + product_row;
        const T* const g = shared.g + product_column;
        if (product_tiles > 2) {
          BackwardProduct<Policy>::template Outer<kTiles>(product, z, args.z_pitch, g, args.g_pitch, pixels, 4, lane);
        } else if (product_tiles == 2) {
          BackwardProduct<Policy>::template Outer<kTiles>(product, z, args.z_pitch, g, args.g_pitch, pixels, 2, lane);
        } else if (product_tiles == 1) {
          BackwardProduct<Policy>::template Outer<kTiles>(product, z, args.z_pitch, g, args.g_pitch, pixels, 1, lane);
        }
      }
    }
    if (args.product_sums != nullptr) {
      float* const to = args.product_sums + part * args.C * args.K;
      ForEachPair(product, lane, product_tiles, Policy(), [&](int i, int column, const float* pair) {
        const int channel = product_row + Policy::Row(lane, i);
        column += product_column;
        if (channel >= args.C || column >= args.K) return;  // K is even
        *reinterpret_cast<float2*>(to + channel * args.K + column) = make_float2(pair[0], pair[1]);
      });
    }
    const int units = args.out_channels / kUnit;
    const int lanes = kBackwardStreamThreads / units;
    if (args.bias_sums != nullptr && static_cast<int>(threadIdx.x) < lanes * units) {
      DWS_UNROLL
      for (int e = 0; e < kUnit; ++e) shared.scratch[static_cast<int>(threadIdx.x) * kUnit + e] = bias[e];
    }
    // All have come to the end of the part's last step.
    SyncBlock();
    if (args.bias_sums != nullptr) {
      for (int i = threadIdx.x; i < args.K; i += kBackwardStreamThreads) {
        float sum = shared.scratch[i];
        for (int other = 1; other < lanes; ++other) sum += shared.scratch[other * args.out_channels + i];
        args.bias_sums[part * args.K + i] = sum;
      }
    }
    if (args.between_sums != nullptr) {
      for (int i = threadIdx.x; i < args.C; i += kBackwardStreamThreads) {
        float sum = shared.sums[i];
        for (int row = 1; row < pixels / kWarpRows; ++row) sum += shared.sums[row * args.channels + i];
        args.between_sums[part * args.C + i] = sum;
      }
    }
    SyncBlock();
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_BACKWARD_STREAM_KERNEL_CUH_
