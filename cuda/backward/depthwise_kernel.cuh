// The gradients of the depthwise half: dX and the first stage of dD, from X and dZ in one pass.
#ifndef DWSCONV_CUDA_BACKWARD_DEPTHWISE_KERNEL_CUH_
#define DWSCONV_CUDA_BACKWARD_DEPTHWISE_KERNEL_CUH_

#include <cstdint>
#include <type_traits>

#include "cc/plan/cuda/tile.h"
#include "cuda/backward/fragments.cuh"
#include "cuda/depthwise/patch.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

constexpr int kDepthwiseGradientThreads = 128;

struct DepthwiseGradientArgs {
  const void *x, *dz, *d;  // [N,H,W,C], [N,Ho,Wo,C], [R,S,C]
  void* dx;                // [N,H,W,C], or null
  float* sums;             // [parts,R,S,C], or null
  int H, W, C, Ho, Wo, pad_top, pad_left;
  int group_words, groups;
  int patch_rows, patch_columns;  // of an image
  int64_t patches, part_patches;  // of all images, and of a part
  int64_t items;                  // parts * groups
  // What the kernel would otherwise keep in registers.
  int words;                          // of a pixel
  int64_t x_row_words, dz_row_words;  // of a row of X; of dZ
};

// A patch of dX, kPatch x kPatch pixels of which the first has a tap of dZ, and the dZ that it reads.
template <typename Win>
struct GradientPatch {
  static constexpr int kStride = Win::kStride, kSize = Win::kSize;
  static constexpr int kAbove = (kSize - 1) / kStride;             // rows of dZ before the first pixel's own
  static constexpr int kIn = kAbove + (kPatch - 1) / kStride + 1;  // rows of dZ that a patch reads
  // Which row of the filter joins row a of the patch and row j of its dZ; outside [0, kSize): none.
  DWS_DEVICE static constexpr int Tap(int a, int j) { return a - kStride * (j - kAbove); }
};

// Blocks of a multiprocessor that there are to be registers for. bfloat16 spills with four, float16 does not.
template <typename T, typename Win>
constexpr int DepthwiseGradientBlocks() {
  constexpr bool kFour = Win::kStride == 1 && !std::is_same<T, BFloat16>::value;
  return ResidentBlocks(sizeof(T) == 4 ? 4 : Win::kSize > 3 ? 2 : kFour ? 4 : 3);
}

