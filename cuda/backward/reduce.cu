#include "cuda/backward/reduce_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {
namespace {

// Adds a gradient to those that one launch gives: the sum of `count` parts of it.
void Add(const Call& call, CudaTensor tensor, const float* parts, int64_t count, int at, ReduceArgs* args) {
  ReduceArgs::Matrix& matrix = args->matrices[at];
  matrix = {parts, call.At(tensor), 1, count, 0, ReduceLanes(count)};
  for (int64_t size : CudaSizes(call.chain, tensor)) matrix.size *= size;
}

}  // namespace

const char* RunColumns(const Call& call, const CudaStep& step) {
  const Chain& p = call.p;
  const bool between = step.sums == CudaTensor::kBetweenSums;
  const CudaParts& parts = between ? call.plan.between : call.plan.bias;
  const int64_t columns = between ? p.CM() : p.K;
  ColumnArgs args{};
  args.gradient = call.At(step.from);
  args.y = call.At(step.with);
  args.to = call.At(step.to);
  args.sums = call.SumsAt(step.sums);
  // A copy to where it is already.
  if (args.y == nullptr && args.to == args.gradient) args.to = nullptr;
  if (args.to == nullptr && args.sums == nullptr) return "";
  args.pixels = call.pixels();
  args.part_pixels = between ? parts.units * kGradientProduct : parts.units;
  const bool vector = call.Vectors(columns, args.gradient) && call.Aligned(args.y, 16) && call.Aligned(args.to, 16);
  const int64_t unit = vector ? 16 / SizeOf(p.dtype) : 1;
  args.units = columns / unit;
  args.groups = CeilDiv(args.units, kColumnUnits);
  args.items = parts.count * args.groups;
  args.activation = OnDevice(p.out);
  return WithElement(p.dtype, [&](auto element) {
    using T = decltype(element);
    return LaunchKernel(vector ? ColumnKernel<T, 16 / sizeof(T)> : ColumnKernel<T, 1>, Grid(args.items), kColumnThreads,
                        kColumnThreads * unit * static_cast<int64_t>(sizeof(float)), call.stream, args);
  });
}

const char* RunReduce(const Call& call, const CudaStep& step) {
  ReduceArgs args{};
  if (step.kernel == CudaKernel::kZero) {
    Add(call, step.to, nullptr, 0, 0, &args);
  } else {
    const struct {
      CudaTensor sums, gradient;
      const CudaParts& parts;
    } all[] = {{CudaTensor::kProductSums, CudaTensor::kDPointwiseFilter, call.plan.product},
               {CudaTensor::kFilterSums, CudaTensor::kDDepthwiseFilter, call.plan.filter},
               {CudaTensor::kBetweenSums, CudaTensor::kDDepthwiseBias, call.plan.between},
               {CudaTensor::kBiasSums, CudaTensor::kDBias, call.plan.bias}};
    int next = 0;
    for (const auto& one : all) {
      const float* const sums = call.SumsAt(one.sums);
      if (sums != nullptr) Add(call, one.gradient, sums, one.parts.count, next++, &args);
    }
  }
  int lanes = kFewestReduceLanes;
  for (const ReduceArgs::Matrix& matrix : args.matrices) lanes = std::max(lanes, matrix.lanes);
  const int threads = kReduceColumns * lanes;
  for (ReduceArgs::Matrix& matrix : args.matrices) {
    if (matrix.lanes > 0) matrix.blocks = CeilDiv(matrix.size, threads / matrix.lanes);
    args.items += matrix.blocks;
  }
  if (args.items == 0) return "";
  return WithElement(call.p.dtype, [&](auto element) {
    return LaunchKernel(ReduceKernel<decltype(element)>, Grid(args.items), threads,
                        threads * static_cast<int64_t>(sizeof(float)), call.stream, args);
  });
}

}  // namespace cuda
}  // namespace dwsconv
