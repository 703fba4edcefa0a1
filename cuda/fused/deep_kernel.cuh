// The fused kernel for layers whose filters do not fit in shared memory. A block takes a tile of output pixels,
// computes Z of all their channels, and multiplies it by P, which streams past in panels of columns:
//
//   patches of X --depthwise, mid--> Z of the tile, all channels --times P, stage by stage of a ring--> sums --> Y
//
// X is read from global memory, by the same patches as in depthwise/depthwise_kernel.cuh: what neighbours share of it
// comes from the caches. P comes from L2, once for each tile.
//
// Pixels are numbered patch by patch, those of a patch by its rows: a tile is tile_pixels of them in that order, so
// tiles are full whatever the size of an image. A patch that lies in two tiles is computed for both.
#ifndef DWSCONV_CUDA_FUSED_DEEP_KERNEL_CUH_
#define DWSCONV_CUDA_FUSED_DEEP_KERNEL_CUH_

#include <cstdint>

#include "cc/plan/cuda/tile.h"
#include "cuda/depthwise/depthwise_kernel.cuh"
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

struct DeepArgs {
  DepthwiseArgs depthwise;  // its z is not used
  const void *p, *bias;     // [C,K], [K] or null
  OutputArgs out;
  int64_t pixels, items;  // N * Ho * Wo; tiles
  int tile_pixels;        // a multiple of 32
  int image_pixels;       // Ho * Wo
  int patch_rows, patch_columns;
  int channels, out_channels;  // padded to whole stages and panels
  int z_pitch, p_pitch;
  int stage_rows;         // of P
  int column_warps_log2;  // warps of 64 columns of a panel of P
  int pieces_log2;        // 16 bytes of a row of a panel
  int ring_offset_bytes, bias_offset_bytes;
  bool p_vector;
};

// In the place of a window: any one, by plain loops; and rows that are no whole vectors, or pointers not aligned.
struct AnyWindow {
  static constexpr int kSize = 0;
};

// A tile's pixels, as numbers from the beginning of the image that has the first one.
struct DeepTile {
  int64_t image;
  int first, count;

  DWS_DEVICE DeepTile(const DeepArgs& args, int64_t item) {
    const int64_t begin = item * args.tile_pixels, left = args.pixels - begin;
    image = begin / args.image_pixels;
    first = static_cast<int>(begin - image * args.image_pixels);
    count = left < args.tile_pixels ? static_cast<int>(left) : args.tile_pixels;
  }
};

// Where a patch is: images are counted from the tile's first one.
struct DeepPatch {
  int image, row, column;  // of its first pixel
  int rows, columns;       // that are inside

  DWS_DEVICE void Cut(const DeepArgs& args) {
    const int Ho = static_cast<int>(args.depthwise.Ho), Wo = static_cast<int>(args.depthwise.Wo);
    rows = Ho - row < kPatch ? Ho - row : kPatch;
    columns = Wo - column < kPatch ? Wo - column : kPatch;
  }

  // The patch that has this pixel, and the pixel's number in it.
  DWS_DEVICE int OfPixel(const DeepArgs& args, int pixel) {
    const int Wo = static_cast<int>(args.depthwise.Wo);
    image = pixel / args.image_pixels;
    int rest = pixel - image * args.image_pixels;
    row = rest / (kPatch * Wo) * kPatch;
    rest -= row * Wo;
    column = 0;
    Cut(args);
    column = rest / (kPatch * rows) * kPatch;
    Cut(args);
    return rest - column * rows;
  }

  // The patch of this number; and its number.
  DWS_DEVICE void OfNumber(const DeepArgs& args, int number) {
    const int band = number / args.patch_columns;
    image = band / args.patch_rows;
    row = (band - image * args.patch_rows) * kPatch;
    column = (number - band * args.patch_columns) * kPatch;
    Cut(args);
  }
  DWS_DEVICE int Number(const DeepArgs& args) const {
    return (image * args.patch_rows + row / kPatch) * args.patch_columns + column / kPatch;
  }

  DWS_DEVICE int FirstPixel(const DeepArgs& args) const {
    return image * args.image_pixels + row * static_cast<int>(args.depthwise.Wo) + column * rows;
  }
};

