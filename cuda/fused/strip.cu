#include "cuda/fused/strip_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {

// Compiled by one file for each policy: see strip_launch.cuh.
template <typename Policy>
const char* LaunchStrip(const Chain& p, const Launch& launch, const BlockStripArgs& args);

const char* RunStrip(const Call& call, const CudaStep& step) {
  const Chain& p = call.p;
  const CudaTile& tile = step.tile;
  BlockStripArgs args{};
  args.x = call.At(step.from);
  args.expand = call.At(step.with);
  args.expand_bias = call.At(CudaTensor::kExpandBias);
  args.d = call.At(CudaTensor::kDepthwiseFilter);
  args.depthwise_bias = call.At(CudaTensor::kDepthwiseBias);
  args.p = call.At(CudaTensor::kPointwiseFilter);
  args.bias = call.At(CudaTensor::kBias);
  args.out.residual = call.At(CudaTensor::kResidual);
  args.out.y = call.At(step.to);
  args.out.channels = static_cast<int>(p.K);
  args.out.vector = call.Vectors(p.K, args.out.y) && call.Aligned(args.out.residual, 16);
  args.out.activation = OnDevice(p.out);
  args.expand_activation = OnDevice(call.chain.expand);
  args.mid = OnDevice(p.mid);
  SetImage(p, &args);
  args.E = static_cast<int>(call.chain.E);
  args.x_vector = call.Vectors(call.chain.E, args.x);
  args.expand_vector = call.Vectors(p.C, args.expand);
  args.p_vector = call.Vectors(p.K, args.p);
  args.y_words = p.C * SizeOf(p.dtype) % 4 == 0 && call.Aligned(args.out.y, 4);
  SetTile(tile, &args);
  args.depth = tile.depth, args.warp_channels = tile.warp_channels;
  args.column_units = static_cast<int>(CeilDiv(tile.channels, kTiles * kTileColumns));
  args.expand_offset_bytes = tile.expand_offset_bytes, args.x_offset_bytes = tile.x_offset_bytes;
  args.x_pitch = tile.x_pitch, args.expand_pitch = tile.expand_pitch, args.ring_pitch = tile.ring_pitch;
  const int64_t slots = int64_t{call.plan.multiprocessors} * tile.blocks_per_multiprocessor;
  const Launch launch{std::min(tile.items, slots), kBlockStripThreads, tile.shared_bytes, call.stream};
  return WithTensorCores(p.dtype, [&](auto policy) { return LaunchStrip<decltype(policy)>(p, launch, args); });
}

}  // namespace cuda
}  // namespace dwsconv
