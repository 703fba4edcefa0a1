// The depthwise half alone: Z = mid(depthwise(X) + bias) in global memory, as the first of two steps.
#ifndef DWSCONV_CUDA_DEPTHWISE_DEPTHWISE_KERNEL_CUH_
#define DWSCONV_CUDA_DEPTHWISE_DEPTHWISE_KERNEL_CUH_

#include <cstdint>

#include "cuda/depthwise/patch.cuh"
#include "cuda/device/activation.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

constexpr int kDepthwiseThreads = 128;

// Blocks that a multiprocessor must have registers for, or 0 where the compiler chooses.
template <typename Win>
constexpr int kDepthwiseBlocks = Win::kIn <= 6 ? 4 : 0;

// Rows of a patch at an image's edge that are under way at a time; 0: one, in pieces.
template <typename Win>
constexpr int kDepthwiseAhead = Win::kSize == 3   ? (Win::kStride == 1 ? 6 : 3)
                                : Win::kSize == 5 ? 2
                                                  : 0;

struct DepthwiseArgs {
  const void *x, *d, *bias;  // [N,H,W,C], [R,S,C,M], [C*M] or null
  void* z;                   // [N,Ho,Wo,C*M]
  DeviceActivation mid;
  int64_t N, H, W, C, M, R, S, Ho, Wo;
  int64_t stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  int64_t items;
};

// Z of one patch for one word of channels, from X in global memory. M = 1, and channels are whole words. kAhead rows
// are under way at a time at the image's edges, which takes registers; 0: one, in pieces.
template <typename T, typename Win, int kAhead>
DWS_DEVICE void PatchOfImage(uint32_t (&z_words)[kPatchPixels], const DepthwiseArgs& args,
                             const float (&weights)[Win::kTaps][Word<T>::kElements], int64_t image, int row, int column,
                             int word) {
  constexpr int kElements = Word<T>::kElements;
  const int words = static_cast<int>(args.C) / kElements;
  const int H = static_cast<int>(args.H), W = static_cast<int>(args.W);
  const int in_row = row * Win::kStride - static_cast<int>(args.pad_top);
  const int in_column = column * Win::kStride - static_cast<int>(args.pad_left);
  PatchSums<T> sums;
  float bias[kElements];
  DWS_UNROLL
  for (int e = 0; e < kElements; ++e) {
    bias[e] = args.bias == nullptr ? 0.f : Widen(static_cast<const T*>(args.bias)[word * kElements + e]);
  }
  DWS_UNROLL
  for (int i = 0; i < kPatchPixels * kElements; ++i) (&sums[0][0])[i] = bias[i % kElements];
  struct Load {
    const uint32_t* x;
    int64_t row_words;
    int words;
    DWS_DEVICE const uint32_t* operator()(int j) const { return x + j * row_words; }
    DWS_DEVICE uint32_t operator()(const uint32_t* from, int i) const { return from[i * words]; }
  };
  const int64_t row_words = static_cast<int64_t>(W) * words;
  const uint32_t* const x = static_cast<const uint32_t*>(args.x) + image * H * row_words + in_row * row_words +
                            static_cast<int64_t>(in_column) * words + word;
  const uint32_t rows = InsideMask(in_row, H, Win::kIn), columns = InsideMask(in_column, W, Win::kIn);
  // A patch inside the image has a path without branches, where that does not make the compiler load ahead more than
  // there are registers for.
  constexpr uint32_t kAll = (1u << Win::kIn) - 1u;
  if (Win::kIn <= 6 && rows == kAll && columns == kAll) {
    SumPatch<T, Win>(sums, weights, kAllInside, kAllInside, Load{x, row_words, words});
  } else if constexpr (kAhead > 0) {
    SumPatchAhead<T, Win, kAhead>(sums, weights, rows, columns, Load{x, row_words, words});
  } else {
    SumPatch<T, Win>(sums, weights, rows, columns, Load{x, row_words, words});
  }
  PatchWords<T>(z_words, sums, args.mid);
}