// Z of a tile by the kernel for one window: a thread has a patch of one word of channels at a time.
template <typename T, typename Win>
DWS_DEVICE void DeepDepthwise(const DeepArgs& args, const DeepTile& tile, T* z, Win) {
  constexpr int kElements = Word<T>::kElements;
  const int words = static_cast<int>(args.depthwise.C) / kElements;
  DeepPatch patch;
  patch.OfPixel(args, tile.first + tile.count - 1);
  const int last = patch.Number(args);
  patch.OfPixel(args, tile.first);
  const int first = patch.Number(args);
  float weights[Win::kTaps][kElements];
  int word_before = -1;
  DWS_ROLLED
  for (int unit = static_cast<int>(threadIdx.x); unit < (last - first + 1) * words; unit += blockDim.x) {
    const int number = unit / words, word = unit - number * words;
    if (word != word_before) {
      LoadTaps<Win>(weights, args.depthwise.d, words, word, T());
      word_before = word;
    }
    patch.OfNumber(args, first + number);
    uint32_t z_words[kPatchPixels];
    PatchOfImage<T, Win, (Win::kIn <= 6 ? Win::kIn : 0)>(z_words, args.depthwise, weights, tile.image + patch.image,
                                                         patch.row, patch.column, word);
    const int at = patch.FirstPixel(args) - tile.first;
    T* const to = z + at * args.z_pitch + word * kElements;
    DWS_UNROLL
    for (int i = 0; i < kPatchPixels; ++i) {
      const int a = i / kPatch, b = i % kPatch, pixel = a * patch.columns + b;
      const bool inside =
          a < patch.rows && b < patch.columns && static_cast<unsigned>(at + pixel) < static_cast<unsigned>(tile.count);
      if (inside) *reinterpret_cast<uint32_t*>(to + pixel * args.z_pitch) = z_words[i];
    }
  }
}

// The same by plain loops.
template <typename T>
DWS_DEVICE void DeepDepthwise(const DeepArgs& args, const DeepTile& tile, T* z, AnyWindow) {
  const DepthwiseArgs& from = args.depthwise;
  const int channels = static_cast<int>(from.C * from.M);
  const int64_t image_elements = from.H * from.W * from.C;
  DWS_ROLLED
  for (int i = static_cast<int>(threadIdx.x); i < tile.count * channels; i += blockDim.x) {
    const int pixel = i / channels, channel = i - pixel * channels;
    DeepPatch patch;
    const int in_patch = patch.OfPixel(args, tile.first + pixel), a = in_patch / patch.columns;
    const T* const x = static_cast<const T*>(from.x) + (tile.image + patch.image) * image_elements;
    const float sum = DepthwiseSum(from, x, from.W * from.C, from.C, int64_t{1}, int64_t{patch.row} + a,
                                   int64_t{patch.column} + in_patch - a * patch.columns, int64_t{channel});
    z[pixel * args.z_pitch + channel] = Narrow<T>(Activate<T>(sum, from.mid));
  }
}

// Where Y has each pixel of a tile, in elements from its first image on; -1 past the last pixel.
DWS_DEVICE void FindPlaces(const DeepArgs& args, const DeepTile& tile, int* places) {
  for (int i = static_cast<int>(threadIdx.x); i < args.tile_pixels; i += blockDim.x) {
    DeepPatch patch;
    const int in_patch = patch.OfPixel(args, tile.first + i), a = in_patch / patch.columns;
    const int column = patch.column + in_patch - a * patch.columns;
    const int at = patch.image * args.image_pixels + (patch.row + a) * static_cast<int>(args.depthwise.Wo) + column;
    places[i] = i < tile.count ? at * args.out.channels : -1;
  }
}

// What of P is copied next: panel after panel, each from its first row on. A thread copies the same 16 bytes of every
// row that it has a part in.
template <typename T>
struct PanelCopies {
  static constexpr int kVector = 16 / sizeof(T);
  const T* from;  // the next stage's row 0, at the thread's column
  int panel = 0, depth = 0;

  DWS_DEVICE PanelCopies(const DeepArgs& args) : from(static_cast<const T*>(args.p) + Column(args)) {}

  DWS_DEVICE static int Column(const DeepArgs& args) {
    return (static_cast<int>(threadIdx.x) & ((1 << args.pieces_log2) - 1)) * kVector;
  }

  // Starts a stage, if there is one still; zeros past the last row and column.
  template <bool kPlain>
  DWS_DEVICE void Next(const DeepArgs& args, T* stage) {
    if (panel < args.out_channels) {
      const int rows = static_cast<int>(args.depthwise.C * args.depthwise.M) - depth, columns = args.out.channels;
      if (kPlain || args.p_vector) {
        const int step = static_cast<int>(blockDim.x) >> args.pieces_log2, column = Column(args);
        for (int row = static_cast<int>(threadIdx.x) >> args.pieces_log2; row < args.stage_rows; row += step) {
          CopyAsync16(stage + row * args.p_pitch + column, from + static_cast<int64_t>(row) * columns,
                      row < rows && panel + column < columns);
        }
      } else {
        const int panel_columns = kVector << args.pieces_log2;
        const T* const p = static_cast<const T*>(args.p) + static_cast<int64_t>(depth) * columns + panel;
        for (int i = static_cast<int>(threadIdx.x); i < args.stage_rows * panel_columns; i += blockDim.x) {
          const int row = i / panel_columns, column = i - row * panel_columns;
          const bool valid = row < rows && panel + column < columns;
          stage[row * args.p_pitch + column] = valid ? p[static_cast<int64_t>(row) * columns + column] : Narrow<T>(0.f);
        }
      }
      depth += args.stage_rows;
      from += static_cast<int64_t>(args.stage_rows) * columns;
      if (depth == args.channels) {
        depth = 0;
        panel += kVector << args.pieces_log2;
        from = static_cast<const T*>(args.p) + panel + Column(args);
      }
    }
    CommitCopies();
  }
};

