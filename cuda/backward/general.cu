#include "cuda/backward/general_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {
namespace {

// A kernel with an element a thread.
template <typename Args>
const char* LaunchPlain(void (*kernel)(Args), int64_t elements, const Call& call, const Args& args) {
  return LaunchKernel(kernel, Grid(CeilDiv(elements, kGeneralThreads), kMostBlocks), kGeneralThreads, 0, call.stream,
                      args);
}

}  // namespace

const void* FactorsOf(const Call& call) {
  if (DerivativeFromInput(call.p.mid)) return call.At(CudaTensor::kDZ);
  return call.p.mid.kind == ActivationKind::kNone ? nullptr : call.At(CudaTensor::kZ);
}

const char* RunBetweenFactors(const Call& call, const CudaStep& step) {
  DepthwiseArgs args{};
  SetDepthwise(call, call.At(step.from), call.At(step.to), &args);
  return WithElement(call.p.dtype, [&](auto element) {
    return LaunchPlain(BetweenFactorsGeneralKernel<decltype(element)>, call.pixels() * call.p.CM(), call, args);
  });
}

const char* RunGeneralProduct(const Call& call, const CudaStep& step) {
  const Chain& p = call.p;
  GeneralProductArgs args{};
  args.a = call.At(step.from);
  args.p = call.At(step.with);
  args.to = call.At(step.to);
  args.pixels = call.pixels();
  if (step.kernel == CudaKernel::kOutputGradient) {
    args.depth = p.CM(), args.columns = args.depth_step = p.K, args.column_step = 1;
    args.activation = OnDevice(p.out);
    args.bias = call.At(CudaTensor::kBias);
    args.residual = call.At(CudaTensor::kResidual);
    args.gradient = call.At(CudaTensor::kGrad);
  } else {
    args.depth = args.column_step = p.K, args.columns = p.CM(), args.depth_step = 1;
    args.activation = OnDevice(p.mid);
    args.factors = FactorsOf(call);
    args.are_factors = DerivativeFromInput(p.mid);
  }
  return WithElement(p.dtype, [&](auto element) {
    return LaunchPlain(ProductGeneralKernel<decltype(element)>, args.pixels * args.columns, call, args);
  });
}

const char* RunGeneralFilterProduct(const Call& call, const CudaStep& step) {
  const CudaParts& parts = call.plan.product;
  const GeneralFilterProductArgs args{call.At(step.from),
                                      call.At(step.with),
                                      call.SumsAt(step.sums),
                                      call.pixels(),
                                      parts.units,
                                      parts.count,
                                      call.p.CM(),
                                      call.p.K};
  return WithElement(call.p.dtype, [&](auto element) {
    return LaunchPlain(FilterProductGeneralKernel<decltype(element)>, args.parts * args.channels * args.columns, call,
                       args);
  });
}

const char* RunGeneralDepthwiseGradient(const Call& call, const CudaStep& step) {
  const Chain& p = call.p;
  GeneralDepthwiseGradientArgs args{};
  SetDepthwise(call, call.At(step.with), nullptr, &args.shape);
  args.dz = call.At(step.from);
  args.dx = call.At(step.to);
  args.sums = call.SumsAt(step.sums);
  args.parts = call.plan.filter.count;
  // The plan's parts are of patches where it counted on pointers that the kernel for a window takes.
  args.part_pixels =
      call.plan.window && args.sums != nullptr ? CeilDiv(call.pixels(), args.parts) : call.plan.filter.units;
  return WithElement(p.dtype, [&](auto element) {
    using T = decltype(element);
    const char* error = "";
    if (args.dx != nullptr) error = LaunchPlain(InputGradientGeneralKernel<T>, p.N * p.H * p.W * p.C, call, args);
    if (*error != '\0' || args.sums == nullptr) return error;
    return LaunchPlain(FilterGradientGeneralKernel<T>, args.parts * p.R * p.S * p.CM(), call, args);
  });
}

}  // namespace cuda
}  // namespace dwsconv
