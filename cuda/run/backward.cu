#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>

#include "cuda/backward/depthwise_kernel.cuh"
#include "cuda/backward/general_kernel.cuh"
#include "cuda/backward/product_kernel.cuh"
#include "cuda/backward/reduce_kernel.cuh"
#include "cuda/backward/stream_kernel.cuh"
#include "cuda/device/transpose_kernel.cuh"
#include "cuda/run/backward.h"
#include "cuda/run/backward_launch.h"
#include "cuda/run/forward.h"
#include "cuda/run/launch.h"

namespace dwsconv {
namespace cuda {
namespace {

std::atomic<int64_t> calls[kCudaBackwardPaths];

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

DeviceActivation OnDevice(const Activation& activation) {
  return {static_cast<int>(activation.kind), activation.alpha};
}

void AddReduction(ReduceArgs::Matrix matrix, int at, ReduceArgs* args) {
  matrix.blocks = Ceil(matrix.size, kReduceColumns);
  matrix.lanes = ReduceLanes(matrix.count);
  args->matrices[at] = matrix;
  args->items += matrix.blocks;
  args->lanes = std::max(args->lanes, matrix.lanes);
}

// One call in NHWC: each step enqueues a kernel, unless one before it failed.
class Steps {
 public:
  Steps(const Problem& problem, const CudaBackwardPlan& plan, const BackwardBuffers& buffers, char* workspace,
        void* stream)
      : p_(problem),
        plan_(plan),
        b_(buffers),
        workspace_(workspace),
        stream_(stream),
        general_(plan.path == CudaBackwardPath::kGeneral),
        pixels_(p_.N * p_.output_pixels()) {
    gradient_ = b_.grad;
  }

  std::string Run() {
    if (plan_.path == CudaBackwardPath::kFused) {
      Fused();
      DepthwiseGradients();
      Reduce();
      return error_;
    }
    if (plan_.z) Between();
    Gradient();
    if (plan_.wanted.pointwise_filter) PointwiseFilter();
    if (plan_.between) {
      if (plan_.between_factors) BetweenFactors();
      general_ ? BetweenGradientGeneral() : BetweenGradient();
      DepthwiseGradients();
    }
    Reduce();
    return error_;
  }

 private:
  char* At(int64_t offset) const { return offset < 0 ? nullptr : workspace_ + offset; }
  float* SumsAt(int64_t offset) const { return reinterpret_cast<float*>(At(offset)); }

  void Check(const char* error) {
    if (error_.empty()) error_ = error;
  }
  bool Failed() const { return !error_.empty(); }

