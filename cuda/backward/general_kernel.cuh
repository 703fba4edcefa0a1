// The backward pass' plain kernels: right for every chain, on every card, and slow.
#ifndef DWSCONV_CUDA_BACKWARD_GENERAL_KERNEL_CUH_
#define DWSCONV_CUDA_BACKWARD_GENERAL_KERNEL_CUH_

#include <cstdint>

#include "cuda/backward/derivative.cuh"
#include "cuda/depthwise/depthwise_kernel.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

constexpr int kGeneralThreads = 128;

// mid' of each element of Z: `z` of the arguments is where it goes.
template <typename T>
__global__ void __launch_bounds__(kGeneralThreads) BetweenFactorsGeneralKernel(const DepthwiseArgs args) {
  const int64_t CM = args.C * args.M, outputs = args.N * args.Ho * args.Wo * CM;
  const int64_t together = static_cast<int64_t>(gridDim.x) * kGeneralThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kGeneralThreads + threadIdx.x; i < outputs; i += together) {
    const int64_t pixel = i / CM, cm = i % CM;
    const int64_t column = pixel % args.Wo, row = pixel / args.Wo % args.Ho, image = pixel / args.Wo / args.Ho;
    const T* const x = static_cast<const T*>(args.x) + image * args.H * args.W * args.C;
    const float sum = DepthwiseSum(args, x, args.W * args.C, args.C, int64_t{1}, row, column, cm);
    static_cast<T*>(args.z)[i] = Narrow<T>(DerivativeAt(sum, args.mid));
  }
}

struct GeneralProductArgs {
  const void *a, *p;  // [pixels, depth]; P: [CM, K]
  void* to;           // [pixels, columns]; may be `factors`
  int64_t pixels, depth, columns;
  int64_t depth_step, column_step;  // of P
  // As in BackwardProductArgs; `gradient` null: dZ, else G.
  const void* factors;
  bool are_factors;
  DeviceActivation activation;
  const void *bias, *residual, *gradient;
};

// dZ = G P^T times mid', or G = dY * out'(Z P + bias + residual).
template <typename T>
__global__ void __launch_bounds__(kGeneralThreads) ProductGeneralKernel(const GeneralProductArgs args) {
  const int64_t outputs = args.pixels * args.columns, together = static_cast<int64_t>(gridDim.x) * kGeneralThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kGeneralThreads + threadIdx.x; i < outputs; i += together) {
    const int64_t pixel = i / args.columns, column = i % args.columns;
    const T* const a = static_cast<const T*>(args.a) + pixel * args.depth;
    const T* const p = static_cast<const T*>(args.p) + column * args.column_step;
    float sum = 0.f;
    for (int64_t d = 0; d < args.depth; ++d) sum = fmaf(Widen(a[d]), Widen(p[d * args.depth_step]), sum);
    if (args.gradient != nullptr) {
      if (args.bias != nullptr) sum += Widen(static_cast<const T*>(args.bias)[column]);
      if (args.residual != nullptr) sum += Widen(static_cast<const T*>(args.residual)[i]);
      sum = Scale(Widen(static_cast<const T*>(args.gradient)[i]), DerivativeAt(sum, args.activation));
    } else if (args.factors != nullptr) {
      const float factor = Widen(static_cast<const T*>(args.factors)[i]);
      sum = args.are_factors ? Scale(sum, factor) : ScaleFromOutput(sum, factor, args.activation);
    }
    static_cast<T*>(args.to)[i] = Narrow<T>(sum);
  }
}

struct GeneralFilterProductArgs {
  const void *z, *gradient;  // [pixels, channels], [pixels, columns]
  float* sums;               // [parts, channels, columns]
  int64_t pixels, part_pixels, parts, channels, columns;
};