// Warps of 32 pixels x 64 columns: as many rows of them as the tile has, and two columns of them in each group.
template <typename Policy, typename Win>
__global__ void __launch_bounds__(DeepMostThreads(Win::kSize, sizeof(typename Policy::Element)), 1)
    DeepKernel(const DeepArgs args) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  __trap();  // the planner gives such cards other kernels
#else
  using T = typename Policy::Element;
  constexpr bool kPlain = Win::kSize > 0;
  T* const z = reinterpret_cast<T*>(SharedMemory());
  T* const ring = reinterpret_cast<T*>(SharedMemory() + args.ring_offset_bytes);
  float* const bias = reinterpret_cast<float*>(SharedMemory() + args.bias_offset_bytes);
  int* const places = reinterpret_cast<int*>(bias + args.out_channels);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row_of_warp = (warp >> args.column_warps_log2) * kWarpRows;
  const int column_of_warp = (warp & ((1 << args.column_warps_log2) - 1)) * kTiles * kTileColumns;
  const int stage_elements = args.stage_rows * args.p_pitch, ring_elements = kDeepStages * stage_elements;
  LoadBias<T>(bias, args.bias, args.out.channels, args.out_channels);
  // Past the last channel Z is multiplied by zeros, but must be a number.
  const int padding = args.channels - static_cast<int>(args.depthwise.C * args.depthwise.M);
  for (int i = static_cast<int>(threadIdx.x); i < args.tile_pixels * padding; i += blockDim.x) {
    const int row = i / padding;
    z[row * args.z_pitch + args.channels - 1 - (i - row * padding)] = Narrow<T>(0.f);
  }
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    const DeepTile tile(args, item);
    PanelCopies<T> copies(args);
    DWS_ROLLED
    for (int i = 0; i < kDeepStages - 1; ++i) copies.template Next<kPlain>(args, ring + i * stage_elements);
    FindPlaces(args, tile, places);
    DeepDepthwise<T>(args, tile, z, Win());
    OutputArgs out = args.out;
    const int64_t image = tile.image * args.image_pixels * out.channels;
    out.y = static_cast<T*>(out.y) + image;
    if (out.residual != nullptr) out.residual = static_cast<const T*>(out.residual) + image;
    int stage = 0, next = (kDeepStages - 1) * stage_elements;
    DWS_ROLLED
    for (int first_column = column_of_warp; first_column - column_of_warp < args.out_channels;
         first_column += kTiles * kTileColumns << args.column_warps_log2) {
      const int left = (out.channels - first_column + kTileColumns - 1) / kTileColumns;
      const int tiles = row_of_warp >= tile.count || left < 0 ? 0 : left < kTiles ? left : kTiles;
      Sums sums;
      ClearSums(sums);
      DWS_ROLLED
      for (int depth = 0; depth < args.channels; depth += args.stage_rows) {
        WaitForCopies<kDeepStages - 2>();
        // This stage has come for all, and at first Z is whole; all have finished with the stage that is loaded next.
        SyncBlock();
        copies.template Next<kPlain>(args, ring + next);
        if (tiles > 0) {
          Policy::Multiply(sums, z + row_of_warp * args.z_pitch + depth, args.z_pitch, ring + stage + column_of_warp,
                           args.p_pitch, args.stage_rows, kTiles, lane);
        }
        stage = stage + stage_elements == ring_elements ? 0 : stage + stage_elements;
        next = next + stage_elements == ring_elements ? 0 : next + stage_elements;
      }
      if (tiles == 0) continue;
      int rows[Policy::kRows];
      DWS_UNROLL
      for (int i = 0; i < Policy::kRows; ++i) rows[i] = places[row_of_warp + Policy::Row(lane, i)];
      StoreTile<Policy, kPlain>(sums, lane, tiles, first_column, rows, bias, out);
    }
    // The next tile writes into Z, the places and the ring.
    SyncBlock();
  }
#endif
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_FUSED_DEEP_KERNEL_CUH_
