// The block's products that make what they multiply as they load it: Y = out(Z P + bias + residual), where Z is X times
// the factors of its image, or what lies under the windows of a dense convolution.
#ifndef DWSCONV_CUDA_PRODUCT_BLOCK_PRODUCT_KERNEL_CUH_
#define DWSCONV_CUDA_PRODUCT_BLOCK_PRODUCT_KERNEL_CUH_

#include <cstdint>
#include <type_traits>

#include "cuda/device/async_copy.cuh"
#include "cuda/device/fragments.cuh"
#include "cuda/device/platform.cuh"
#include "cuda/device/store_tile.cuh"
#include "cuda/product/stages.cuh"

namespace dwsconv {
namespace cuda {

// Where the window of one row of the tile (an output pixel) begins: `row` is far outside for rows past the last pixel.
struct BlockProductPlace {
  int64_t image;  // the first pixel of X's image
  int row, column;
};
constexpr int kFarOutside = -(1 << 30);

static_assert(ProductSharedBytes(1, true) - ProductSharedBytes(1, false) == kProductTile * sizeof(BlockProductPlace),
              "the planner asks for these");

struct BlockProductArgs {
  const void *x, *p, *bias;  // [N,H,W,C], [R*S*C,K], [K] or null
  const void* gate;          // [N,C]; null for a window
  OutputArgs out;
  int64_t pixels, column_tiles, items;  // items: tiles of rows * column_tiles
  int64_t image_pixels;                 // Ho * Wo
  int channels, depth;                  // C, and R*S*C
  int H, W, S, Wo, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;  // of a window
  // Whole 16-byte vectors in a row of X (and of the factors) and of P, and pointers aligned to them.
  bool x_vector, p_vector;
};

// X times the factors. A thread multiplies what it has copied itself, which it may read without a barrier.
template <typename T>
struct GatedRows {
  using Sizes = ProductSizes<T>;
  static constexpr bool kWindow = false;
  static constexpr int kCopies = Sizes::kZCopies;
  RowCopies<T> copies;
  int64_t gate_at[kCopies];  // the factors of this thread's rows, or -1 past the last pixel

  DWS_DEVICE void Begin(const BlockProductArgs& args, BlockProductPlace* places, int64_t first_pixel) {
    (void)places;
    copies.Begin(args.x, args.pixels, args.channels, first_pixel);
    DWS_UNROLL
    for (int i = 0; i < kCopies; ++i) {
      const int64_t pixel = first_pixel + (i * kProductThreads + threadIdx.x) / Sizes::kZPieces;
      gate_at[i] = pixel < args.pixels ? pixel / args.image_pixels * args.channels : -1;
    }
  }

  DWS_DEVICE void Load(const BlockProductArgs& args, const BlockProductPlace* places, T* stage, int64_t first_pixel,
                       int first, bool vector) {
    (void)places;
    if (vector) {
      copies.Next(stage, args.channels);
      return;
    }
    const T* const x = static_cast<const T*>(args.x);
    const int left = args.depth - first;
    const T* const gate = static_cast<const T*>(args.gate);
    for (int i = threadIdx.x; i < kProductTile * Sizes::kDepth; i += kProductThreads) {
      const int row = i / Sizes::kDepth, column = i % Sizes::kDepth;
      const int64_t pixel = first_pixel + row;
      float value = 0.f;
      if (pixel < args.pixels && column < left) {
        value = Widen(x[pixel * args.channels + first + column]) *
                Widen(gate[pixel / args.image_pixels * args.channels + first + column]);
      }
      stage[row * Sizes::kZPitch + column] = Narrow<T>(value);
    }
  }

