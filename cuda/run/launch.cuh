// What the files that compile kernels share: choosing a kernel by element type, math and window, and filling arguments
// from a call.
#ifndef DWSCONV_CUDA_RUN_LAUNCH_CUH_
#define DWSCONV_CUDA_RUN_LAUNCH_CUH_

#include <algorithm>
#include <cstdint>

#include "cuda/depthwise/patch.cuh"
#include "cuda/device/activation.cuh"
#include "cuda/device/fragments.cuh"
#include "cuda/device/store_tile.cuh"
#include "cuda/run/call.h"

namespace dwsconv {
namespace cuda {

// More blocks than any card runs at a time: those of plain kernels take turns at what is more.
constexpr int64_t kMostBlocks = 1 << 16;

inline int64_t Grid(int64_t items, int64_t most = INT32_MAX) { return std::min(items, most); }

// Calls launch(T()) with the element type.
template <typename F>
const char* WithElement(DType dtype, F launch) {
  switch (dtype) {
    case DType::kFloat16:
      return launch(Float16());
    case DType::kBFloat16:
      return launch(BFloat16());
    case DType::kFloat32:
      break;
  }
  return launch(float());
}

// Calls launch(Policy()) with what multiplies: see fragments.cuh.
template <typename F>
const char* WithTensorCores(DType dtype, F launch) {
  switch (dtype) {
    case DType::kFloat16:
      return launch(TensorCores16<Float16>());
    case DType::kBFloat16:
      return launch(TensorCores16<BFloat16>());
    case DType::kFloat32:
      break;
  }
  return launch(TensorCoresTf32());
}
template <typename F>
const char* WithPolicy(DType dtype, CudaMath math, F launch) {
  if (dtype == DType::kFloat32 && math == CudaMath::kExact) return launch(ExactFloat());
  return WithTensorCores(dtype, launch);
}

// Calls launch(Window()) with the window of a chain: 3x3 and 5x5, and 7x7 up to kLargest.
template <int kLargest, typename F>
const char* WithWindow(const Chain& p, F launch) {
  if (p.R == 3 && p.stride_h == 1) return launch(Window<3, 1>());
  if (p.R == 3 && p.stride_h == 2) return launch(Window<3, 2>());
  if (p.R == 5 && p.stride_h == 1) return launch(Window<5, 1>());
  if (p.R == 5 && p.stride_h == 2) return launch(Window<5, 2>());
  if constexpr (kLargest == 7) {
    if (p.R == 7 && p.stride_h == 1) return launch(Window<7, 1>());
  }
  return "there is no kernel for this window";
}

inline DeviceActivation OnDevice(const Activation& activation) {
  return {static_cast<int>(activation.kind), activation.alpha};
}

template <typename From, typename To>
void Put(From from, To* to) {
  *to = static_cast<To>(from);
}

// The image's sizes of a kernel for one window.
template <typename Args>
void SetImage(const Chain& p, Args* args) {
  Put(p.H, &args->H), Put(p.W, &args->W), Put(p.C, &args->C), Put(p.Ho, &args->Ho), Put(p.Wo, &args->Wo);
  Put(p.pad_top, &args->pad_top), Put(p.pad_left, &args->pad_left);
}

// What any window has besides.
template <typename Args>
void SetWindow(const Chain& p, Args* args) {
  Put(p.R, &args->R), Put(p.S, &args->S);
  Put(p.stride_h, &args->stride_h), Put(p.stride_w, &args->stride_w);
  Put(p.dilation_h, &args->dilation_h), Put(p.dilation_w, &args->dilation_w);
}

// Arguments: DepthwiseArgs, to read `x` and write `z`.
template <typename Args>
void SetDepthwise(const Call& call, const void* x, void* z, Args* args) {
  args->x = x;
  args->d = call.At(CudaTensor::kDepthwiseFilter);
  args->bias = call.At(CudaTensor::kDepthwiseBias);
  args->z = z;
  args->mid = OnDevice(call.p.mid);
  args->N = call.p.N, args->M = call.p.M;
  SetImage(call.p, args);
  SetWindow(call.p, args);
}

// What the kernels have in common that go down strips of an image.
template <typename Args>
void SetTile(const CudaTile& tile, Args* args) {
  args->tile_rows = tile.tile_rows, args->tile_columns = tile.tile_columns;
  args->in_columns = tile.in_columns, args->ring_rows = tile.ring_rows;
  args->channels = tile.channels, args->out_channels = tile.out_channels;
  args->strips = tile.strips, args->segments = tile.segments, args->segment_rows = tile.segment_rows;
  args->p_pitch = tile.p_pitch;
  args->p_offset_bytes = tile.p_offset_bytes, args->d_offset_bytes = tile.d_offset_bytes;
  args->bias_offset_bytes = tile.bias_offset_bytes, args->z_offset_bytes = tile.z_offset_bytes;
  args->ring_offset_bytes = tile.ring_offset_bytes;
  Put(tile.items, &args->items);
}

inline int Log2(int power) { return power <= 1 ? 0 : 1 + Log2(power / 2); }

// The matrix product that a 1x1 convolution is: the expansion, or the last one.
struct Matrix {
  const void *x, *p, *bias, *residual;
  void* y;
  int64_t pixels, channels, columns;
  Activation activation;

  Matrix(const Call& call, const CudaStep& step) {
    const bool expands = step.with == CudaTensor::kExpandFilter;
    x = call.At(step.from);
    p = call.At(step.with);
    bias = call.At(expands ? CudaTensor::kExpandBias : CudaTensor::kBias);
    residual = step.residual ? call.At(CudaTensor::kResidual) : nullptr;
    y = call.At(step.to);
    pixels = expands ? call.p.N * call.p.H * call.p.W : call.pixels();
    channels = expands ? call.chain.E : call.p.CM();
    columns = expands ? call.p.C : call.p.K;
    activation = expands ? call.chain.expand : call.p.out;
  }

  OutputArgs Output(const Call& call) const {
    OutputArgs out;
    out.residual = residual;
    out.y = y;
    out.channels = static_cast<int>(columns);
    out.vector = call.Vectors(columns, y) && call.Aligned(residual, 16);
    out.activation = OnDevice(activation);
    return out;
  }
};

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_RUN_LAUNCH_CUH_
