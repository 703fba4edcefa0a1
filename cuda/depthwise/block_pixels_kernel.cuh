// The block's kernels that take anything: what stands between the convolutions by a warp a pixel, and a convolution by
// an output a thread. Nothing between is rounded but what is written.
#ifndef DWSCONV_CUDA_DEPTHWISE_BLOCK_PIXELS_KERNEL_CUH_
#define DWSCONV_CUDA_DEPTHWISE_BLOCK_PIXELS_KERNEL_CUH_

#include <cmath>
#include <cstdint>

#include "cuda/depthwise/depthwise_kernel.cuh"
#include "cuda/device/activation.cuh"
#include "cuda/device/block_sums.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

constexpr int kBlockPixelsThreads = 128;
constexpr int kBlockGeneralThreads = 128;

struct BlockPixelsArgs {
  DepthwiseArgs depthwise;  // `z` and `items` unused; without `d` x is [N,Ho,Wo,C*M] and taken as it is
  const void* gate;         // [N,C*M] or null
  const void* residual;     // as y, or null
  void* y;                  // [N,Ho,Wo,C*M]
  bool normalize;
  float epsilon;
};

// A warp has a pixel, a lane every 32nd channel. With a depthwise convolution a norm computes each sum three times.
template <typename T>
__global__ void __launch_bounds__(kBlockPixelsThreads) BlockPixelsKernel(const BlockPixelsArgs args) {
  const DepthwiseArgs& depthwise = args.depthwise;
  const int lane = threadIdx.x % 32;
  const int64_t CM = depthwise.C * depthwise.M, image_pixels = depthwise.Ho * depthwise.Wo;
  const int64_t pixels = depthwise.N * image_pixels;
  constexpr int kWarps = kBlockPixelsThreads / 32;
  for (int64_t pixel = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32; pixel < pixels;
       pixel += static_cast<int64_t>(gridDim.x) * kWarps) {
    const int64_t image = pixel / image_pixels, at = pixel % image_pixels;
    const T* const x = static_cast<const T*>(depthwise.x) +
                       (depthwise.d == nullptr ? pixel * CM : image * depthwise.H * depthwise.W * depthwise.C);
    const auto value = [&](int64_t cm) {
      if (depthwise.d == nullptr) return Widen(x[cm]);
      return Activate<float>(DepthwiseSum(depthwise, x, depthwise.W * depthwise.C, depthwise.C, int64_t{1},
                                          at / depthwise.Wo, at % depthwise.Wo, cm),
                             depthwise.mid);
    };
    float mean = 0.f, factor = 1.f;
    if (args.normalize) {
      const float one = 1.f / static_cast<float>(CM);
      float sum = 0.f;
      for (int64_t cm = lane; cm < CM; cm += 32) sum += value(cm);
      mean = SumOfWarp(sum) * one;
      float squares = 0.f;
      for (int64_t cm = lane; cm < CM; cm += 32) {
        const float off = value(cm) - mean;
        squares = fmaf(off, off, squares);
      }
      factor = 1.f / sqrtf(fmaf(SumOfWarp(squares), one, args.epsilon));
    }
    for (int64_t cm = lane; cm < CM; cm += 32) {
      float z = value(cm);
      if (args.normalize) z = (z - mean) * factor;
      if (args.gate != nullptr) z *= Widen(static_cast<const T*>(args.gate)[image * CM + cm]);
      if (args.residual != nullptr) z += Widen(static_cast<const T*>(args.residual)[pixel * CM + cm]);
      static_cast<T*>(args.y)[pixel * CM + cm] = Narrow<T>(z);
    }
  }
}

struct BlockGeneralArgs {
  const void *x, *p, *bias;  // [N,H,W,C], [R,S,C,K], [K] or null
  const void* gate;          // [N,C] or null
  const void* residual;      // as y, or null
  void* y;                   // [N,Ho,Wo,K]
  DeviceActivation out;
  int64_t N, H, W, C, K, R, S, Ho, Wo;
  int64_t stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
};

template <typename T>
__global__ void __launch_bounds__(kBlockGeneralThreads) BlockGeneralKernel(const BlockGeneralArgs args) {
  const int64_t outputs = args.N * args.Ho * args.Wo * args.K;
  const int64_t together = static_cast<int64_t>(gridDim.x) * kBlockGeneralThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kBlockGeneralThreads + threadIdx.x; i < outputs; i += together) {
    const int64_t pixel = i / args.K, k = i % args.K;
    const int64_t column = pixel % args.Wo, row = pixel / args.Wo % args.Ho, image = pixel / args.Wo / args.Ho;
    const T* const gate = args.gate == nullptr ? nullptr : static_cast<const T*>(args.gate) + image * args.C;
    float sum = 0.f;
    for (int64_t r = 0; r < args.R; ++r) {
      const int64_t y = row * args.stride_h - args.pad_top + r * args.dilation_h;
      if (y < 0 || y >= args.H) continue;
      for (int64_t s = 0; s < args.S; ++s) {
        const int64_t x = column * args.stride_w - args.pad_left + s * args.dilation_w;
        if (x < 0 || x >= args.W) continue;
        const T* const from = static_cast<const T*>(args.x) + ((image * args.H + y) * args.W + x) * args.C;
        const T* const p = static_cast<const T*>(args.p) + (r * args.S + s) * args.C * args.K + k;
        for (int64_t c = 0; c < args.C; ++c) {
          float z = Widen(from[c]);
          if (gate != nullptr) z *= Widen(gate[c]);
          sum = fmaf(z, Widen(p[c * args.K]), sum);
        }
      }
    }
    if (args.bias != nullptr) sum += Widen(static_cast<const T*>(args.bias)[k]);
    if (args.residual != nullptr) sum += Widen(static_cast<const T*>(args.residual)[i]);
    static_cast<T*>(args.y)[i] = Narrow<T>(Activate<T>(sum, args.out));
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEPTHWISE_BLOCK_PIXELS_KERNEL_CUH_
