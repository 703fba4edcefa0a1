#include "cc/cpu/forward.h"

#include <algorithm>
#include <atomic>

#include "cc/core/parallel.h"
#include "cc/cpu/forward_ladder.h"
#include "cc/cpu/layout.h"
#include "cc/cpu/packed_filters.h"
#include "cc/cpu/scratch_pool.h"
#include "cc/plan/plan_cache.h"
#include "cc/ref/reference.h"

namespace dwsconv {
namespace {

std::atomic<int64_t> forward_calls[3];

constexpr char kOutOfMemory[] = "out of memory for the working buffers of the depthwise-separable convolution";

// The fused kernel on channels-last buffers.
std::string ForwardFused(const Problem& problem, const ForwardBuffers& buffers, const PackedFilters& packed,
                         const ForwardOptions& options) {
  const KernelTable& kernels = packed.kernels();
  const Plan plan = ForwardPlan(problem, options);
  Scratch scratch(plan.threads * plan.scratch_bytes);
  if (scratch.data() == nullptr) return kOutOfMemory;

  const int64_t pixels = problem.output_pixels(), item = SizeOf(problem.dtype);
  const int64_t blocks = (pixels + plan.block_pixels - 1) / plan.block_pixels;
  const int64_t shares = (problem.K + plan.block_channels - 1) / plan.block_channels;
  const bool stream = plan.stream && problem.dtype == kernels.z_type && problem.K * item % 64 == 0 &&
                      reinterpret_cast<uintptr_t>(buffers.output) % 64 == 0;
  const int64_t row_bytes = problem.W * problem.C * item, image_bytes = problem.H * row_bytes;
  // Offset of the first byte of X past what output pixels [0, end) of an image read.
  const auto bytes_read = [&](int64_t end) {
    const int64_t last =
        (end - 1) / problem.Wo * problem.stride_h - problem.pad_top + (problem.R - 1) * problem.dilation_h;
    return std::clamp<int64_t>(last + 1, 0, problem.H) * row_bytes;
  };
  const auto run_task = [&](int64_t task, int64_t next, int worker) {
    const int64_t share = task % shares, block = task / shares % blocks, n = task / shares / blocks;
    char* z = scratch.data() + worker * plan.scratch_bytes;
    const char* image = static_cast<const char*>(buffers.input) + n * image_bytes;

    DepthwiseArgs depthwise;
    depthwise.problem = &problem;
    depthwise.image = image;
    depthwise.filter = packed.depthwise();
    depthwise.bias = packed.depthwise_bias();
    depthwise.channel_stride = packed.channel_stride();
    depthwise.packed_pixels = packed.packed_pixels();
    depthwise.packed_filter = packed.packed_filter();
    depthwise.packed_bias = packed.packed_bias();
    depthwise.first_pixel = block * plan.block_pixels;
    depthwise.pixels = std::min(plan.block_pixels, pixels - depthwise.first_pixel);
    depthwise.z = z;
    depthwise.z_stride = plan.z_stride;
    kernels.depthwise[static_cast<int>(problem.dtype)](depthwise);

    const int64_t at = (n * pixels + depthwise.first_pixel) * problem.K * item;
    PointwiseArgs pointwise;
    pointwise.z = z;
    pointwise.z_stride = plan.z_stride;
    pointwise.pixels = depthwise.pixels;
    pointwise.cm = problem.CM();
    pointwise.panels = packed.panels();
    pointwise.bias = packed.bias();
    pointwise.k_begin = share * plan.block_channels;
    pointwise.k_end = std::min(problem.K, pointwise.k_begin + plan.block_channels);
    pointwise.K = problem.K;
    pointwise.residual = buffers.residual ? static_cast<const char*>(buffers.residual) + at : nullptr;
    pointwise.y = static_cast<char*>(buffers.output) + at;
    pointwise.dtype = problem.dtype;
    pointwise.activation = problem.out;
    pointwise.stream = stream;
    pointwise.ahead = nullptr;
    pointwise.ahead_bytes = 0;
    if (next == task + 1 && shares == 1) {
      // The rows of X that the next task is the first to read.
      const int64_t done = depthwise.first_pixel + depthwise.pixels;
      const int64_t begin = block + 1 < blocks ? bytes_read(done) : image_bytes;
      const int64_t end = block + 1 < blocks ? bytes_read(std::min(done + plan.block_pixels, pixels))
                                             : image_bytes + bytes_read(std::min(plan.block_pixels, pixels));
      pointwise.ahead = image + begin;
      pointwise.ahead_bytes = end - begin;
    }
    kernels.pointwise(pointwise);
  };
  ParallelForAhead({plan.threads, options.pool}, plan.tasks, run_task);
  return "";
}

// `packed` may be null for variants that read plain filters.
std::string ForwardChannelsLast(const Problem& problem, const ForwardBuffers& buffers, const PackedFilters* packed,
                                const ForwardOptions& options) {
  if (IsLadderStep(options.variant)) return ForwardLadderStep(problem, buffers, packed, options);
  return ForwardFused(problem, buffers, *packed, options);
}

// Channels-first: the same between two transpositions, a few images at a time so that the copies stay in cache and do
// not grow with the batch.
std::string ForwardChannelsFirst(const Problem& problem, const ForwardBuffers& buffers, const PackedFilters* packed,
                                 const ForwardOptions& options) {
  constexpr int64_t kCopyBytes = 8 << 20;
  const int64_t item = SizeOf(problem.dtype), pixels = problem.output_pixels();
  const int64_t x_bytes = problem.H * problem.W * problem.C * item, y_bytes = pixels * problem.K * item;
  const int64_t residual_bytes = problem.has_residual ? y_bytes : 0;
  const int64_t images = std::clamp<int64_t>(kCopyBytes / (x_bytes + y_bytes + residual_bytes + 1), 1, problem.N);
  Scratch x(images * x_bytes), y(images * y_bytes), residual(images * residual_bytes);
  if (x.data() == nullptr || y.data() == nullptr || residual.data() == nullptr) return kOutOfMemory;

  const Workers workers(options.num_threads, options.pool);
  Problem inner = problem;
  inner.layout = Layout::kNHWC;
  ForwardBuffers inside = buffers;
  inside.input = x.data();
  inside.residual = problem.has_residual ? residual.data() : nullptr;
  inside.output = y.data();
  for (int64_t n = 0; n < problem.N; n += inner.N) {
    inner.N = std::min(images, problem.N - n);
    const char* from = static_cast<const char*>(buffers.input) + n * x_bytes;
    TransposeMatrices(from, x.data(), inner.N, problem.C, problem.H * problem.W, item, workers);
    if (problem.has_residual) {
      from = static_cast<const char*>(buffers.residual) + n * y_bytes;
      TransposeMatrices(from, residual.data(), inner.N, problem.K, pixels, item, workers);
    }
    const std::string wrong = ForwardChannelsLast(inner, inside, packed, options);
    if (!wrong.empty()) return wrong;
    char* to = static_cast<char*>(buffers.output) + n * y_bytes;
    TransposeMatrices(y.data(), to, inner.N, pixels, problem.K, item, workers);
  }
  return "";
}

}  // namespace

std::string Forward(const Problem& problem, const ForwardBuffers& buffers, const PackedFilters* packed,
                    const ForwardOptions& options) {
  if (problem.N == 0 || problem.output_pixels() == 0) return "";
  if (options.variant == Variant::kReference) {
    ForwardReference(problem, buffers, options.num_threads);
    return "";
  }
  PackedFiltersPtr own;
  if (!ReadsPlainFilters(options.variant)) {
    forward_calls[static_cast<int>(options.isa)].fetch_add(1, std::memory_order_relaxed);
    if (packed == nullptr || !packed->Serves(problem, options.isa)) {
      own = PackFilters(problem, options.isa, buffers);
      if (!own) return kOutOfMemory;
      packed = own.get();
    }
  }
  return problem.layout == Layout::kNHWC ? ForwardChannelsLast(problem, buffers, packed, options)
                                         : ForwardChannelsFirst(problem, buffers, packed, options);
}

Machine ForwardMachine(const Problem& problem, const ForwardOptions& options) {
  const CpuFeatures& cpu = GetCpuFeatures();
  const KernelTable& kernels = Kernels(options.isa, problem);
  Machine machine;
  machine.isa = options.isa;
  if (cpu.l1d_bytes > 0) machine.l1d_bytes = cpu.l1d_bytes;
  if (cpu.l2_bytes > 0) machine.l2_bytes = cpu.l2_bytes;
  if (cpu.l3_bytes > 0) machine.l3_bytes = cpu.l3_bytes;
  machine.threads = std::max(options.num_threads, 1);
  machine.vector_floats = kernels.vector_floats;
  machine.z_bytes = SizeOf(kernels.z_type);
  machine.tile_pixels = kernels.tile_pixels;
  machine.tile_channels = kernels.tile_channels;
  return machine;
}

Plan ForwardPlan(const Problem& problem, const ForwardOptions& options) {
  const Machine machine = ForwardMachine(problem, options);
  Plan plan;
  if (options.choice != nullptr) {
    if (ApplyPlanChoice(problem, machine, *options.choice, &plan).empty()) return plan;
  } else if (options.variant == Variant::kAuto && FindTunedPlan(problem, machine, &plan)) {
    return plan;
  }
  return CachedPlan(problem, machine);
}

std::string CheckPlanChoice(const Problem& problem, const ForwardOptions& options) {
  Plan plan;
  if (options.choice == nullptr) return "";
  return ApplyPlanChoice(problem, ForwardMachine(problem, options), *options.choice, &plan);
}

int64_t ForwardCalls(Isa isa) { return forward_calls[static_cast<int>(isa)].load(std::memory_order_relaxed); }

}  // namespace dwsconv
