#include "cuda/fused/direct_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {

const char* RunDirect(const Call& call, const CudaStep& step) {
  const Matrix matrix(call, step);
  DirectArgs args{};
  SetDepthwise(call, matrix.x, nullptr, &args.depthwise);
  args.p = matrix.p;
  args.bias = matrix.bias;
  args.residual = matrix.residual;
  args.y = matrix.y;
  args.out = OnDevice(matrix.activation);
  args.K = call.p.K;
  args.items = CeilDiv(matrix.pixels, kDirectPixels) * CeilDiv(call.p.K, kDirectThreads);
  args.nchw = call.p.layout == Layout::kNCHW && !call.plan.transposed;
  return WithElement(call.p.dtype, [&](auto element) {
    return LaunchKernel(DirectKernel<decltype(element)>, Grid(args.items, kMostBlocks), kDirectThreads,
                        kDirectSharedBytes, call.stream, args);
  });
}

}  // namespace cuda
}  // namespace dwsconv
