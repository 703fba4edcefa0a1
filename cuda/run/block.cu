#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>

#include "cuda/depthwise/block_pixels_kernel.cuh"
#include "cuda/depthwise/block_window_kernel.cuh"
#include "cuda/device/transpose_kernel.cuh"
#include "cuda/fused/strip_kernel.cuh"
#include "cuda/product/block_product_kernel.cuh"
#include "cuda/product/pointwise_kernel.cuh"
#include "cuda/run/block.h"
#include "cuda/run/block_launch.h"
#include "cuda/run/forward.h"
#include "cuda/run/launch.h"

namespace dwsconv {
namespace cuda {
namespace {

std::atomic<int64_t> calls{0};

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool Aligned(const void* pointer, int64_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

DeviceActivation OnDevice(const Activation& activation) {
  return {static_cast<int>(activation.kind), activation.alpha};
}

// A matrix product of whole images: Y = activation(X P + bias + residual), [pixels, channels] by [channels, K].
struct Product {
  const void *x, *p, *bias, *residual;
  void* y;
  int64_t channels, K;
  Activation activation;
};

// What enqueues one block's stages, all channels-last.
class Stages {
 public:
  Stages(const Block& block, const CudaBlockPlan& plan, const BlockBuffers& buffers, char* workspace,
         int multiprocessors, void* stream)
      : block_(block),
        p_(block.main),
        plan_(plan),
        buffers_(buffers),
        workspace_(workspace),
        multiprocessors_(multiprocessors),
        stream_(stream) {}

  std::string Run() {
    const char* error = "";
    const void* z = buffers_.main.input;
    const bool middle = plan_.middle != CudaBlockMiddle::kNone, last = plan_.last != CudaBlockLast::kNone;
    if (plan_.expand != CudaBlockExpand::kNone) {
      void* const a = middle || last ? workspace_ + plan_.a_at_bytes : buffers_.main.output;
      error = Expand(z, a);
      z = a;
    }
    if (*error != '\0') return error;
    if (plan_.middle == CudaBlockMiddle::kForward) {
      ForwardBuffers buffers = buffers_.main;
      buffers.input = z;
      Problem pair = p_;
      pair.layout = Layout::kNHWC;
      return Forward(pair, plan_.forward, buffers, workspace_ + plan_.forward_at_bytes, stream_);
    }
    if (plan_.middle == CudaBlockMiddle::kStrip) return Strip(z);
    if (middle) {
      void* const to = last ? workspace_ + plan_.z_at_bytes : buffers_.main.output;
      error = Middle(z, to);
      z = to;
    }
    if (*error == '\0' && last) error = Last(z);
    return error;
  }

 private:
  bool Vectors(int64_t channels, const void* pointer) const {
    return channels * SizeOf(p_.dtype) % 16 == 0 && Aligned(pointer, 16);
  }

  OutputArgs Output(const void* residual, void* y, int64_t channels, const Activation& activation) const {
    OutputArgs out;
    out.residual = residual;
    out.y = y;
    out.channels = static_cast<int>(channels);
    out.vector = Vectors(channels, y) && Aligned(residual, 16);
    out.activation = OnDevice(activation);
    return out;
  }

  const char* Multiply(const Product& product, int64_t pixels) const {
    PointwiseArgs args{};
    args.z = product.x;
    args.p = product.p;
    args.bias = product.bias;
    args.out = Output(product.residual, product.y, product.K, product.activation);
    args.pixels = pixels;
    args.row_tiles = Ceil(pixels, kPointwiseRows);
    args.items = args.row_tiles * Ceil(product.K, kPointwiseColumns);
    args.channels = static_cast<int>(product.channels);
    args.z_vector = Vectors(product.channels, product.x);
    args.p_vector = Vectors(product.K, product.p);
    return LaunchPointwise(p_.dtype, plan_.math, stream_, args);
  }

  // Of one tap, at [N,H,W]: the caller says where else.
  BlockGeneralArgs General(const Product& product, int64_t H, int64_t W) const {
    BlockGeneralArgs args{};
    args.x = product.x;
    args.p = product.p;
    args.bias = product.bias;
    args.residual = product.residual;
    args.y = product.y;
    args.out = OnDevice(product.activation);
    args.N = p_.N, args.C = product.channels, args.K = product.K;
    args.H = args.Ho = H, args.W = args.Wo = W;
    args.R = args.S = args.stride_h = args.stride_w = args.dilation_h = args.dilation_w = 1;
    return args;
  }

  const char* Expand(const void* x, void* a) const {
    const int64_t pixels = p_.N * p_.H * p_.W;
    if (pixels == 0) return "";  // windows of nothing but padding
    const Product product{x, buffers_.expand_filter, buffers_.expand_bias, nullptr, a, block_.E, p_.C, block_.lead};
    if (plan_.expand == CudaBlockExpand::kGeneral)
      return LaunchBlockGeneral(p_.dtype, stream_, General(product, p_.H, p_.W));
    return Multiply(product, pixels);
  }

  const char* Strip(const void* x) const {
    const CudaBlockStrip& strip = plan_.strip;
    const ForwardBuffers& main = buffers_.main;
    BlockStripArgs args{};
    args.x = x;
    args.expand = buffers_.expand_filter;
    args.expand_bias = buffers_.expand_bias;
    args.d = main.depthwise_filter;
    args.depthwise_bias = main.depthwise_bias;
    args.p = main.pointwise_filter;
    args.bias = main.bias;
    args.out = Output(main.residual, main.output, p_.K, p_.out);
    args.lead = OnDevice(block_.lead);
    args.mid = OnDevice(p_.mid);
    args.H = static_cast<int>(p_.H), args.W = static_cast<int>(p_.W);
    args.E = static_cast<int>(block_.E), args.C = static_cast<int>(p_.C);
    args.Ho = static_cast<int>(p_.Ho), args.Wo = static_cast<int>(p_.Wo);
    args.pad_top = static_cast<int>(p_.pad_top), args.pad_left = static_cast<int>(p_.pad_left);
    args.x_vector = Vectors(block_.E, x);
    args.expand_vector = Vectors(p_.C, args.expand);
    args.p_vector = Vectors(p_.K, args.p);
    args.y_words = p_.C * SizeOf(p_.dtype) % 4 == 0 && Aligned(main.output, 4);
    args.tile_rows = strip.tile_rows, args.tile_columns = strip.tile_columns;
    args.in_columns = strip.in_columns, args.ring_rows = strip.ring_rows;
    args.depth = strip.depth, args.channels = strip.channels, args.out_channels = strip.out_channels;
    args.warp_channels = strip.warp_channels;
    args.strips = strip.strips, args.segments = strip.segments, args.segment_rows = strip.segment_rows;
    args.expand_offset_bytes = strip.expand_offset_bytes, args.d_offset_bytes = strip.d_offset_bytes;
    args.p_offset_bytes = strip.p_offset_bytes, args.bias_offset_bytes = strip.bias_offset_bytes;
    args.x_offset_bytes = strip.x_offset_bytes, args.ring_offset_bytes = strip.ring_offset_bytes;
    args.z_offset_bytes = strip.z_offset_bytes;
    args.x_pitch = strip.x_pitch, args.expand_pitch = strip.expand_pitch;
    args.ring_pitch = strip.ring_pitch, args.p_pitch = strip.p_pitch;
    args.items = strip.items;
    const int64_t grid = std::min(strip.items, int64_t{multiprocessors_} * strip.blocks_per_multiprocessor);
    const auto launch = p_.dtype == DType::kFloat16    ? LaunchBlockStripFloat16
                        : p_.dtype == DType::kBFloat16 ? LaunchBlockStripBFloat16
                                                       : LaunchBlockStripTf32;
    return launch(p_.R, p_.stride_h, grid, strip.shared_bytes, stream_, args);
  }

  const char* Middle(const void* x, void* y) const {
    const bool ends = plan_.last == CudaBlockLast::kNone;
    const void* const residual = ends ? buffers_.main.residual : nullptr;
    bool window = plan_.middle == CudaBlockMiddle::kWindow || plan_.middle == CudaBlockMiddle::kWindowThenPixels;
    for (const void* pointer :
         {x, buffers_.main.depthwise_filter, buffers_.scale, residual, static_cast<const void*>(y)}) {
      window = window && Aligned(pointer, 4);
    }
    BlockPixelsArgs pixels{};
    pixels.scale = buffers_.scale;
    pixels.residual = residual;
    pixels.y = y;
    pixels.normalize = block_.normalize;
    pixels.epsilon = block_.epsilon;
    DepthwiseArgs& from = pixels.depthwise;
    from.x = x;
    from.N = p_.N, from.C = p_.CM(), from.M = 1, from.Ho = p_.Ho, from.Wo = p_.Wo;
    if (window) {
      BlockWindowArgs args{};
      args.x = x;
      args.d = buffers_.main.depthwise_filter;
      args.bias = buffers_.main.depthwise_bias;
      args.y = y;
      args.mid = OnDevice(p_.mid);
      args.N = p_.N;
      args.H = static_cast<int>(p_.H), args.W = static_cast<int>(p_.W), args.C = static_cast<int>(p_.C);
      args.Ho = static_cast<int>(p_.Ho), args.Wo = static_cast<int>(p_.Wo);
      args.pad_top = static_cast<int>(p_.pad_top), args.pad_left = static_cast<int>(p_.pad_left);
      const bool all = plan_.middle == CudaBlockMiddle::kWindow;
      if (all) {
        args.scale = buffers_.scale;
        args.residual = residual;
        args.normalize = block_.normalize;
        args.epsilon = block_.epsilon;
      } else {
        args.y = workspace_ + plan_.unnormalized_at_bytes;
        from.x = args.y;
      }
      const char* const error = LaunchBlockWindow(p_.dtype, p_.R, p_.stride_h, multiprocessors_, stream_, args);
      if (all || *error != '\0') return error;
    } else if (block_.has_depthwise) {
      from.d = buffers_.main.depthwise_filter;
      from.bias = buffers_.main.depthwise_bias;
      from.mid = OnDevice(p_.mid);
      from.H = p_.H, from.W = p_.W, from.C = p_.C, from.M = p_.M, from.R = p_.R, from.S = p_.S;
      from.stride_h = p_.stride_h, from.stride_w = p_.stride_w;
      from.dilation_h = p_.dilation_h, from.dilation_w = p_.dilation_w;
      from.pad_top = p_.pad_top, from.pad_left = p_.pad_left;
    }
    return LaunchBlockPixels(p_.dtype, stream_, pixels);
  }

  const char* Last(const void* z) const {
    const ForwardBuffers& main = buffers_.main;
    const Product product{z, main.pointwise_filter, main.bias, main.residual, main.output, p_.CM(), p_.K, p_.out};
    // Where a middle stage has not multiplied by the factors already.
    const void* const scale = plan_.middle == CudaBlockMiddle::kNone ? buffers_.scale : nullptr;
    const int64_t pixels = p_.N * p_.output_pixels();
    if (plan_.last == CudaBlockLast::kPointwise) return Multiply(product, pixels);
    if (plan_.last == CudaBlockLast::kGeneral) {
      BlockGeneralArgs args = General(product, p_.Ho, p_.Wo);
      args.scale = scale;
      if (!block_.has_depthwise) {
        args.H = p_.H, args.W = p_.W, args.R = p_.R, args.S = p_.S;
        args.stride_h = p_.stride_h, args.stride_w = p_.stride_w;
        args.dilation_h = p_.dilation_h, args.dilation_w = p_.dilation_w;
        args.pad_top = p_.pad_top, args.pad_left = p_.pad_left;
      }
      return LaunchBlockGeneral(p_.dtype, stream_, args);
    }
    BlockProductArgs args{};
    args.x = z;
    args.p = product.p;
    args.bias = product.bias;
    args.scale = scale;
    args.out = Output(product.residual, product.y, p_.K, p_.out);
    args.pixels = pixels;
    args.row_tiles = Ceil(pixels, kBlockProductRows);
    args.items = args.row_tiles * Ceil(p_.K, kBlockProductColumns);
    args.image_pixels = p_.output_pixels();
    args.channels = static_cast<int>(p_.CM());
    args.x_vector = Vectors(p_.CM(), z) && Aligned(scale, 16);
    args.p_vector = Vectors(p_.K, product.p);
    args.depth = args.channels;
    if (plan_.last == CudaBlockLast::kGated) return LaunchBlockGated(p_.dtype, plan_.math, stream_, args);
    args.depth = static_cast<int>(p_.R * p_.S * p_.C);
    args.H = static_cast<int>(p_.H), args.W = static_cast<int>(p_.W);
    args.S = static_cast<int>(p_.S), args.Wo = static_cast<int>(p_.Wo);
    args.stride_h = static_cast<int>(p_.stride_h), args.stride_w = static_cast<int>(p_.stride_w);
    args.dilation_h = static_cast<int>(p_.dilation_h), args.dilation_w = static_cast<int>(p_.dilation_w);
    args.pad_top = static_cast<int>(p_.pad_top), args.pad_left = static_cast<int>(p_.pad_left);
    return LaunchBlockDense(p_.dtype, plan_.math, stream_, args);
  }

  const Block& block_;
  const Problem& p_;
  const CudaBlockPlan& plan_;
  const BlockBuffers& buffers_;
  char* const workspace_;
  const int multiprocessors_;
  void* const stream_;
};

const char* Transpose(const Problem& p, const void* from, void* to, int64_t rows, int64_t columns, void* stream) {
  TransposeArgs args{from, to, p.N, rows, columns, 0};
  args.items = p.N * Ceil(rows, kTransposeTile) * Ceil(columns, kTransposeTile);
  return args.items == 0 ? "" : LaunchTranspose(SizeOf(p.dtype), stream, args);
}

}  // namespace

int64_t BlockCalls() { return calls.load(); }

std::string ForwardBlock(const Block& block, const CudaBlockPlan& plan, const BlockBuffers& given, void* workspace,
                         void* stream) {
  const Problem& p = block.main;
  if (p.N * p.output_pixels() == 0) return "";
  CudaMachine machine;
  std::string error = CurrentMachine(&machine);
  if (!error.empty()) return error;
  calls.fetch_add(1);
  BlockBuffers buffers = given;
  char* const base = static_cast<char*>(workspace);
  const int64_t outputs = block.has_pointwise ? p.K : p.CM();
  if (plan.transposed) {
    buffers.main.input = base + plan.x_at_bytes;
    buffers.main.output = base + plan.y_at_bytes;
    error = Transpose(p, given.main.input, base + plan.x_at_bytes, block.x_channels(), p.H * p.W, stream);
    if (error.empty() && p.has_residual) {
      buffers.main.residual = base + plan.residual_at_bytes;
      error = Transpose(p, given.main.residual, base + plan.residual_at_bytes, outputs, p.output_pixels(), stream);
    }
  }
  if (error.empty()) error = Stages(block, plan, buffers, base, machine.multiprocessors, stream).Run();
  if (error.empty() && plan.transposed) {
    error = Transpose(p, base + plan.y_at_bytes, given.main.output, p.output_pixels(), outputs, stream);
  }
  return error;
}

}  // namespace cuda
}  // namespace dwsconv
