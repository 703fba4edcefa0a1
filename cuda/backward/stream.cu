#include "cuda/backward/stream_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {

// Compiled by one file for each policy: see stream_launch.cuh.
template <typename Policy>
const char* LaunchBackwardStream(const Chain& p, const Launch& launch, const BackwardStreamArgs& args);

// All but dX and dD, and the parts of all but dD.
const char* RunGradientStream(const Call& call, const CudaStep& step) {
  const Chain& p = call.p;
  const CudaTile& tile = step.tile;
  const bool activates = p.out.kind != ActivationKind::kNone;
  BackwardStreamArgs args{};
  args.x = call.At(step.from);
  args.d = call.At(CudaTensor::kDepthwiseFilter);
  args.p_transposed = call.At(step.with);
  args.depthwise_bias = call.At(CudaTensor::kDepthwiseBias);
  args.gradient = call.At(CudaTensor::kGrad);
  args.y = activates ? call.At(CudaTensor::kY) : nullptr;
  args.dz = call.At(step.to);
  void* const residual_gradient = call.At(CudaTensor::kDResidual);
  const bool copies = activates || residual_gradient != args.gradient;
  args.residual_gradient = step.residual && copies ? residual_gradient : nullptr;
  args.product_sums = call.SumsAt(CudaTensor::kProductSums);
  args.bias_sums = call.SumsAt(CudaTensor::kBiasSums);
  args.between_sums = call.SumsAt(CudaTensor::kBetweenSums);
  args.mid = OnDevice(p.mid);
  args.out = OnDevice(p.out);
  SetImage(p, &args);
  args.K = static_cast<int>(p.K);
  SetTile(tile, &args);
  args.tile_columns_log2 = Log2(tile.tile_columns);
  args.z_pitch = tile.z_pitch, args.g_pitch = tile.g_pitch;
  args.g_offset_bytes = tile.g_offset_bytes, args.sums_offset_bytes = tile.sums_offset_bytes;
  args.gradient_offset_bytes = tile.gradient_offset_bytes;
  args.row_warps = tile.row_warps, args.warp_columns = tile.warp_columns;
  args.parts = call.plan.product.count;
  const Launch launch{args.parts, kBackwardStreamThreads, tile.shared_bytes, call.stream};
  return WithTensorCores(p.dtype, [&](auto policy) { return LaunchBackwardStream<decltype(policy)>(p, launch, args); });
}

}  // namespace cuda
}  // namespace dwsconv
