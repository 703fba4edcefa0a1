// The plain kernel: right for every chain and layout, on every card. Z of a few pixels lies in shared memory as
// floats, so nothing is rounded but Y.
#ifndef DWSCONV_CUDA_FUSED_DIRECT_KERNEL_CUH_
#define DWSCONV_CUDA_FUSED_DIRECT_KERNEL_CUH_

#include <cstdint>

#include "cuda/depthwise/depthwise_kernel.cuh"
#include "cuda/device/activation.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

constexpr int kDirectThreads = 128;   // an output channel each
constexpr int kDirectPixels = 8;      // consecutive, of any images
constexpr int kDirectChannels = 128;  // of Z at a time
constexpr int kDirectSharedBytes = kDirectPixels * kDirectChannels * static_cast<int>(sizeof(float));

struct DirectArgs {
  DepthwiseArgs depthwise;  // `z` and `items` unused
  const void *p, *bias, *residual;
  void* y;
  DeviceActivation out;
  int64_t K, items;
  bool nchw;
};

template <typename T>
__global__ void __launch_bounds__(kDirectThreads) DirectKernel(const DirectArgs args) {
  const DepthwiseArgs& depthwise = args.depthwise;
  float* const z = reinterpret_cast<float*>(SharedMemory());
  const int64_t CM = depthwise.C * depthwise.M;
  const int64_t image_pixels = depthwise.Ho * depthwise.Wo, pixels = depthwise.N * image_pixels;
  const int64_t channel_blocks = (args.K + kDirectThreads - 1) / kDirectThreads;
  const int64_t row_step = args.nchw ? depthwise.W : depthwise.W * depthwise.C;
  const int64_t column_step = args.nchw ? 1 : depthwise.C;
  const int64_t channel_step = args.nchw ? depthwise.H * depthwise.W : 1;
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    const int64_t first_pixel = item / channel_blocks * kDirectPixels;
    const int64_t k = item % channel_blocks * kDirectThreads + threadIdx.x;
    const bool active = k < args.K;
    float sums[kDirectPixels];
    DWS_UNROLL
    for (int i = 0; i < kDirectPixels; ++i) sums[i] = 0.f;
    for (int64_t first = 0; first < CM; first += kDirectChannels) {
      const int channels = static_cast<int>(CM - first < kDirectChannels ? CM - first : kDirectChannels);
      for (int i = threadIdx.x; i < kDirectPixels * kDirectChannels; i += kDirectThreads) {
        const int channel = i % kDirectChannels;
        const int64_t pixel = first_pixel + i / kDirectChannels;
        if (channel >= channels || pixel >= pixels) continue;
        const int64_t at = pixel % image_pixels;
        const T* const image =
            static_cast<const T*>(depthwise.x) + pixel / image_pixels * depthwise.H * depthwise.W * depthwise.C;
        z[i] = Activate<float>(DepthwiseSum(depthwise, image, row_step, column_step, channel_step, at / depthwise.Wo,
                                            at % depthwise.Wo, first + channel),
                               depthwise.mid);
      }
      SyncBlock();
      if (active) {
        const T* const p = static_cast<const T*>(args.p) + first * args.K + k;
        for (int channel = 0; channel < channels; ++channel) {
          const float weight = Widen(p[channel * args.K]);
          DWS_UNROLL
          for (int i = 0; i < kDirectPixels; ++i) {
            sums[i] = fmaf(z[i * kDirectChannels + channel], weight, sums[i]);
          }
        }
      }
      SyncBlock();
    }
    if (!active) continue;
    const float bias = args.bias == nullptr ? 0.f : Widen(static_cast<const T*>(args.bias)[k]);
    DWS_UNROLL
    for (int i = 0; i < kDirectPixels; ++i) {
      const int64_t pixel = first_pixel + i;
      if (pixel >= pixels) continue;
      const int64_t image = pixel / image_pixels;
      const int64_t at = args.nchw ? (image * args.K + k) * image_pixels + pixel % image_pixels : pixel * args.K + k;
      float sum = sums[i] + bias;
      if (args.residual != nullptr) sum += Widen(static_cast<const T*>(args.residual)[at]);
      static_cast<T*>(args.y)[at] = Narrow<T>(Activate<T>(sum, args.out));
    }
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_FUSED_DIRECT_KERNEL_CUH_
