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

namespace dwsconv {
namespace cuda {

// A block's tile: 8 warps, 4 by 2, of 32 x 64.
constexpr int kBlockProductThreads = 256;
constexpr int kBlockProductRows = 128;
constexpr int kBlockProductColumns = 128;
constexpr int kBlockProductStages = 4;

// Where the window of one row of the tile (an output pixel) begins: `row` is far outside for rows past the last pixel.
struct BlockProductPlace {
  int64_t image;  // the first pixel of X's image
  int row, column;
};
constexpr int kFarOutside = -(1 << 30);

template <typename T>
struct BlockProductSizes {
  static constexpr int kVector = 16 / sizeof(T);
  static constexpr int kDepth = 64 / sizeof(T);  // of the sum, of a stage: 64 bytes
  static constexpr int kPieces = kDepth / kVector;
  static constexpr int kZPitch = kDepth + kVector;
  static constexpr int kPPitch = kBlockProductColumns + 8;
  static constexpr int kZElements = kBlockProductRows * kZPitch;
  static constexpr int kStageElements = kZElements + kDepth * kPPitch;
  static constexpr int64_t kStagesBytes = int64_t{kBlockProductStages} * kStageElements * sizeof(T);
  static constexpr int64_t kBiasBytes = kBlockProductColumns * sizeof(float);
  static constexpr int64_t SharedBytes(bool window) {
    return kStagesBytes + kBiasBytes + (window ? kBlockProductRows * sizeof(BlockProductPlace) : 0);
  }
};

struct BlockProductArgs {
  const void *x, *p, *bias;  // [N,H,W,C], [R*S*C,K], [K] or null
  const void* gate;          // [N,C]; null for a window
  OutputArgs out;
  int64_t pixels, row_tiles, items;  // items: row_tiles * tiles of columns
  int64_t image_pixels;              // Ho * Wo
  int channels, depth;               // C, and R*S*C
  int H, W, S, Wo, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;  // of a window
  // Whole 16-byte vectors in a row of X (and of the factors) and of P, and pointers aligned to them.
  bool x_vector, p_vector;
};

template <typename T>
DWS_DEVICE void LoadColumns(const BlockProductArgs& args, T* stage, int first_column, int first, bool vector) {
  using Sizes = BlockProductSizes<T>;
  constexpr int kPieces = kBlockProductColumns / Sizes::kVector;
  const T* const p = static_cast<const T*>(args.p) + static_cast<int64_t>(first) * args.out.channels + first_column;
  const int left = args.depth - first, columns = args.out.channels - first_column;
  if (vector) {
    DWS_UNROLL
    for (int i = 0; i < Sizes::kDepth * kPieces / kBlockProductThreads; ++i) {
      const int piece = i * kBlockProductThreads + threadIdx.x;
      const int row = piece / kPieces, column = piece % kPieces * Sizes::kVector;
      const bool valid = row < left && column < columns;
      CopyAsync16(stage + row * Sizes::kPPitch + column,
                  valid ? p + static_cast<int64_t>(row) * args.out.channels + column : args.p, valid);
    }
  } else {
    for (int i = threadIdx.x; i < Sizes::kDepth * kBlockProductColumns; i += kBlockProductThreads) {
      const int row = i / kBlockProductColumns, column = i % kBlockProductColumns;
      const bool valid = row < left && column < columns;
      stage[row * Sizes::kPPitch + column] =
          valid ? p[static_cast<int64_t>(row) * args.out.channels + column] : Narrow<T>(0.f);
    }
  }
}

// X times the factors. A thread multiplies what it has copied itself, which it may read without a barrier.
template <typename T>
struct GatedRows {
  using Sizes = BlockProductSizes<T>;
  static constexpr bool kWindow = false;
  static constexpr int kCopies = kBlockProductRows * Sizes::kPieces / kBlockProductThreads;
  int64_t gate_at[kCopies];  // the factors of this thread's rows, or -1 past the last pixel

  DWS_DEVICE void Begin(const BlockProductArgs& args, BlockProductPlace* places, int64_t first_pixel) {
    (void)places;
    DWS_UNROLL
    for (int i = 0; i < kCopies; ++i) {
      const int64_t pixel = first_pixel + (i * kBlockProductThreads + threadIdx.x) / Sizes::kPieces;
      gate_at[i] = pixel < args.pixels ? pixel / args.image_pixels * args.channels : -1;
    }
  }

