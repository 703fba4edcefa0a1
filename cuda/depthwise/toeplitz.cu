#include "cuda/depthwise/toeplitz_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {

const char* RunToeplitz(const Call& call, const CudaStep& step) {
  const CudaTile& tile = step.tile;
  ToeplitzArgs args{};
  args.x = call.At(step.from);
  args.d = call.At(step.with);
  args.bias = call.At(CudaTensor::kDepthwiseBias);
  args.z = call.At(step.to);
  if (!call.Aligned(args.x, 16) || !call.Aligned(args.d, 16) || !call.Aligned(args.z, 16)) {
    return RunDepthwise(call, step);
  }
  args.mid = OnDevice(call.p.mid);
  SetImage(call.p, &args);
  args.strips = tile.strips, args.segments = tile.segments, args.segment_rows = tile.segment_rows;
  args.groups = static_cast<int>(CeilDiv(call.p.C, kToeplitzChannels));
  args.items = static_cast<int>(tile.items / args.groups);
  const int64_t slots = int64_t{call.plan.multiprocessors} * kToeplitzBlocks;
  const int64_t grid = args.groups * std::min<int64_t>(args.items, std::max<int64_t>(1, slots / args.groups));
  const auto kernel =
      call.p.dtype == DType::kFloat16 ? DepthwiseToeplitzKernel<Float16> : DepthwiseToeplitzKernel<BFloat16>;
  return LaunchKernel(kernel, grid, kToeplitzThreads, kToeplitzSharedBytes, call.stream, args);
}

}  // namespace cuda
}  // namespace dwsconv
