// A block's depthwise convolution with what follows it up to the last convolution: norm over the channels, factors,
// residual. Sums stay in registers as floats until all of that is done.
#ifndef DWSCONV_CUDA_DEPTHWISE_BLOCK_WINDOW_KERNEL_CUH_
#define DWSCONV_CUDA_DEPTHWISE_BLOCK_WINDOW_KERNEL_CUH_

#include <cmath>
#include <cstdint>

#include "cuda/depthwise/patch.cuh"
#include "cuda/device/activation.cuh"
#include "cuda/device/block_sums.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

constexpr int kBlockWindowThreads = 384;  // at most

struct BlockWindowArgs {
  const void *x, *d, *bias;  // [N,H,W,C], [R,S,C], [C] or null
  const void* gate;          // [N,C] or null
  const void* residual;      // as y, or null
  void* y;                   // [N,Ho,Wo,C]
  DeviceActivation mid;
  bool normalize;
  float epsilon;
  int H, W, C, Ho, Wo, pad_top, pad_left;
  // What the kernel would otherwise keep in registers.
  int words, patch_rows, patch_columns;  // of a pixel; of an image
  int64_t patches, row_words;            // of all images; of X
  int64_t items, items_of_run;           // chunks of channels by patches; with a norm there is one chunk
};

// A block takes a run of patches of 4 x 4 pixels side by side, so that it finds its weights and most of the next
// patch's rows in L1; a thread has one word of channels of each.
template <typename T, typename Win>
__global__ void __launch_bounds__(kBlockWindowThreads, 1) BlockWindowKernel(const BlockWindowArgs args) {
  constexpr int kElements = Word<T>::kElements;
  for (int64_t i = 0;; ++i) {
    const int64_t run = i / args.items_of_run * gridDim.x + blockIdx.x;
    const int64_t item = run * args.items_of_run + i % args.items_of_run;
    if (item >= args.items) break;
    const int64_t patch = item % args.patches;
    const int word =
        static_cast<int>(item / args.patches) * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x);
    const bool active = word < args.words;
    const int64_t rest = patch / args.patch_columns, image = rest / args.patch_rows;
    const int column = static_cast<int>(patch - rest * args.patch_columns) * kPatch;
    const int row = static_cast<int>(rest - image * args.patch_rows) * kPatch;
    PatchSums<T> sums;
    float* const flat = &sums[0][0];
    if (active) {
      // Anew for each patch: kept across the norm they would not fit into the registers.
      float weights[Win::kTaps][kElements];
      DWS_UNROLL
      for (int tap = 0; tap < Win::kTaps; ++tap) {
        WidenWord(static_cast<const uint32_t*>(args.d)[tap * args.words + word], weights[tap], T());
      }
      float bias[kElements];
      DWS_UNROLL
      for (int e = 0; e < kElements; ++e) {
        bias[e] = args.bias == nullptr ? 0.f : Widen(static_cast<const T*>(args.bias)[word * kElements + e]);
      }
      DWS_UNROLL
      for (int i = 0; i < kPatchPixels * kElements; ++i) flat[i] = bias[i % kElements];
      struct Load {
        const uint32_t* x;
        int64_t row_words;
        int words;
        DWS_DEVICE const uint32_t* operator()(int j) const { return x + j * row_words; }
        DWS_DEVICE uint32_t operator()(const uint32_t* from, int i) const { return from[i * words]; }
      };
      const int in_row = row * Win::kStride - args.pad_top, in_column = column * Win::kStride - args.pad_left;
      const uint32_t* const x = static_cast<const uint32_t*>(args.x) + image * args.H * args.row_words +
                                in_row * args.row_words + static_cast<int64_t>(in_column) * args.words + word;
      SumPatch<T, Win>(sums, weights, InsideMask(in_row, args.H, Win::kIn), InsideMask(in_column, args.W, Win::kIn),
                       Load{x, args.row_words, args.words});
      ActivateAll<T>(sums, args.mid);
    }
    if (args.normalize) {
      // Every thread of the block is here; those past the channels add zeros.
      float* const shared = reinterpret_cast<float*>(SharedMemory());
      const float one = 1.f / static_cast<float>(args.C);
      float values[kPatchPixels];
      DWS_UNROLL
      for (int i = 0; i < kPatchPixels; ++i) {
        values[i] = 0.f;
        DWS_UNROLL
        for (int e = 0; e < kElements; ++e) values[i] += active ? flat[i * kElements + e] : 0.f;
      }
      SumOfBlock(values, shared);
      DWS_UNROLL
      for (int i = 0; i < kPatchPixels; ++i) {
        const float mean = values[i] * one;
        values[i] = 0.f;
        DWS_UNROLL
        for (int e = 0; e < kElements; ++e) {
          float& value = flat[i * kElements + e];
          value = active ? value - mean : 0.f;
          values[i] = fmaf(value, value, values[i]);
        }
      }
      SumOfBlock(values, shared);
      DWS_UNROLL
      for (int i = 0; i < kPatchPixels; ++i) {
        const float factor = 1.f / sqrtf(fmaf(values[i], one, args.epsilon));
        DWS_UNROLL
        for (int e = 0; e < kElements; ++e) flat[i * kElements + e] *= factor;
      }
    }
    if (!active) continue;
    if (args.gate != nullptr) {
      float factors[kElements];
      WidenWord(static_cast<const uint32_t*>(args.gate)[image * args.words + word], factors, T());
      DWS_UNROLL
      for (int i = 0; i < kPatchPixels * kElements; ++i) flat[i] *= factors[i % kElements];
    }
    const int64_t first = ((image * args.Ho + row) * args.Wo + column) * args.words + word;
    DWS_UNROLL
    for (int a = 0; a < kPatch; ++a) {
      DWS_UNROLL
      for (int b = 0; b < kPatch; ++b) {
        if (row + a >= args.Ho || column + b >= args.Wo) continue;
        const int64_t at = first + (static_cast<int64_t>(a) * args.Wo + b) * args.words;
        if (args.residual != nullptr) {
          float other[kElements];
          WidenWord(static_cast<const uint32_t*>(args.residual)[at], other, T());
          DWS_UNROLL
          for (int e = 0; e < kElements; ++e) flat[(a * kPatch + b) * kElements + e] += other[e];
        }
        static_cast<uint32_t*>(args.y)[at] = PatchWord<T>(sums, a, b);
      }
    }
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEPTHWISE_BLOCK_WINDOW_KERNEL_CUH_
