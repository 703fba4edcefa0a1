#include "cuda/depthwise/block_pixels_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {

const char* RunPixels(const Call& call, const CudaStep& step) {
  const Chain& p = call.p;
  BlockPixelsArgs args{};
  if (step.with != CudaTensor::kNone) {
    SetDepthwise(call, call.At(step.from), nullptr, &args.depthwise);
  } else {
    args.depthwise.x = call.At(step.from);
    args.depthwise.N = p.N, args.depthwise.C = p.CM(), args.depthwise.M = 1;
    args.depthwise.Ho = p.Ho, args.depthwise.Wo = p.Wo;
  }
  args.gate = step.gate ? call.At(CudaTensor::kGate) : nullptr;
  args.residual = step.residual ? call.At(CudaTensor::kResidual) : nullptr;
  args.y = call.At(step.to);
  args.normalize = step.normalize;
  args.epsilon = call.chain.epsilon;
  return WithElement(p.dtype, [&](auto element) {
    return LaunchKernel(BlockPixelsKernel<decltype(element)>,
                        Grid(CeilDiv(call.pixels(), kBlockPixelsThreads / 32), kMostBlocks), kBlockPixelsThreads, 0,
                        call.stream, args);
  });
}

const char* RunConvolution(const Call& call, const CudaStep& step) {
  const Chain& p = call.p;
  const Matrix matrix(call, step);
  if (matrix.pixels == 0) return "";  // windows of nothing but padding
  BlockGeneralArgs args{};
  args.x = matrix.x;
  args.p = matrix.p;
  args.bias = matrix.bias;
  args.gate = step.gate ? call.At(CudaTensor::kGate) : nullptr;
  args.residual = matrix.residual;
  args.y = matrix.y;
  args.out = OnDevice(matrix.activation);
  const bool expands = step.with == CudaTensor::kExpandFilter;
  if (!expands && !call.chain.has_depthwise) {
    SetImage(p, &args);
    SetWindow(p, &args);
  } else {
    args.H = args.Ho = expands ? p.H : p.Ho, args.W = args.Wo = expands ? p.W : p.Wo;
    args.R = args.S = args.stride_h = args.stride_w = args.dilation_h = args.dilation_w = 1;
  }
  args.N = p.N, args.C = matrix.channels, args.K = matrix.columns;
  return WithElement(p.dtype, [&](auto element) {
    return LaunchKernel(BlockGeneralKernel<decltype(element)>,
                        Grid(CeilDiv(matrix.pixels * args.K, kBlockGeneralThreads), kMostBlocks), kBlockGeneralThreads,
                        0, call.stream, args);
  });
}

}  // namespace cuda
}  // namespace dwsconv