// A kernel for one window, M = 1, and channels in whole words. A thread has one word of channels; each element of dZ
// that it loads serves all the pixels of dX and all the taps that it meets within a patch. kInput: dX is wanted or not,
// but computed. kFilter: the same of dD.
template <typename T, typename Win, bool kInput, bool kFilter>
__global__ void __launch_bounds__(kDepthwiseGradientThreads, DepthwiseGradientBlocks<T, Win>())
    DepthwiseGradientKernel(const DepthwiseGradientArgs args) {
  using Patch = GradientPatch<Win>;
  constexpr int kElements = Word<T>::kElements;
  float* const shared = reinterpret_cast<float*>(SharedMemory());  // [lanes][taps][group_words * kElements]
  const int lanes = kDepthwiseGradientThreads / args.group_words;
  const int lane = static_cast<int>(threadIdx.x) / args.group_words;
  const int word_of_group = static_cast<int>(threadIdx.x) - lane * args.group_words;
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    const int group = static_cast<int>(item % args.groups);
    const int64_t part = item / args.groups;
    const int word = group * args.group_words + word_of_group;
    const bool active = lane < lanes && word < args.words;
    float weights[kInput ? Win::kTaps : 1][kElements], taps[kFilter ? Win::kTaps : 1][kElements];
    DWS_UNROLL
    for (int tap = 0; tap < Win::kTaps; ++tap) {
      if (kInput && active) {
        WidenWord(static_cast<const uint32_t*>(args.d)[tap * args.words + word], weights[kInput ? tap : 0], T());
      }
      DWS_UNROLL
      for (int e = 0; e < kElements; ++e) taps[kFilter ? tap : 0][e] = 0.f;
    }
    const int64_t begin = part * args.part_patches;
    const int64_t end = begin + args.part_patches < args.patches ? begin + args.part_patches : args.patches;
    for (int64_t patch = begin + lane; active && patch < end; patch += lanes) {
      const int column = static_cast<int>(patch % args.patch_columns) * kPatch - args.pad_left % Win::kStride;
      const int64_t rest = patch / args.patch_columns;
      const int row = static_cast<int>(rest % args.patch_rows) * kPatch - args.pad_top % Win::kStride;
      const int64_t image = rest / args.patch_rows;
      const uint32_t rows = InsideMask(row, args.H, kPatch), columns = InsideMask(column, args.W, kPatch);
      const int64_t x_at =
          image * args.H * args.x_row_words + row * args.x_row_words + static_cast<int64_t>(column) * args.words + word;
      float x[kFilter ? kPatchPixels : 1][kElements], sums[kInput ? kPatchPixels : 1][kElements];
      DWS_UNROLL
      for (int i = 0; i < kPatchPixels * kElements; ++i) sums[kInput ? i / kElements : 0][i % kElements] = 0.f;
      if (kFilter) {
        uint32_t x_words[kPatchPixels];
        DWS_UNROLL
        for (int i = 0; i < kPatchPixels; ++i) {
          const int a = i / kPatch, b = i % kPatch;
          const uint32_t* const from =
              static_cast<const uint32_t*>(args.x) + x_at + a * args.x_row_words + b * args.words;
          x_words[i] = ((rows >> a) & (columns >> b) & 1u) != 0 ? *from : 0u;
        }
        DWS_UNROLL
        for (int i = 0; i < kPatchPixels; ++i) WidenWord(x_words[i], x[kFilter ? i : 0], T());
      }
      // The first row of dZ that the patch reads, and the first column.
      const int top = (row + args.pad_top) / Win::kStride - Patch::kAbove;
      const int left = (column + args.pad_left) / Win::kStride - Patch::kAbove;
      const uint32_t dz_rows = InsideMask(top, args.Ho, Patch::kIn), dz_columns = InsideMask(left, args.Wo, Patch::kIn);
      const uint32_t* const dz = static_cast<const uint32_t*>(args.dz) + image * args.Ho * args.dz_row_words +
                                 top * args.dz_row_words + static_cast<int64_t>(left) * args.words + word;
      // Half a row at a time where there are no registers for a whole one.
      constexpr int kParts = Patch::kIn % 2 == 0 ? 2 : 1, kTogether = Patch::kIn / kParts;
      DWS_UNROLL
      for (int half_row = 0; half_row < Patch::kIn * kParts; ++half_row) {
        const int j = half_row / kParts, first = half_row % kParts * kTogether;
        if (((dz_rows >> j) & 1u) == 0) continue;
        const uint32_t* const dz_row = dz + j * args.dz_row_words;
        uint32_t dz_words[kTogether];
        LoadRow<kTogether>(dz_words, dz_columns >> first, [&](int i) { return dz_row[(first + i) * args.words]; });
        DWS_UNROLL
        for (int i = first; i < first + kTogether; ++i) {
          if (((dz_columns >> i) & 1u) == 0) continue;
          float gradient[kElements];
          WidenWord(dz_words[i - first], gradient, T());
          DWS_UNROLL
          for (int a = 0; a < kPatch; ++a) {
            const int r = Patch::Tap(a, j);
            if (r < 0 || r >= Win::kSize) continue;
            DWS_UNROLL
            for (int b = 0; b < kPatch; ++b) {
              const int s = Patch::Tap(b, i);
              if (s < 0 || s >= Win::kSize) continue;
              const int tap = r * Win::kSize + s, pixel = a * kPatch + b;
              DWS_UNROLL
              for (int e = 0; e < kElements; ++e) {
                if (kInput) {
                  float& sum = sums[kInput ? pixel : 0][e];
                  sum = fmaf(gradient[e], weights[kInput ? tap : 0][e], sum);
                }
                if (kFilter) {
                  float& sum = taps[kFilter ? tap : 0][e];
                  sum = fmaf(gradient[e], x[kFilter ? pixel : 0][e], sum);
                }
              }
            }
          }
        }
      }
      if (kInput && args.dx != nullptr) {
        uint32_t* const dx = static_cast<uint32_t*>(args.dx) + x_at;
        DWS_UNROLL
        for (int i = 0; i < kPatchPixels; ++i) {
          const int a = i / kPatch, b = i % kPatch;
          if (((rows >> a) & (columns >> b) & 1u) != 0) {
            dx[a * args.x_row_words + b * args.words] = NarrowWord(sums[kInput ? i : 0], T());
          }
        }
      }
    }
    if (!kFilter || args.sums == nullptr) continue;
    const int group_channels = args.group_words * kElements;
    if (active) {
      DWS_UNROLL
      for (int tap = 0; tap < Win::kTaps; ++tap) {
        DWS_UNROLL
        for (int e = 0; e < kElements; ++e) {
          shared[(lane * Win::kTaps + tap) * group_channels + word_of_group * kElements + e] =
              taps[kFilter ? tap : 0][e];
        }
      }
    }
    SyncBlock();
    for (int i = threadIdx.x; i < Win::kTaps * group_channels; i += kDepthwiseGradientThreads) {
      const int tap = i / group_channels, channel = group * group_channels + i % group_channels;
      if (channel >= args.C) continue;
      float sum = shared[i];
      for (int other = 1; other < lanes; ++other) sum += shared[other * Win::kTaps * group_channels + i];
      args.sums[(part * Win::kTaps + tap) * args.C + channel] = sum;
    }
    SyncBlock();
  }
}

template <typename T, typename Win>
constexpr int DepthwiseGradientSharedBytes() {
  return kDepthwiseGradientThreads * Win::kTaps * Word<T>::kElements * static_cast<int>(sizeof(float));
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_BACKWARD_DEPTHWISE_KERNEL_CUH_