// The first stage of dP: a sum a thread.
template <typename T>
__global__ void __launch_bounds__(kGeneralThreads) FilterProductGeneralKernel(const GeneralFilterProductArgs args) {
  const int64_t size = args.channels * args.columns, together = static_cast<int64_t>(gridDim.x) * kGeneralThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kGeneralThreads + threadIdx.x; i < args.parts * size;
       i += together) {
    const int64_t part = i / size, channel = i % size / args.columns, column = i % args.columns;
    const int64_t begin = part * args.part_pixels;
    const int64_t end = begin + args.part_pixels < args.pixels ? begin + args.part_pixels : args.pixels;
    float sum = 0.f;
    for (int64_t pixel = begin; pixel < end; ++pixel) {
      sum = fmaf(Widen(static_cast<const T*>(args.z)[pixel * args.channels + channel]),
                 Widen(static_cast<const T*>(args.gradient)[pixel * args.columns + column]), sum);
    }
    args.sums[i] = sum;
  }
}

struct GeneralDepthwiseGradientArgs {
  DepthwiseArgs shape;  // x, d and the sizes
  const void* dz;       // [N,Ho,Wo,C*M]
  void* dx;             // [N,H,W,C]
  float* sums;          // [parts,R,S,C*M]
  int64_t part_pixels, parts;
};

// dX: an element a thread.
template <typename T>
__global__ void __launch_bounds__(kGeneralThreads) InputGradientGeneralKernel(const GeneralDepthwiseGradientArgs args) {
  const DepthwiseArgs& s = args.shape;
  const int64_t CM = s.C * s.M, elements = s.N * s.H * s.W * s.C;
  const int64_t together = static_cast<int64_t>(gridDim.x) * kGeneralThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kGeneralThreads + threadIdx.x; i < elements; i += together) {
    const int64_t c = i % s.C, pixel = i / s.C;
    const int64_t column = pixel % s.W, row = pixel / s.W % s.H, image = pixel / s.W / s.H;
    float sum = 0.f;
    for (int64_t r = 0; r < s.R; ++r) {
      const int64_t y = row + s.pad_top - r * s.dilation_h;
      if (y < 0 || y % s.stride_h != 0 || y / s.stride_h >= s.Ho) continue;
      for (int64_t t = 0; t < s.S; ++t) {
        const int64_t x = column + s.pad_left - t * s.dilation_w;
        if (x < 0 || x % s.stride_w != 0 || x / s.stride_w >= s.Wo) continue;
        const int64_t at = ((image * s.Ho + y / s.stride_h) * s.Wo + x / s.stride_w) * CM + c * s.M;
        const int64_t filter = ((r * s.S + t) * s.C + c) * s.M;
        for (int64_t m = 0; m < s.M; ++m) {
          sum = fmaf(Widen(static_cast<const T*>(args.dz)[at + m]), Widen(static_cast<const T*>(s.d)[filter + m]), sum);
        }
      }
    }
    static_cast<T*>(args.dx)[i] = Narrow<T>(sum);
  }
}

// The first stage of dD: a sum a thread.
template <typename T>
__global__ void __launch_bounds__(kGeneralThreads)
    FilterGradientGeneralKernel(const GeneralDepthwiseGradientArgs args) {
  const DepthwiseArgs& s = args.shape;
  const int64_t CM = s.C * s.M, size = s.R * s.S * CM, image_pixels = s.Ho * s.Wo, pixels = s.N * image_pixels;
  const int64_t together = static_cast<int64_t>(gridDim.x) * kGeneralThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kGeneralThreads + threadIdx.x; i < args.parts * size;
       i += together) {
    const int64_t part = i / size, cm = i % CM, tap = i % size / CM;
    const int64_t down = tap / s.S * s.dilation_h - s.pad_top, right = tap % s.S * s.dilation_w - s.pad_left;
    const int64_t begin = part * args.part_pixels;
    const int64_t end = begin + args.part_pixels < pixels ? begin + args.part_pixels : pixels;
    float sum = 0.f;
    for (int64_t pixel = begin; pixel < end; ++pixel) {
      const int64_t y = pixel / s.Wo % s.Ho * s.stride_h + down, x = pixel % s.Wo * s.stride_w + right;
      if (y < 0 || y >= s.H || x < 0 || x >= s.W) continue;
      const int64_t at = ((pixel / image_pixels * s.H + y) * s.W + x) * s.C + cm / s.M;
      sum = fmaf(Widen(static_cast<const T*>(s.x)[at]), Widen(static_cast<const T*>(args.dz)[pixel * CM + cm]), sum);
    }
    args.sums[i] = sum;
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_BACKWARD_GENERAL_KERNEL_CUH_