// A kernel for one window, M = 1, and channels in whole words. A thread has a patch of outputs of one word; the units
// (word, patch of a row of patches) of a row of patches are dealt to blocks.
template <typename T, typename Win>
__global__ void __launch_bounds__(kDepthwiseThreads, kDepthwiseBlocks<Win>) DepthwiseKernel(const DepthwiseArgs args) {
  constexpr int kElements = Word<T>::kElements;
  const int words = static_cast<int>(args.C) / kElements;
  const int Ho = static_cast<int>(args.Ho), Wo = static_cast<int>(args.Wo);
  const int units = words * ((Wo + kPatch - 1) / kPatch);
  const int blocks_of_row = (units + kDepthwiseThreads - 1) / kDepthwiseThreads;
  const int patch_rows = (Ho + kPatch - 1) / kPatch;
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    const int unit = static_cast<int>(item % blocks_of_row) * kDepthwiseThreads + static_cast<int>(threadIdx.x);
    if (unit >= units) continue;
    const int64_t rest = item / blocks_of_row;
    const int row = static_cast<int>(rest % patch_rows) * kPatch;
    const int64_t image = rest / patch_rows;
    const int patch = unit / words, word = unit - patch * words, column = patch * kPatch;
    float weights[Win::kTaps][kElements];
    LoadTaps<Win>(weights, args.d, words, word, T());
    uint32_t z_words[kPatchPixels];
    PatchOfImage<T, Win, kDepthwiseAhead<Win>>(z_words, args, weights, image, row, column, word);
    uint32_t* const z = static_cast<uint32_t*>(args.z) + ((image * Ho + row) * Wo + column) * words + word;
    DWS_UNROLL
    for (int a = 0; a < kPatch; ++a) {
      DWS_UNROLL
      for (int b = 0; b < kPatch; ++b) {
        if (row + a < Ho && column + b < Wo) z[(static_cast<int64_t>(a) * Wo + b) * words] = z_words[a * kPatch + b];
      }
    }
  }
}

// The depthwise sum of one output, before its activation: any window, stride, dilation and multiplier, X of any layout.
template <typename T>
DWS_DEVICE float DepthwiseSum(const DepthwiseArgs& args, const T* image, int64_t row_step, int64_t column_step,
                              int64_t channel_step, int64_t row, int64_t column, int64_t cm) {
  const int64_t c = cm / args.M;
  float sum = args.bias == nullptr ? 0.f : Widen(static_cast<const T*>(args.bias)[cm]);
  const T* const filter = static_cast<const T*>(args.d) + cm;
  const int64_t CM = args.C * args.M;
  for (int64_t r = 0; r < args.R; ++r) {
    const int64_t y = row * args.stride_h - args.pad_top + r * args.dilation_h;
    if (y < 0 || y >= args.H) continue;
    for (int64_t s = 0; s < args.S; ++s) {
      const int64_t x = column * args.stride_w - args.pad_left + s * args.dilation_w;
      if (x < 0 || x >= args.W) continue;
      sum = fmaf(Widen(image[y * row_step + x * column_step + c * channel_step]), Widen(filter[(r * args.S + s) * CM]),
                 sum);
    }
  }
  return sum;
}

// The general kernel: an output a thread.
template <typename T>
__global__ void __launch_bounds__(kDepthwiseThreads) DepthwiseGeneralKernel(const DepthwiseArgs args) {
  const int64_t CM = args.C * args.M;
  const int64_t outputs = args.N * args.Ho * args.Wo * CM;
  const int64_t together = static_cast<int64_t>(gridDim.x) * kDepthwiseThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kDepthwiseThreads + threadIdx.x; i < outputs; i += together) {
    const int64_t pixel = i / CM, cm = i % CM;
    const int64_t column = pixel % args.Wo, row = pixel / args.Wo % args.Ho, image = pixel / args.Wo / args.Ho;
    const T* const x = static_cast<const T*>(args.x) + image * args.H * args.W * args.C;
    const float sum = DepthwiseSum(args, x, args.W * args.C, args.C, int64_t{1}, row, column, cm);
    static_cast<T*>(args.z)[i] = Narrow<T>(Activate<T>(sum, args.mid));
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEPTHWISE_DEPTHWISE_KERNEL_CUH_
