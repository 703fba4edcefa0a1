#include "cuda/fused/deep_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {

// Compiled by one file for each policy: see deep_launch.cuh.
template <typename Policy>
const char* LaunchDeep(const Chain& p, const Launch& launch, bool plain, const DeepArgs& args);

const char* RunDeep(const Call& call, const CudaStep& step) {
  const Chain& p = call.p;
  const CudaTile& tile = step.tile;
  const Matrix matrix(call, step);
  DeepArgs args{};
  SetDepthwise(call, matrix.x, nullptr, &args.depthwise);
  args.p = matrix.p;
  args.bias = matrix.bias;
  args.out = matrix.Output(call);
  args.pixels = matrix.pixels, args.items = tile.items;
  args.tile_pixels = tile.tile_rows * tile.tile_columns;
  Put(p.output_pixels(), &args.image_pixels);
  Put(CeilDiv(p.Ho, kPatch), &args.patch_rows), Put(CeilDiv(p.Wo, kPatch), &args.patch_columns);
  args.channels = tile.channels, args.out_channels = tile.out_channels;
  args.z_pitch = tile.z_pitch, args.p_pitch = tile.p_pitch;
  args.stage_rows = DeepStageRows(tile.groups, static_cast<int>(SizeOf(p.dtype)));
  args.column_warps_log2 = Log2(2 * tile.groups);
  args.pieces_log2 = Log2(tile.groups * kDeepGroupColumns * static_cast<int>(SizeOf(p.dtype)) / 16);
  args.ring_offset_bytes = tile.ring_offset_bytes, args.bias_offset_bytes = tile.bias_offset_bytes;
  args.p_vector = call.Vectors(p.K, matrix.p);
  const bool words = p.C * SizeOf(p.dtype) % 4 == 0 && call.Aligned(matrix.x, 4) && call.Aligned(args.depthwise.d, 4);
  const bool plain = words && args.p_vector && args.out.vector;
  const int64_t slots = int64_t{call.plan.multiprocessors} * tile.blocks_per_multiprocessor;
  const Launch launch{std::min(tile.items, slots), tile.threads, tile.shared_bytes, call.stream};
  return WithTensorCores(p.dtype, [&](auto policy) { return LaunchDeep<decltype(policy)>(p, launch, plain, args); });
}

}  // namespace cuda
}  // namespace dwsconv
