#include "cuda/product/pointwise_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {

const char* RunProduct(const Call& call, const CudaStep& step) {
  const Matrix matrix(call, step);
  if (matrix.pixels == 0) return "";  // windows of nothing but padding
  PointwiseArgs args{};
  args.z = matrix.x;
  args.p = matrix.p;
  args.bias = matrix.bias;
  args.out = matrix.Output(call);
  args.pixels = matrix.pixels;
  args.column_tiles = CeilDiv(matrix.columns, kProductTile);
  args.items = CeilDiv(matrix.pixels, kProductTile) * args.column_tiles;
  args.channels = static_cast<int>(matrix.channels);
  args.z_vector = call.Vectors(matrix.channels, matrix.x);
  args.p_vector = call.Vectors(matrix.columns, matrix.p);
  const bool plain = args.z_vector && args.p_vector && args.out.vector;
  const int64_t shared_bytes = ProductSharedBytes(ProductStages(call.plan.capability), false);
  return WithPolicy(call.p.dtype, call.plan.math, [&](auto policy) {
    using Policy = decltype(policy);
    return LaunchKernel(plain ? PointwiseKernel<Policy, true> : PointwiseKernel<Policy, false>, Grid(args.items),
                        kProductThreads, shared_bytes, call.stream, args);
  });
}

}  // namespace cuda
}  // namespace dwsconv