  DWS_DEVICE void Load(const BlockProductArgs& args, const BlockProductPlace* places, T* stage, int64_t first_pixel,
                       int first, bool vector) const {
    (void)places;
    const T* const x = static_cast<const T*>(args.x);
    const int left = args.depth - first;
    if (vector) {
      DWS_UNROLL
      for (int i = 0; i < kCopies; ++i) {
        const int piece = i * kBlockProductThreads + threadIdx.x;
        const int row = piece / Sizes::kPieces, column = piece % Sizes::kPieces * Sizes::kVector;
        const bool valid = gate_at[i] >= 0 && column < left;
        CopyAsync16(stage + row * Sizes::kZPitch + column,
                    valid ? x + (first_pixel + row) * args.channels + first + column : x, valid);
      }
      return;
    }
    const T* const gate = static_cast<const T*>(args.gate);
    for (int i = threadIdx.x; i < kBlockProductRows * Sizes::kDepth; i += kBlockProductThreads) {
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
      const int piece = i * kBlockProductThreads + threadIdx.x;
      const int row = piece / Sizes::kPieces, column = piece % Sizes::kPieces * Sizes::kVector;
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
  using Sizes = BlockProductSizes<T>;
  static constexpr bool kWindow = true;

  DWS_DEVICE void Begin(const BlockProductArgs& args, BlockProductPlace* places, int64_t first_pixel) const {
    for (int i = threadIdx.x; i < kBlockProductRows; i += kBlockProductThreads) {
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
    for (int row = static_cast<int>(threadIdx.x) / columns; row < kBlockProductRows;
         row += kBlockProductThreads / columns) {
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

// kPlain: rows of X, P and Y are whole vectors, and the activation is a clamp.
template <typename Policy, template <typename> class Rows, bool kPlain>
__global__ void __launch_bounds__(kBlockProductThreads, BlockProductBlocks<Policy, kPlain>())
    BlockProductKernel(const BlockProductArgs args) {
  using T = typename Policy::Element;
  using Sizes = BlockProductSizes<T>;
  T* const shared = reinterpret_cast<T*>(SharedMemory());
  float* const bias = reinterpret_cast<float*>(SharedMemory() + Sizes::kStagesBytes);
  BlockProductPlace* const places =
      reinterpret_cast<BlockProductPlace*>(SharedMemory() + Sizes::kStagesBytes + Sizes::kBiasBytes);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row_of_warp = warp / 2 * kWarpRows, column_of_warp = warp % 2 * kTiles * kTileColumns;
  const int steps = (args.depth + Sizes::kDepth - 1) / Sizes::kDepth;
  const bool x_vector = kPlain || args.x_vector, p_vector = kPlain || args.p_vector;
  Rows<T> rows_of_z;
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    // Blocks that run together read the same columns of P.
    const int64_t first_pixel = item % args.row_tiles * kBlockProductRows;
    const int first_column = static_cast<int>(item / args.row_tiles) * kBlockProductColumns;
    const auto load = [&](T* stage, int first) {
      rows_of_z.Load(args, places, stage, first_pixel, first, x_vector);
      LoadColumns(args, stage + Sizes::kZElements, first_column, first, p_vector);
    };
    rows_of_z.Begin(args, places, first_pixel);
    for (int i = threadIdx.x; i < kBlockProductColumns; i += kBlockProductThreads) {
      const bool there = args.bias != nullptr && first_column + i < args.out.channels;
      bias[i] = there ? Widen(static_cast<const T*>(args.bias)[first_column + i]) : 0.f;
    }
    for (int step = 0; step < kBlockProductStages - 1; ++step) {
      if (step < steps) load(shared + step * Sizes::kStageElements, step * Sizes::kDepth);
      CommitCopies();
    }
    const int left = (args.out.channels - first_column - column_of_warp + kTileColumns - 1) / kTileColumns;
    const int tiles = left < 0 ? 0 : left < kTiles ? left : kTiles;
    Sums sums;
    ClearSums(sums);
    int stage = 0, next = kBlockProductStages - 1;
    for (int step = 0; step < steps; ++step) {
      T* const z = shared + stage * Sizes::kStageElements;
      WaitForCopies<kBlockProductStages - 2>();
      rows_of_z.Finish(args, z, step * Sizes::kDepth, x_vector);
      // This stage has come for all, and all have finished with the one that is loaded next.
      SyncBlock();
      if (step + kBlockProductStages - 1 < steps) {
        load(shared + next * Sizes::kStageElements, (step + kBlockProductStages - 1) * Sizes::kDepth);
      }
      CommitCopies();
      Policy::Multiply(sums, z + row_of_warp * Sizes::kZPitch, Sizes::kZPitch, z + Sizes::kZElements + column_of_warp,
                       Sizes::kPPitch, Sizes::kDepth, tiles, lane);
      stage = stage + 1 == kBlockProductStages ? 0 : stage + 1;
      next = next + 1 == kBlockProductStages ? 0 : next + 1;
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
