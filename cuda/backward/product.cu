#include "cuda/backward/product_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {
namespace {

BackwardProductArgs ProductOf(const Call& call, const CudaStep& step, int64_t depth, int64_t columns) {
  BackwardProductArgs args{};
  args.a = call.At(step.from);
  args.b = call.At(step.with);
  args.to = call.At(step.to);
  args.pixels = call.pixels();
  args.tiles = CeilDiv(args.pixels, kGradientProduct);
  args.depth = static_cast<int>(depth);
  args.columns = static_cast<int>(columns);
  args.a_vector = call.Vectors(depth, args.a);
  args.b_vector = call.Vectors(columns, args.b);
  args.to_vector = call.Vectors(columns, args.to);
  return args;
}

}  // namespace

const char* RunBetweenGradient(const Call& call, const CudaStep& step) {
  if (call.plan.path == CudaPath::kGeneral) return RunGeneralProduct(call, step);
  const Chain& p = call.p;
  BackwardProductArgs args = ProductOf(call, step, p.K, p.CM());
  args.part_tiles = call.plan.between.units;
  args.items = call.plan.between.count * CeilDiv(p.CM(), kGradientProduct);
  args.factors = FactorsOf(call);
  args.are_factors = DerivativeFromInput(p.mid);
  args.activation = OnDevice(p.mid);
  args.sums = call.SumsAt(step.sums);
  const bool plain = args.a_vector && args.b_vector && args.to_vector;
  return WithPolicy(p.dtype, call.plan.math, [&](auto policy) {
    using Policy = decltype(policy);
    return LaunchKernel(plain ? BetweenGradientKernel<Policy, true> : BetweenGradientKernel<Policy, false>,
                        Grid(args.items), kBackwardThreads,
                        BackwardSizes<typename Policy::Element>::kProductSharedBytes, call.stream, args);
  });
}

const char* RunOutputGradient(const Call& call, const CudaStep& step) {
  if (call.plan.path == CudaPath::kGeneral) return RunGeneralProduct(call, step);
  const Chain& p = call.p;
  BackwardProductArgs args = ProductOf(call, step, p.CM(), p.K);
  args.items = args.tiles * CeilDiv(p.K, kGradientProduct);
  args.activation = OnDevice(p.out);
  args.bias = call.At(CudaTensor::kBias);
  args.residual = call.At(CudaTensor::kResidual);
  args.gradient = call.At(CudaTensor::kGrad);
  args.to_vector = args.to_vector && call.Aligned(args.residual, 16) && call.Aligned(args.gradient, 16);
  return WithPolicy(p.dtype, call.plan.math, [&](auto policy) {
    using Policy = decltype(policy);
    return LaunchKernel(OutputGradientKernel<Policy>, Grid(args.items), kBackwardThreads,
                        BackwardSizes<typename Policy::Element>::kProductSharedBytes, call.stream, args);
  });
}

const char* RunFilterProduct(const Call& call, const CudaStep& step) {
  if (call.plan.path == CudaPath::kGeneral) return RunGeneralFilterProduct(call, step);
  const Chain& p = call.p;
  FilterProductArgs args{};
  args.z = call.At(step.from);
  args.gradient = call.At(step.with);
  args.sums = call.SumsAt(step.sums);
  args.pixels = call.pixels();
  args.part_pixels = call.plan.product.units;
  args.items = call.plan.product.count * CeilDiv(p.CM(), kGradientProduct) * CeilDiv(p.K, kGradientProduct);
  args.channels = static_cast<int>(p.CM());
  args.columns = static_cast<int>(p.K);
  args.z_vector = call.Vectors(p.CM(), args.z);
  args.gradient_vector = call.Vectors(p.K, args.gradient);
  return WithPolicy(p.dtype, call.plan.math, [&](auto policy) {
    using Policy = decltype(policy);
    return LaunchKernel(FilterProductKernel<Policy>, Grid(args.items), kBackwardThreads,
                        BackwardSizes<typename Policy::Element>::kFilterSharedBytes, call.stream, args);
  });
}

}  // namespace cuda
}  // namespace dwsconv