  DWS_DEVICE void Finish(const BlockProductArgs& args, T* stage, int first, bool vector) const {
    if (!vector) return;
    DWS_UNROLL
    for (int i = 0; i < kCopies; ++i) {
      const int piece = i * kProductThreads + threadIdx.x;
      const int row = piece / Sizes::kZPieces, column = piece % Sizes::kZPieces * Sizes::kVector;
      if (gate_at[i] < 0 || column >= args.depth - first) continue;
      uint4* const at = reinterpret_cast<uint4*>(stage + row * Sizes::kZPitch + column);
      const uint4 factors =
          *reinterpret_cast<const uint4*>(static_cast<const T*>(args.gate) + gate_at[i] + first + column);
      uint4 x = *at;
      x.x = Times(x.x, factors.x);
      x.y = Times(x.y, factors.y);
      x.z = Times(x.z, factors.z);
      x.w = Times(x.w, factors.w);
      *at = x;
    }
  }

  DWS_DEVICE static uint32_t Times(uint32_t a, uint32_t b) {
    float left[Word<T>::kElements], right[Word<T>::kElements];
    WidenWord(a, left, T());
    WidenWord(b, right, T());
    DWS_UNROLL
    for (int e = 0; e < Word<T>::kElements; ++e) left[e] *= right[e];
    return NarrowWord(left, T());
  }
};

// What lies under the windows, zeros outside the image.
template <typename T>
struct WindowRows {
  using Sizes = ProductSizes<T>;
  static constexpr bool kWindow = true;

  DWS_DEVICE void Begin(const BlockProductArgs& args, BlockProductPlace* places, int64_t first_pixel) const {
    for (int i = threadIdx.x; i < kProductTile; i += kProductThreads) {
      const int64_t pixel = first_pixel + i, image = pixel / args.image_pixels;
      const int at = static_cast<int>(pixel - image * args.image_pixels);
      const int row = at / args.Wo, column = at - row * args.Wo;
      const bool there = pixel < args.pixels;
      places[i].image = there ? image * args.H * args.W : 0;
      places[i].row = there ? row * args.stride_h - args.pad_top : kFarOutside;
      places[i].column = column * args.stride_w - args.pad_left;
    }
    // All of them are read by all.
    SyncBlock();
  }

  DWS_DEVICE void Load(const BlockProductArgs& args, const BlockProductPlace* places, T* stage, int64_t first_pixel,
                       int first, bool vector) const {
    (void)first_pixel;
    // A thread's elements are all of one column, so of one tap.
    const int width = vector ? Sizes::kVector : 1, columns = Sizes::kDepth / width;
    const int column = static_cast<int>(threadIdx.x) % columns * width;
    const int at = first + column, tap = at / args.channels, channel = at - tap * args.channels;
    const int r = tap / args.S, s = tap - r * args.S;
    const T* const x = static_cast<const T*>(args.x);
    for (int row = static_cast<int>(threadIdx.x) / columns; row < kProductTile; row += kProductThreads / columns) {
      const BlockProductPlace place = places[row];
      const int in_row = place.row + r * args.dilation_h, in_column = place.column + s * args.dilation_w;
      const bool valid = at < args.depth && in_row >= 0 && in_row < args.H && in_column >= 0 && in_column < args.W;
      const T* const from =
          valid ? x + (place.image + static_cast<int64_t>(in_row) * args.W + in_column) * args.channels + channel : x;
      T* const to = stage + row * Sizes::kZPitch + column;
      if (vector) {
        CopyAsync16(to, from, valid);
      } else {
        *to = valid ? *from : Narrow<T>(0.f);
      }
    }
  }

