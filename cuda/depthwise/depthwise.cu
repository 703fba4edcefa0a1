#include <utility>

#include "cuda/depthwise/depthwise_kernel.cuh"
#include "cuda/depthwise/tensor_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {
namespace {

// On tensor cores, or null where that cannot be. args: tensors, sizes, the activation.
template <typename T, typename Win>
const char* LaunchTensor(const Call& call, TensorArgs args) {
  if (!call.Vectors(args.C, args.x) || !call.Aligned(args.z, 16)) return nullptr;
  args.x_row = int64_t{args.W} * args.C, args.z_row = int64_t{args.Wo} * args.C;
  args.cut = CutTensor(call.p, args.Ho, args.Wo, call.plan.multiprocessors);
  if (args.cut.items == 0) return nullptr;
  const auto kernel = args.mid.kind <= static_cast<int>(ActivationKind::kRelu6) ? DepthwiseTensorKernel<T, Win, true>
                                                                                : DepthwiseTensorKernel<T, Win, false>;
  return LaunchKernel(kernel, Grid(args.cut.items), kTensorThreads, TensorSharedBytes<T, Win>(), call.stream, args);
}

template <typename F>
const char* WithElement16(DType dtype, F launch) {
  return dtype == DType::kFloat16 ? launch(Float16()) : launch(BFloat16());
}

const char* RunTensor(const Call& call, const DepthwiseArgs& from) {
  TensorArgs args{};
  args.x = from.x, args.d = from.d, args.bias = from.bias, args.z = from.z, args.mid = from.mid;
  SetImage(call.p, &args);
  return WithElement16(call.p.dtype, [&](auto element) {
    using T = decltype(element);
    return call.p.R == 3          ? LaunchTensor<T, Window<3, 1>>(call, args)
           : call.p.stride_h == 1 ? LaunchTensor<T, Window<5, 1>>(call, args)
                                  : LaunchTensor<T, Window<5, 2>>(call, args);
  });
}

}  // namespace

const char* RunTurnedDepthwise(const Call& call, const void* dz, void* dx) {
  const Chain& p = call.p;
  TensorArgs args{};
  args.x = dz, args.d = call.At(CudaTensor::kDepthwiseFilter), args.z = dx;
  args.turned = true;
  SetImage(p, &args);
  std::swap(args.H, args.Ho);
  std::swap(args.W, args.Wo);
  args.pad_top = static_cast<int>(p.R - 1 - p.pad_top);
  args.pad_left = static_cast<int>(p.S - 1 - p.pad_left);
  return WithElement16(p.dtype, [&](auto element) {
    using T = decltype(element);
    return p.R == 3 ? LaunchTensor<T, Window<3, 1>>(call, args) : LaunchTensor<T, Window<5, 1>>(call, args);
  });
}

const char* RunDepthwise(const Call& call, const CudaStep& step) {
  const Chain& p = call.p;
  DepthwiseArgs args{};
  SetDepthwise(call, call.At(step.from), call.At(step.to), &args);
  const bool window = step.kernel != CudaKernel::kDepthwise && call.Aligned(args.x, 4) && call.Aligned(args.d, 4) &&
                      call.Aligned(call.At(CudaTensor::kDX), 4);
  if (step.kernel == CudaKernel::kDepthwiseTensor) {
    const char* const error = RunTensor(call, args);
    if (error != nullptr) return error;  // "" too; pointers that are askew go on
  }
  const int64_t words = p.C * SizeOf(p.dtype) / 4;
  args.items = p.N * CeilDiv(p.Ho, kPatch) * CeilDiv(words * CeilDiv(p.Wo, kPatch), kDepthwiseThreads);
  return WithElement(p.dtype, [&](auto element) {
    using T = decltype(element);
    if (!window) {
      return LaunchKernel(DepthwiseGeneralKernel<T>,
                          Grid(CeilDiv(call.pixels() * p.CM(), kDepthwiseThreads), kMostBlocks), kDepthwiseThreads, 0,
                          call.stream, args);
    }
    return WithWindow<7>(p, [&](auto win) {
      return LaunchKernel(DepthwiseKernel<T, decltype(win)>, Grid(args.items), kDepthwiseThreads, 0, call.stream, args);
    });
  });
}

}  // namespace cuda
}  // namespace dwsconv
