// Launches the products that make what they multiply: one file for each way, so that they compile side by side.
#ifndef DWSCONV_CUDA_PRODUCT_BLOCK_PRODUCT_LAUNCH_CUH_
#define DWSCONV_CUDA_PRODUCT_BLOCK_PRODUCT_LAUNCH_CUH_

#include "cuda/product/block_product_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {

template <template <typename> class Rows>
const char* RunBlockProduct(const Call& call, const CudaStep& step) {
  constexpr bool kWindow = Rows<float>::kWindow;
  const Chain& p = call.p;
  const Matrix matrix(call, step);
  BlockProductArgs args{};
  args.x = matrix.x;
  args.p = matrix.p;
  args.bias = matrix.bias;
  args.gate = call.At(CudaTensor::kGate);
  args.out = matrix.Output(call);
  args.pixels = matrix.pixels;
  args.column_tiles = CeilDiv(matrix.columns, kProductTile);
  args.items = CeilDiv(matrix.pixels, kProductTile) * args.column_tiles;
  args.image_pixels = p.output_pixels();
  args.channels = args.depth = static_cast<int>(matrix.channels);
  args.x_vector = call.Vectors(matrix.channels, matrix.x) && call.Aligned(args.gate, 16);
  args.p_vector = call.Vectors(matrix.columns, matrix.p);
  if (kWindow) {
    args.depth = static_cast<int>(p.R * p.S * p.C);
    args.H = static_cast<int>(p.H), args.W = static_cast<int>(p.W);
    args.S = static_cast<int>(p.S), args.Wo = static_cast<int>(p.Wo);
    args.stride_h = static_cast<int>(p.stride_h), args.stride_w = static_cast<int>(p.stride_w);
    args.dilation_h = static_cast<int>(p.dilation_h), args.dilation_w = static_cast<int>(p.dilation_w);
    args.pad_top = static_cast<int>(p.pad_top), args.pad_left = static_cast<int>(p.pad_left);
  }
  const bool plain = args.x_vector && args.p_vector && args.out.vector;
  const int64_t shared_bytes = ProductSharedBytes(ProductStages(call.plan.capability), kWindow);
  return WithPolicy(p.dtype, call.plan.math, [&](auto policy) {
    using Policy = decltype(policy);
    return LaunchKernel(plain ? BlockProductKernel<Policy, Rows, true> : BlockProductKernel<Policy, Rows, false>,
                        Grid(args.items), kProductThreads, shared_bytes, call.stream, args);
  });
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_PRODUCT_BLOCK_PRODUCT_LAUNCH_CUH_