  bool Aligned(const void* pointer, int64_t bytes) const { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

  // Whether rows of `size` elements are whole vectors of 16 bytes; null has any alignment.
  bool Vectors(int64_t size, const void* pointer) const {
    return size * SizeOf(p_.dtype) % 16 == 0 && Aligned(pointer, 16);
  }

  DepthwiseArgs Depthwise(void* z) const {
    DepthwiseArgs args{};
    args.x = b_.input;
    args.d = b_.depthwise_filter;
    args.bias = p_.has_depthwise_bias ? b_.depthwise_bias : nullptr;
    args.z = z;
    args.mid = OnDevice(p_.mid);
    args.N = p_.N, args.H = p_.H, args.W = p_.W, args.C = p_.C, args.M = p_.M, args.R = p_.R, args.S = p_.S;
    args.Ho = p_.Ho, args.Wo = p_.Wo;
    args.stride_h = p_.stride_h, args.stride_w = p_.stride_w;
    args.dilation_h = p_.dilation_h, args.dilation_w = p_.dilation_w;
    args.pad_top = p_.pad_top, args.pad_left = p_.pad_left;
    return args;
  }

  bool FastDepthwise() const {
    return plan_.fast_depthwise && Aligned(b_.input, 4) && Aligned(b_.depthwise_filter, 4) && Aligned(b_.d_input, 4);
  }

  // Z, by the forward pass' kernels.
  void Between() {
    DepthwiseArgs args = Depthwise(At(plan_.z_at_bytes));
    if (!FastDepthwise()) return Check(LaunchDepthwiseGeneral(p_.dtype, stream_, args));
    const int64_t words = p_.C * SizeOf(p_.dtype) / 4;
    args.items = p_.N * Ceil(p_.Ho, kPatch) * Ceil(words * Ceil(p_.Wo, kPatch), kDepthwiseThreads);
    const Launch launch{std::min<int64_t>(args.items, INT32_MAX), kDepthwiseThreads, 0, stream_};
    Check(LaunchDepthwise(p_.dtype, p_.R, p_.stride_h, launch, args));
  }

  // mid' where dZ will be.
  void BetweenFactors() {
    if (!Failed()) Check(LaunchBetweenFactorsGeneral(p_.dtype, stream_, Depthwise(At(plan_.dz_at_bytes))));
  }

  // gradient * activation'(y) to `to`, and the parts of the sums of its columns; any of y, to and sums may be null.
  void Columns(const void* gradient, const void* y, void* to, float* sums, int64_t columns, int64_t parts,
               int64_t part_pixels) {
    if (Failed()) return;
    ColumnArgs args{};
    args.gradient = gradient;
    args.y = y;
    args.to = to;
    args.sums = sums;
    args.pixels = pixels_;
    args.part_pixels = part_pixels;
    const int64_t unit = Vectors(columns, gradient) && Aligned(y, 16) && Aligned(to, 16) ? 16 / SizeOf(p_.dtype) : 1;
    args.units = columns / unit;
    args.groups = Ceil(args.units, kColumnUnits);
    args.items = parts * args.groups;
    args.activation = OnDevice(p_.out);
    Check(LaunchColumns(p_.dtype, unit, stream_, args));
  }

  // G, where it is not dY, and the parts of the bias' gradient.
  void Gradient() {
    float* sums = SumsAt(plan_.bias_sums_at_bytes);
    const auto columns = [&](const void* y, void* to) {
      Columns(b_.grad, y, to, sums, p_.K, plan_.bias_parts, plan_.bias_part_pixels);
    };
    if (!plan_.gradient) {
      const bool copied = plan_.wanted.residual && b_.d_residual != b_.grad;
      if (copied || sums != nullptr) columns(nullptr, copied ? b_.d_residual : nullptr);
      return;
    }
    void* const to = plan_.gradient_is_residual ? b_.d_residual : At(plan_.gradient_at_bytes);
    gradient_ = to;
    if (!plan_.before) return columns(b_.output, to);
    if (Failed()) return;
    const void* const bias = p_.has_bias ? b_.bias : nullptr;
    const void* const residual = p_.has_residual ? b_.residual : nullptr;
    if (general_) {
      GeneralProductArgs args{};
      args.a = At(plan_.z_at_bytes);
      args.p = b_.pointwise_filter;
      args.to = to;
      args.pixels = pixels_, args.depth = p_.CM(), args.columns = p_.K;
      args.depth_step = p_.K, args.column_step = 1;
      args.activation = OnDevice(p_.out);
      args.bias = bias;
      args.residual = residual;
      args.gradient = b_.grad;
      Check(LaunchProductGeneral(p_.dtype, stream_, args));
    } else {
      BackwardProductArgs args = Product(At(plan_.z_at_bytes), p_.CM(), b_.pointwise_filter, p_.K, to);
      args.to_vector = args.to_vector && Aligned(residual, 16) && Aligned(b_.grad, 16);
      args.items = args.tiles * Ceil(p_.K, kCudaBackwardProduct);
      args.activation = OnDevice(p_.out);
      args.bias = bias;
      args.residual = residual;
      args.gradient = b_.grad;
      Check(LaunchOutputGradient(p_.dtype, plan_.math, stream_, args));
    }
    if (sums != nullptr) {
      Columns(to, nullptr, nullptr, sums, p_.K, plan_.bias_parts, plan_.bias_part_pixels);
    }
  }

  BackwardProductArgs Product(const void* a, int64_t depth, const void* b, int64_t columns, void* to) const {
    BackwardProductArgs args{};
    args.a = a;
    args.b = b;
    args.to = to;
    args.pixels = pixels_;
    args.tiles = Ceil(pixels_, kCudaBackwardProduct);
    args.depth = static_cast<int>(depth);
    args.columns = static_cast<int>(columns);
    args.a_vector = Vectors(depth, a);
    args.b_vector = Vectors(columns, b);
    args.to_vector = Vectors(columns, to);
    return args;
  }

  // The parts of dP.
  void PointwiseFilter() {
    if (Failed()) return;
    const void* const z = At(plan_.z_at_bytes);
    float* const sums = SumsAt(plan_.product_sums_at_bytes);
    if (general_) {
      Check(LaunchFilterProductGeneral(
          p_.dtype, stream_,
          {z, gradient_, sums, pixels_, plan_.product_part_pixels, plan_.product_parts, p_.CM(), p_.K}));
      return;
    }
    FilterProductArgs args{};
    args.z = z;
    args.gradient = gradient_;
    args.sums = sums;
    args.pixels = pixels_;
    args.part_pixels = plan_.product_part_pixels;
    args.items = plan_.product_parts * Ceil(p_.CM(), kCudaBackwardProduct) * Ceil(p_.K, kCudaBackwardProduct);
    args.channels = static_cast<int>(p_.CM());
    args.columns = static_cast<int>(p_.K);
    args.z_vector = Vectors(p_.CM(), z);
    args.gradient_vector = Vectors(p_.K, gradient_);
    Check(LaunchFilterProduct(p_.dtype, plan_.math, stream_, args));
  }

  // What dZ is multiplied with: mid' itself, or Z, which tells it.
  const void* Factors() const {
    if (plan_.between_factors) return At(plan_.dz_at_bytes);
    return p_.mid.kind == ActivationKind::kNone ? nullptr : At(plan_.z_at_bytes);
  }

  // P transposed, in the workspace.
  const void* TransposedFilter() {
    void* const transposed = At(plan_.p_transposed_at_bytes);
    TransposeArgs transpose{b_.pointwise_filter, transposed, 1, p_.CM(), p_.K, 0};
    transpose.items = Ceil(p_.CM(), kTransposeTile) * Ceil(p_.K, kTransposeTile);
    Check(LaunchTranspose(SizeOf(p_.dtype), stream_, transpose));
    return transposed;
  }

  // All but dX and dD, and the parts of all but dD.
  void Fused() {
    const CudaBackwardTile& tile = plan_.tile;
    BackwardStreamArgs args{};
    args.x = b_.input;
    args.d = b_.depthwise_filter;
    args.p_transposed = TransposedFilter();
    if (Failed()) return;
    args.depthwise_bias = p_.has_depthwise_bias ? b_.depthwise_bias : nullptr;
    args.gradient = b_.grad;
    args.y = plan_.gradient ? b_.output : nullptr;
    args.dz = At(plan_.dz_at_bytes);
    args.residual_gradient =
        plan_.wanted.residual && (plan_.gradient || b_.d_residual != b_.grad) ? b_.d_residual : nullptr;
    args.product_sums = SumsAt(plan_.product_sums_at_bytes);
    args.bias_sums = SumsAt(plan_.bias_sums_at_bytes);
    args.between_sums = SumsAt(plan_.between_sums_at_bytes);
    args.mid = OnDevice(p_.mid);
    args.out = OnDevice(p_.out);
    args.H = static_cast<int>(p_.H), args.W = static_cast<int>(p_.W), args.C = static_cast<int>(p_.C);
    args.K = static_cast<int>(p_.K), args.Ho = static_cast<int>(p_.Ho), args.Wo = static_cast<int>(p_.Wo);
    args.pad_top = static_cast<int>(p_.pad_top), args.pad_left = static_cast<int>(p_.pad_left);
    args.tile_rows = tile.tile_rows;
    args.tile_columns = tile.tile_columns;
    while (1 << args.tile_columns_log2 < tile.tile_columns) ++args.tile_columns_log2;
    args.in_columns = tile.in_columns;
    args.channels = tile.channels;
    args.ring_rows = tile.ring_rows;
    args.out_channels = tile.out_channels;
    args.strips = static_cast<int>(Ceil(p_.Wo, tile.tile_columns));
    args.segments = tile.segments;
    args.segment_rows = tile.segment_rows;
    args.z_pitch = tile.z_pitch, args.g_pitch = tile.g_pitch, args.p_pitch = tile.p_pitch;
    args.p_offset_bytes = tile.p_offset_bytes;
    args.z_offset_bytes = tile.z_offset_bytes;
    args.g_offset_bytes = tile.g_offset_bytes;
    args.d_offset_bytes = tile.d_offset_bytes;
    args.bias_offset_bytes = tile.bias_offset_bytes;
    args.sums_offset_bytes = tile.sums_offset_bytes;
    args.gradient_offset_bytes = tile.gradient_offset_bytes;
    args.ring_offset_bytes = tile.ring_offset_bytes;
    args.row_warps = tile.row_warps;
    args.warp_columns = tile.warp_columns;
    args.items = tile.items;
    args.parts = plan_.product_parts;
    const Launch launch{args.parts, kBackwardStreamThreads, tile.shared_bytes, stream_};
    switch (p_.dtype) {
      case DType::kFloat16:
        return Check(LaunchBackwardStreamFloat16(p_.R, p_.stride_h, launch, args));
      case DType::kBFloat16:
        return Check(LaunchBackwardStreamBFloat16(p_.R, p_.stride_h, launch, args));
      case DType::kFloat32:
        return Check(LaunchBackwardStreamTf32(p_.R, p_.stride_h, launch, args));
    }
  }

  // dZ, and the parts of the depthwise bias' gradient.
  void BetweenGradient() {
    if (Failed()) return;
    const void* const transposed = TransposedFilter();
    if (Failed()) return;
    BackwardProductArgs args = Product(gradient_, p_.K, transposed, p_.CM(), At(plan_.dz_at_bytes));
    args.part_tiles = plan_.between_part_tiles;
    args.items = plan_.between_parts * Ceil(p_.CM(), kCudaBackwardProduct);
    args.factors = Factors();
    args.are_factors = plan_.between_factors;
    args.activation = OnDevice(p_.mid);
    args.sums = SumsAt(plan_.between_sums_at_bytes);
    Check(LaunchBetweenGradient(p_.dtype, plan_.math, stream_, args));
  }

  void BetweenGradientGeneral() {
    if (Failed()) return;
    void* const dz = At(plan_.dz_at_bytes);
    GeneralProductArgs args{};
    args.a = gradient_;
    args.p = b_.pointwise_filter;
    args.to = dz;
    args.pixels = pixels_, args.depth = p_.K, args.columns = p_.CM();
    args.depth_step = 1, args.column_step = p_.K;
    args.factors = Factors();
    args.are_factors = plan_.between_factors;
    args.activation = OnDevice(p_.mid);
    Check(LaunchProductGeneral(p_.dtype, stream_, args));
    if (plan_.wanted.depthwise_bias) {
      Columns(dz, nullptr, nullptr, SumsAt(plan_.between_sums_at_bytes), p_.CM(), plan_.between_parts,
              plan_.between_part_tiles * kCudaBackwardProduct);
    }
  }

  // dX and the parts of dD.
  void DepthwiseGradients() {
    if (Failed()) return;
    const void* const dz = At(plan_.dz_at_bytes);
    float* const sums = SumsAt(plan_.filter_sums_at_bytes);
    void* const dx = plan_.wanted.input ? b_.d_input : nullptr;
    if (dx == nullptr && sums == nullptr) return;
    if (plan_.fast_depthwise && FastDepthwise()) {
      DepthwiseGradientArgs args{};
      args.x = b_.input;
      args.dz = dz;
      args.d = b_.depthwise_filter;
      args.dx = dx;
      args.sums = sums;
      args.H = static_cast<int>(p_.H), args.W = static_cast<int>(p_.W), args.C = static_cast<int>(p_.C);
      args.Ho = static_cast<int>(p_.Ho), args.Wo = static_cast<int>(p_.Wo);
      args.pad_top = static_cast<int>(p_.pad_top), args.pad_left = static_cast<int>(p_.pad_left);
      const int64_t words = p_.C * SizeOf(p_.dtype) / 4;
      args.groups = static_cast<int>(Ceil(words, kCudaBackwardGroupWords));
      args.group_words = static_cast<int>(Ceil(words, args.groups));
      args.patch_rows = static_cast<int>(PatchesOf(p_.H, p_.stride_h, p_.pad_top));
      args.patch_columns = static_cast<int>(PatchesOf(p_.W, p_.stride_w, p_.pad_left));
      args.patches = p_.N * args.patch_rows * args.patch_columns;
      args.part_patches = plan_.filter_part_units;
      args.items = plan_.filter_parts * args.groups;
      Check(LaunchDepthwiseGradient(p_.dtype, p_.R, p_.stride_h, stream_, args));
      return;
    }
    // The plan's parts are of patches where it counted on pointers that the fast kernel takes.
    const int64_t part_pixels =
        plan_.fast_depthwise && sums != nullptr ? Ceil(pixels_, plan_.filter_parts) : plan_.filter_part_units;
    GeneralDepthwiseGradientArgs args{Depthwise(nullptr), dz, dx, sums, part_pixels, plan_.filter_parts};
    if (dx != nullptr) Check(LaunchInputGradientGeneral(p_.dtype, stream_, args));
    if (sums != nullptr && !Failed()) Check(LaunchFilterGradientGeneral(p_.dtype, stream_, args));
  }

  // The second stage of all sums.
  void Reduce() {
    if (Failed()) return;
    ReduceArgs args{};
    int next = 0;
    const auto add = [&](bool wanted, int64_t at, void* to, int64_t size, int64_t count) {
      if (!wanted || size == 0) return;
      AddReduction({SumsAt(at), to, size, count, 0, 0}, next++, &args);
    };
    const WantedGradients& wanted = plan_.wanted;
    add(wanted.pointwise_filter, plan_.product_sums_at_bytes, b_.d_pointwise_filter, p_.CM() * p_.K,
        plan_.product_parts);
    add(wanted.depthwise_filter, plan_.filter_sums_at_bytes, b_.d_depthwise_filter, p_.R * p_.S * p_.CM(),
        plan_.filter_parts);
    add(wanted.depthwise_bias, plan_.between_sums_at_bytes, b_.d_depthwise_bias, p_.CM(), plan_.between_parts);
    add(wanted.bias, plan_.bias_sums_at_bytes, b_.d_bias, p_.K, plan_.bias_parts);
    if (args.items > 0) Check(LaunchReduce(p_.dtype, stream_, args));
  }

  const Problem& p_;
  const CudaBackwardPlan& plan_;
  const BackwardBuffers& b_;
  char* const workspace_;
  void* const stream_;
  const bool general_;
  const int64_t pixels_;
  const void* gradient_;
  std::string error_;
};

// Gradients of nothing: sums of no parts.
std::string Zeros(const Problem& p, const CudaBackwardPlan& plan, const BackwardBuffers& b, void* stream) {
  const WantedGradients& wanted = plan.wanted;
  std::string error;
  const auto zero = [&](bool is_wanted, void* to, int64_t size) {
    if (!is_wanted || size == 0 || !error.empty()) return;
    ReduceArgs args{};
    AddReduction({nullptr, to, size, 0, 0, 0}, 0, &args);
    error = LaunchReduce(p.dtype, stream, args);
  };
  zero(wanted.input, b.d_input, p.N * p.H * p.W * p.C);
  zero(wanted.depthwise_filter, b.d_depthwise_filter, p.R * p.S * p.CM());
  zero(wanted.pointwise_filter, b.d_pointwise_filter, p.CM() * p.K);
  zero(wanted.depthwise_bias, b.d_depthwise_bias, p.CM());
  zero(wanted.bias, b.d_bias, p.K);
  return error;
}

}  // namespace

bool AlignedForFused(const BackwardBuffers& b) {
  // Depthwise filters are read by elements there, but by words in the kernel that follows.
  for (const void* tensor :
       {b.input, b.grad, b.output, static_cast<const void*>(b.d_input), static_cast<const void*>(b.d_residual)}) {
    if (reinterpret_cast<uintptr_t>(tensor) % 16 != 0) return false;
  }
  return true;
}

int64_t BackwardCalls(CudaBackwardPath path) { return calls[static_cast<int>(path)].load(); }

std::string Backward(const Problem& problem, const CudaBackwardPlan& plan, const BackwardBuffers& given,
                     void* workspace, void* stream) {
  if (problem.N * problem.output_pixels() == 0 || problem.H * problem.W == 0) {
    return Zeros(problem, plan, given, stream);
  }
  if (plan.path == CudaBackwardPath::kFused && !plan.transposed && !AlignedForFused(given)) {
    return "path fused takes pointers that are multiples of 16 bytes";
  }
  calls[static_cast<int>(plan.path)].fetch_add(1);
  Problem p = problem;
  BackwardBuffers b = given;
  char* const base = static_cast<char*>(workspace);
  std::string error;
  const auto transpose = [&](const void* from, void* to, int64_t rows, int64_t columns) {
    if (!error.empty()) return;
    TransposeArgs args{from, to, p.N, rows, columns, 0};
    args.items = p.N * Ceil(rows, kTransposeTile) * Ceil(columns, kTransposeTile);
    error = LaunchTranspose(SizeOf(p.dtype), stream, args);
  };
  if (plan.transposed) {
    p.layout = Layout::kNHWC;
    const int64_t x_pixels = p.H * p.W, y_pixels = p.output_pixels();
    const auto read = [&](const void*& from, int64_t at, int64_t channels, int64_t pixels) {
      if (at < 0) return;
      transpose(from, base + at, channels, pixels);
      from = base + at;
    };
    read(b.input, plan.x_at_bytes, p.C, x_pixels);
    read(b.grad, plan.grad_at_bytes, p.K, y_pixels);
    read(b.output, plan.output_at_bytes, p.K, y_pixels);
    read(b.residual, plan.residual_at_bytes, p.K, y_pixels);
    if (plan.dx_at_bytes >= 0) b.d_input = base + plan.dx_at_bytes;
    // Without an activation the residual's gradient is dY, and its copy here is copied back.
    if (plan.wanted.residual) b.d_residual = base + (plan.gradient ? plan.dr_at_bytes : plan.grad_at_bytes);
  }
  if (error.empty()) error = Steps(p, plan, b, base, stream).Run();
  if (plan.transposed) {
    if (plan.wanted.input) transpose(b.d_input, given.d_input, p.H * p.W, p.C);
    if (plan.wanted.residual) transpose(b.d_residual, given.d_residual, p.output_pixels(), p.K);
  }
  return error;
}

}  // namespace cuda
}  // namespace dwsconv
