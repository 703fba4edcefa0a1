#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>

#include "cuda/depthwise/depthwise_kernel.cuh"
#include "cuda/depthwise/toeplitz_kernel.cuh"
#include "cuda/device/transpose_kernel.cuh"
#include "cuda/fused/direct_kernel.cuh"
#include "cuda/fused/stream_kernel.cuh"
#include "cuda/product/pointwise_kernel.cuh"
#include "cuda/run/forward.h"
#include "cuda/run/launch.h"

namespace dwsconv {
namespace cuda {
namespace {

std::atomic<int64_t> calls[4];

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool Aligned(const void* pointer, int64_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

// Whether rows of `size` elements are whole vectors of 16 bytes.
bool Vectors(const Problem& p, int64_t size, const void* pointer) {
  return size * SizeOf(p.dtype) % 16 == 0 && Aligned(pointer, 16);
}

DeviceActivation OnDevice(const Activation& activation) {
  return {static_cast<int>(activation.kind), activation.alpha};
}

OutputArgs Output(const Problem& p, const ForwardBuffers& buffers) {
  OutputArgs out;
  out.residual = buffers.residual;
  out.y = buffers.output;
  out.channels = static_cast<int>(p.K);
  out.vector = Vectors(p, p.K, buffers.output) && Aligned(buffers.residual, 16);
  out.activation = OnDevice(p.out);
  return out;
}

DepthwiseArgs Depthwise(const Problem& p, const ForwardBuffers& buffers, void* z) {
  DepthwiseArgs args{};
  args.x = buffers.input;
  args.d = buffers.depthwise_filter;
  args.bias = buffers.depthwise_bias;
  args.z = z;
  args.mid = OnDevice(p.mid);
  args.N = p.N, args.H = p.H, args.W = p.W, args.C = p.C, args.M = p.M, args.R = p.R, args.S = p.S;
  args.Ho = p.Ho, args.Wo = p.Wo;
  args.stride_h = p.stride_h, args.stride_w = p.stride_w;
  args.dilation_h = p.dilation_h, args.dilation_w = p.dilation_w;
  args.pad_top = p.pad_top, args.pad_left = p.pad_left;
  return args;
}

const char* RunDirect(const Problem& p, const ForwardBuffers& buffers, void* stream) {
  DirectArgs args{};
  args.depthwise = Depthwise(p, buffers, nullptr);
  args.p = buffers.pointwise_filter;
  args.bias = buffers.bias;
  args.residual = buffers.residual;
  args.y = buffers.output;
  args.out = OnDevice(p.out);
  args.K = p.K;
  args.items = Ceil(p.N * p.output_pixels(), kDirectPixels) * Ceil(p.K, kDirectThreads);
  args.nchw = p.layout == Layout::kNCHW;
  return LaunchDirect(p.dtype, stream, args);
}

const char* RunToeplitz(const Problem& p, const CudaPlan& plan, int multiprocessors, const ForwardBuffers& buffers,
                        void* z, void* stream) {
  ToeplitzArgs args{};
  args.x = buffers.input;
  args.d = buffers.depthwise_filter;
  args.bias = buffers.depthwise_bias;
  args.z = z;
  args.mid = OnDevice(p.mid);
  args.H = static_cast<int>(p.H), args.W = static_cast<int>(p.W), args.C = static_cast<int>(p.C);
  args.Ho = static_cast<int>(p.Ho), args.Wo = static_cast<int>(p.Wo);
  args.pad_top = static_cast<int>(p.pad_top), args.pad_left = static_cast<int>(p.pad_left);
  args.strips = static_cast<int>(Ceil(p.Wo, kToeplitzColumns));
  args.segments = plan.segments;
  args.segment_rows = plan.segment_rows;
  args.groups = static_cast<int>(Ceil(p.C, kToeplitzChannels));
  args.items = static_cast<int>(p.N) * args.segments * args.strips;
  return LaunchDepthwiseToeplitz(p.dtype, multiprocessors, stream, args);
}

const char* RunTwoStep(const Problem& p, const CudaPlan& plan, int multiprocessors, const ForwardBuffers& buffers,
                       void* z, void* stream) {
  DepthwiseArgs depthwise = Depthwise(p, buffers, z);
  const char* error;
  if (plan.toeplitz && Aligned(buffers.input, 16) && Aligned(buffers.depthwise_filter, 16) && Aligned(z, 16)) {
    error = RunToeplitz(p, plan, multiprocessors, buffers, z, stream);
  } else if (plan.fast_depthwise && Aligned(buffers.input, 4) && Aligned(buffers.depthwise_filter, 4)) {
    const int64_t words = p.C * SizeOf(p.dtype) / 4;
    depthwise.items = p.N * Ceil(p.Ho, kPatch) * Ceil(words * Ceil(p.Wo, kPatch), kDepthwiseThreads);
    const Launch launch{std::min<int64_t>(depthwise.items, INT32_MAX), kDepthwiseThreads, 0, stream};
    error = LaunchDepthwise(p.dtype, p.R, p.stride_h, launch, depthwise);
  } else {
    error = LaunchDepthwiseGeneral(p.dtype, stream, depthwise);
  }
  if (*error != '\0') return error;
  PointwiseArgs args{};
  args.z = z;
  args.p = buffers.pointwise_filter;
  args.bias = buffers.bias;
  args.out = Output(p, buffers);
  args.pixels = p.N * p.output_pixels();
  args.row_tiles = Ceil(args.pixels, kPointwiseRows);
  args.items = args.row_tiles * Ceil(p.K, kPointwiseColumns);
  args.channels = static_cast<int>(p.CM());
  args.z_vector = Vectors(p, p.CM(), z);
  args.p_vector = Vectors(p, p.K, buffers.pointwise_filter);
  return LaunchPointwise(p.dtype, plan.math, stream, args);
}

int Log2(int power) { return power <= 1 ? 0 : 1 + Log2(power / 2); }

const char* RunStream(const Problem& p, const CudaPlan& plan, int multiprocessors, const ForwardBuffers& buffers,
                      void* stream) {
  StreamArgs args{};
  args.x = buffers.input;
  args.d = buffers.depthwise_filter;
  args.p = buffers.pointwise_filter;
  args.depthwise_bias = buffers.depthwise_bias;
  args.bias = buffers.bias;
  args.out = Output(p, buffers);
  args.mid = OnDevice(p.mid);
  args.H = static_cast<int>(p.H), args.W = static_cast<int>(p.W), args.C = static_cast<int>(p.C);
  args.Ho = static_cast<int>(p.Ho), args.Wo = static_cast<int>(p.Wo);
  args.pad_top = static_cast<int>(p.pad_top), args.pad_left = static_cast<int>(p.pad_left);
  args.x_vector = Vectors(p, p.C, buffers.input);
  args.p_vector = Vectors(p, p.K, buffers.pointwise_filter);
  args.tile_rows = plan.tile_rows;
  args.tile_columns = plan.tile_columns;
  args.tile_columns_log2 = Log2(plan.tile_columns);
  args.in_columns = plan.in_columns;
  args.channels = plan.channels;
  args.ring_rows = plan.ring_rows;
  args.out_channels = plan.out_channels;
  args.warp_channels = plan.warp_channels;
  args.strips = static_cast<int>(Ceil(p.Wo, plan.tile_columns));
  args.segments = plan.segments;
  args.segment_rows = plan.segment_rows;
  args.z_pitch = ZPitch(plan.channels, static_cast<int>(SizeOf(p.dtype)));
  args.p_pitch = PPitch(plan.out_channels);
  args.p_offset_bytes = plan.p_offset_bytes;
  args.z_offset_bytes = plan.z_offset_bytes;
  args.d_offset_bytes = plan.d_offset_bytes;
  args.bias_offset_bytes = plan.bias_offset_bytes;
  args.ring_offset_bytes = plan.ring_offset_bytes;
  args.group_bytes = plan.group_bytes;
  args.groups = plan.groups;
  args.group_threads = plan.threads / plan.groups;
  args.group_threads_log2 = Log2(args.group_threads);
  const int words = plan.channels * static_cast<int>(SizeOf(p.dtype)) / 4;
  args.patch_step = args.group_threads / words;
  args.word_step = args.group_threads % words;
  args.copy_step = args.group_threads / (words / 4);
  args.items = static_cast<int>(plan.items);
  args.image_outputs = static_cast<int>(p.output_pixels() * p.K);
  const int64_t slots = int64_t{multiprocessors} * plan.blocks_per_multiprocessor;
  const Launch launch{std::min(Ceil(plan.items, plan.groups), slots), plan.threads, plan.shared_bytes, stream};
  switch (p.dtype) {
    case DType::kFloat16:
      return LaunchStreamFloat16(p.R, p.stride_h, launch, args);
    case DType::kBFloat16:
      return LaunchStreamBFloat16(p.R, p.stride_h, launch, args);
    case DType::kFloat32:
      break;
  }
  return plan.math == CudaMath::kTf32 ? LaunchStreamTf32(p.R, p.stride_h, launch, args)
                                      : LaunchStreamExact(p.R, p.stride_h, launch, args);
}

const char* Transpose(const Problem& p, const void* from, void* to, int64_t rows, int64_t columns, void* stream) {
  TransposeArgs args{from, to, p.N, rows, columns, 0};
  args.items = p.N * Ceil(rows, kTransposeTile) * Ceil(columns, kTransposeTile);
  return LaunchTranspose(SizeOf(p.dtype), stream, args);
}

}  // namespace

int64_t ForwardCalls(CudaPath path) { return calls[static_cast<int>(path)].load(); }

std::string Forward(const Problem& problem, const CudaPlan& plan, const ForwardBuffers& given, void* workspace,
                    void* stream) {
  if (problem.N * problem.output_pixels() == 0) return "";
  CudaMachine machine;
  const std::string unknown = CurrentMachine(&machine);
  if (!unknown.empty()) return unknown;
  calls[static_cast<int>(plan.path)].fetch_add(1);
  Problem p = problem;
  ForwardBuffers buffers = given;
  char* const base = static_cast<char*>(workspace);
  const char* error = "";
  if (plan.transposed) {
    p.layout = Layout::kNHWC;
    buffers.input = base + plan.x_at_bytes;
    buffers.output = base + plan.y_at_bytes;
    error = Transpose(p, given.input, base + plan.x_at_bytes, p.C, p.H * p.W, stream);
    if (*error == '\0' && p.has_residual) {
      buffers.residual = base + plan.residual_at_bytes;
      error = Transpose(p, given.residual, base + plan.residual_at_bytes, p.K, p.output_pixels(), stream);
    }
  }
  if (*error == '\0') {
    switch (plan.path) {
      case CudaPath::kStream:
        error = RunStream(p, plan, machine.multiprocessors, buffers, stream);
        break;
      case CudaPath::kTwoStep:
        error = RunTwoStep(p, plan, machine.multiprocessors, buffers, base + plan.z_at_bytes, stream);
        break;
      default:
        error = RunDirect(p, buffers, stream);
    }
  }
  if (*error == '\0' && plan.transposed) {
    error = Transpose(p, base + plan.y_at_bytes, given.output, p.output_pixels(), p.K, stream);
  }
  return error;
}

}  // namespace cuda
}  // namespace dwsconv
