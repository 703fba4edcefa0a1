#include "cuda/depthwise/depthwise_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {

const char* RunDepthwise(const Call& call, const CudaStep& step) {
  const Chain& p = call.p;
  DepthwiseArgs args{};
  SetDepthwise(call, call.At(step.from), call.At(step.to), &args);
  const bool window = step.kernel != CudaKernel::kDepthwise && call.Aligned(args.x, 4) && call.Aligned(args.d, 4) &&
                      call.Aligned(call.At(CudaTensor::kDX), 4);
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
