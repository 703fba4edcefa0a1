// The planner takes these kernels where the library has code for 9.0a: see HasGroupProducts.
#include <initializer_list>

#include "cuda/backward/warpgroup_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {
namespace {

// Blocks of a multiprocessor: by shared memory, and by the kernels' launch bounds.
constexpr int64_t kBetweenBlocks = 2, kFilterBlocks = 1;

const char* FirstOf(std::initializer_list<const char*> errors) {
  for (const char* const error : errors) {
    if (*error != '\0') return error;
  }
  return "";
}

}  // namespace

const char* RunWarpgroupBetween(const Call& call, const CudaStep& step) {
  const Chain& p = call.p;
  const void *const gradient = call.At(step.from), *const filter = call.At(step.with);
  const void* const factors = FactorsOf(call);
  WarpgroupBetweenArgs args{};
  args.to = call.At(step.to);
  if (!call.Vectors(p.K, gradient) || !call.Aligned(filter, 16) || !call.Vectors(p.CM(), args.to) ||
      !call.Aligned(factors, 16)) {
    // The planner does not see pointers. What runs with any of them takes P transposed.
    CudaStep other = step;
    other.with = CudaTensor::kTransposedFilter;
    const CudaStep transpose{CudaKernel::kTransposeFilter, step.with, CudaTensor::kNone, other.with};
    const char* const error = RunTranspose(call, transpose);
    return *error != '\0' ? error : RunBetweenGradient(call, other);
  }
  args.sums = call.SumsAt(step.sums);
  args.pixels = call.pixels();
  const int64_t column_tiles = CeilDiv(p.CM(), kGradientProduct);
  Put(CeilDiv(args.pixels, kGradientProduct), &args.tiles), Put(call.plan.between.units, &args.part_tiles);
  Put(column_tiles, &args.column_tiles), Put(call.plan.between.count * column_tiles, &args.items);
  Put(p.K, &args.depth), Put(p.CM(), &args.columns);
  args.scales = factors != nullptr;
  args.are_factors = DerivativeFromInput(p.mid);
  args.activation = OnDevice(p.mid);
  const char* const error =
      FirstOf({MakeTensorMap(gradient, args.pixels, p.K, kGradientProduct, &args.gradient),
               MakeTensorMap(filter, p.CM(), p.K, kGradientProduct, &args.p),
               args.scales ? MakeTensorMap(factors, args.pixels, p.CM(), kGradientProduct, &args.factors) : ""});
  if (*error != '\0') return error;
  return LaunchKernel(p.dtype == DType::kFloat16 ? WarpgroupBetweenKernel<Float16> : WarpgroupBetweenKernel<BFloat16>,
                      Grid(args.items, kBetweenBlocks * call.plan.multiprocessors), kWarpgroupThreads,
                      kGroupBetweenSharedBytes, call.stream, args);
}

const char* RunWarpgroupFilterProduct(const Call& call, const CudaStep& step) {
  const Chain& p = call.p;
  const void *const z = call.At(step.from), *const gradient = call.At(step.with);
  if (!call.Vectors(p.CM(), z) || !call.Vectors(p.K, gradient)) return RunFilterProduct(call, step);
  WarpgroupFilterArgs args{};
  args.sums = call.SumsAt(step.sums);
  args.pixels = call.pixels();
  args.part_pixels = call.plan.product.units;
  args.row_tiles = CeilDiv(p.CM(), kGradientProduct);
  args.column_tiles = CeilDiv(p.K, kGradientProduct);
  args.items = call.plan.product.count * args.row_tiles * args.column_tiles;
  Put(p.CM(), &args.channels), Put(p.K, &args.columns);
  const char* const error = FirstOf({MakeTensorMap(z, args.pixels, p.CM(), kGroupDepth, &args.z),
                                     MakeTensorMap(gradient, args.pixels, p.K, kGroupDepth, &args.gradient)});
  if (*error != '\0') return error;
  return LaunchKernel(p.dtype == DType::kFloat16 ? WarpgroupFilterKernel<Float16> : WarpgroupFilterKernel<BFloat16>,
                      Grid(args.items, kFilterBlocks * call.plan.multiprocessors), kWarpgroupThreads,
                      kGroupFilterSharedBytes, call.stream, args);
}

}  // namespace cuda
}  // namespace dwsconv