  DWS_DEVICE void Finish(const BlockProductArgs& args, T* stage, int first, bool vector) const {
    (void)args, (void)stage, (void)first, (void)vector;
  }
};

// Blocks of a multiprocessor that registers suffice for.
template <typename Policy, bool kPlain>
constexpr int BlockProductBlocks() {
  return kPlain && !std::is_same<Policy, ExactFloat>::value ? 2 : 1;
}

// kPlain: rows of X, P and Y are whole vectors.
template <typename Policy, template <typename> class Rows, bool kPlain>
__global__ void __launch_bounds__(kProductThreads, BlockProductBlocks<Policy, kPlain>())
    BlockProductKernel(const BlockProductArgs args) {
  using T = typename Policy::Element;
  using Sizes = ProductSizes<T>;
  const int stages = RingStages(), ring = stages * Sizes::kStageElements;
  T* const shared = reinterpret_cast<T*>(SharedMemory());
  float* const bias = reinterpret_cast<float*>(shared + ring);
  BlockProductPlace* const places = reinterpret_cast<BlockProductPlace*>(bias + kProductTile);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row_of_warp = warp / 2 * kWarpRows, column_of_warp = warp % 2 * kTiles * kTileColumns;
  const int steps = (args.depth + Sizes::kDepth - 1) / Sizes::kDepth;
  const bool x_vector = kPlain || args.x_vector, p_vector = kPlain || args.p_vector;
  Rows<T> rows_of_z;
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    // Blocks that run together read the same pixels, which are more than P: that stays in L2.
    const int64_t row_tile = item / args.column_tiles, first_pixel = row_tile * kProductTile;
    const int first_column = static_cast<int>(item - row_tile * args.column_tiles) * kProductTile;
    ColumnCopies<T> p_copies;
    p_copies.Begin(args.p, args.depth, args.out.channels, first_column);
    const auto load = [&](T* stage, int first) {
      rows_of_z.Load(args, places, stage, first_pixel, first, x_vector);
      if (p_vector) {
        p_copies.Next(stage, args.out.channels);
      } else {
        ColumnCopies<T>::Load(stage, args.p, args.depth, args.out.channels, first_column, first);
      }
    };
    rows_of_z.Begin(args, places, first_pixel);
    LoadTileBias<T>(bias, args.bias, args.out.channels, first_column);
    for (int step = 0; step < stages - 1; ++step) {
      if (step < steps) load(shared + step * Sizes::kStageElements, step * Sizes::kDepth);
      CommitCopies();
    }
    const int left = (args.out.channels - first_column - column_of_warp + kTileColumns - 1) / kTileColumns;
    const int tiles = left < 0 ? 0 : left < kTiles ? left : kTiles;
    Sums sums;
    ClearSums(sums);
    int stage = 0, next = (stages - 1) * Sizes::kStageElements;
    for (int step = 0; step < steps; ++step) {
      T* const z = shared + stage;
      WaitForStage(stages);
      rows_of_z.Finish(args, z, step * Sizes::kDepth, x_vector);
      // This stage has come for all, and all have finished with the one that is loaded next.
      SyncBlock();
      if (step + stages - 1 < steps) load(shared + next, (step + stages - 1) * Sizes::kDepth);
      CommitCopies();
      Policy::Multiply(sums, z + row_of_warp * Sizes::kZPitch, Sizes::kZPitch, z + Sizes::kZElements + column_of_warp,
                       Sizes::kPPitch, Sizes::kDepth, tiles, lane);
      stage = stage + Sizes::kStageElements == ring ? 0 : stage + Sizes::kStageElements;
      next = next + Sizes::kStageElements == ring ? 0 : next + Sizes::kStageElements;
    }
    int rows[Policy::kRows];
    DWS_UNROLL
    for (int i = 0; i < Policy::kRows; ++i) {
      const int row = row_of_warp + Policy::Row(lane, i);
      rows[i] = first_pixel + row < args.pixels ? row * args.out.channels : -1;
    }
    OutputArgs out = args.out;
    const int64_t first = first_pixel * out.channels + first_column;
    out.y = static_cast<T*>(out.y) + first;
    if (out.residual != nullptr) out.residual = static_cast<const T*>(out.residual) + first;
    out.channels -= first_column;
    StoreTile<Policy, kPlain>(sums, lane, tiles, column_of_warp, rows, bias, out);
    // The next item writes into stages, places and the bias.
    SyncBlock();
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_PRODUCT_BLOCK_PRODUCT_KERNEL_CUH_
