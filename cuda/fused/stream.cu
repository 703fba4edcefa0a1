#include "cuda/fused/stream_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {

// Compiled by one file for each policy: see stream_launch.cuh.
template <typename Policy>
const char* LaunchStream(const Chain& p, const Launch& launch, const StreamArgs& args);
template <typename T>
const char* LaunchTensorStream(const Chain& p, const Launch& launch, const StreamArgs& args);

namespace {

// What both kernels take.
StreamArgs ArgsOf(const Call& call, const CudaStep& step) {
  const Chain& p = call.p;
  const CudaTile& tile = step.tile;
  const Matrix matrix(call, step);
  StreamArgs args{};
  args.x = matrix.x;
  args.d = call.At(CudaTensor::kDepthwiseFilter);
  args.p = matrix.p;
  args.depthwise_bias = call.At(CudaTensor::kDepthwiseBias);
  args.bias = matrix.bias;
  args.out = matrix.Output(call);
  args.mid = OnDevice(p.mid);
  SetImage(p, &args);
  args.x_vector = call.Vectors(p.C, matrix.x);
  args.p_vector = call.Vectors(p.K, matrix.p);
  SetTile(tile, &args);
  args.tile_columns_log2 = Log2(tile.tile_columns);
  args.warp_channels = tile.warp_channels;
  args.z_pitch = tile.z_pitch;
  args.group_bytes = tile.group_bytes;
  args.groups = tile.groups;
  args.group_threads = tile.threads / tile.groups;
  args.group_threads_log2 = Log2(args.group_threads);
  const int words = tile.channels * static_cast<int>(SizeOf(p.dtype)) / 4;
  args.patch_step = args.group_threads / words;
  args.word_step = args.group_threads % words;
  args.copy_step = args.group_threads / (words / 4);
  args.image_outputs = static_cast<int>(p.output_pixels() * p.K);
  return args;
}

Launch LaunchOf(const Call& call, const CudaTile& tile) {
  const int64_t slots = int64_t{call.plan.multiprocessors} * tile.blocks_per_multiprocessor;
  return {std::min(CeilDiv(tile.items, tile.groups), slots), tile.threads, tile.shared_bytes, call.stream};
}

}  // namespace

const char* RunStream(const Call& call, const CudaStep& step) {
  const StreamArgs args = ArgsOf(call, step);
  const Launch launch = LaunchOf(call, step.tile);
  return WithPolicy(call.p.dtype, call.plan.math,
                    [&](auto policy) { return LaunchStream<decltype(policy)>(call.p, launch, args); });
}

const char* RunTensorStream(const Call& call, const CudaStep& step) {
  const StreamArgs args = ArgsOf(call, step);
  const Launch launch = LaunchOf(call, step.tile);
  if (call.p.dtype == DType::kFloat16) return LaunchTensorStream<Float16>(call.p, launch, args);
  return LaunchTensorStream<BFloat16>(call.p, launch, args);
}

}  // namespace cuda
}  // namespace dwsconv
