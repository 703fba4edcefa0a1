#include "cc/cpu/run/forward.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "cc/cpu/kernels/targets.h"
#include "cc/cpu/run/executor.h"
#include "cc/cpu/run/layout.h"
#include "cc/cpu/run/scratch_pool.h"
#include "cc/plan/plan_cache.h"
#include "cc/ref/reference.h"

namespace dwsconv {
namespace {

std::atomic<int64_t> forward_calls[kIsaCount];

// Of a thread of a team: some microseconds, where to tell it and to wait for it takes one or two.
constexpr double kFlopsInTeam = 100'000;

// A chain that only scales and shifts channels that fill no vector: several pixels as one, the rest in a copy.
std::string ScalePixels(const Chain& chain, const Buffers& buffers, const PackedFilters& packed,
                        const ForwardOptions& options) {
  constexpr int64_t kMostBytes = 16 * 15 * sizeof(float);  // of the pixels that are taken together
  const int64_t together = packed.together(), pixels = chain.N * chain.H * chain.W, rest = pixels % together;
  const int64_t pixel = chain.C * SizeOf(chain.dtype), done = (pixels - rest) * pixel, left = rest * pixel;
  const auto run = [&](int64_t count, const Buffers& of) {
    const Chain wide = Together(chain, count, together);
    return Execute(wide, of, packed, ForwardPlan(wide, options), options.pool);
  };
  if (pixels >= together) {
    const std::string error = run(pixels, buffers);
    if (!error.empty()) return error;
  }
  if (rest == 0) return "";
  alignas(64) char in[kMostBytes] = {}, out[kMostBytes], addend[kMostBytes] = {};
  const auto copy = [&](const void* from, char* to) {
    std::memcpy(to, static_cast<const char*>(from) + done, static_cast<size_t>(left));
  };
  Buffers few = buffers;
  copy(buffers.input, in);
  few.input = in;
  if (buffers.residual != nullptr) {
    copy(buffers.residual, addend);
    few.residual = addend;
  }
  few.output = out;
  const std::string error = run(together, few);
  std::memcpy(static_cast<char*>(buffers.output) + done, out, static_cast<size_t>(left));
  return error;
}

// `packed` may be null for variants that read plain filters.
std::string ForwardChannelsLast(const Chain& chain, const Buffers& buffers, const PackedFilters* packed,
                                const ForwardOptions& options) {
  if (IsLadderStep(options.variant)) return options.ladder(chain, buffers, packed, options);
  if (packed->together() > 1) {
    if (buffers.input_step > 0 || buffers.output_step > 0) return "what takes some pixels for one has dense rows alone";
    return ScalePixels(chain, buffers, *packed, options);
  }
  Chain run = GroupsAsImages(chain, packed->kernels().vector_floats);
  if (run.groups == 1 && !chain.has_depthwise && chain.E == 0 && !chain.has_gate && IsPointwise(chain)) {
    // Pixels alone count: one tall image.
    run.H = run.Ho = chain.N * chain.H;
    run.N = 1;
  }
  return Execute(run, buffers, *packed, ForwardPlan(run, options), options.pool, options.rows_done);
}

// Channels-last code on channels-first buffers: a few images at a time between transpositions, so that the copies stay
// in cache and do not grow with the batch.
std::string ForwardChannelsFirst(const Chain& chain, const Buffers& buffers, const PackedFilters* packed,
                                 const ForwardOptions& options) {
  constexpr int64_t kCopyBytes = 8 << 20;
  const int64_t item = SizeOf(chain.dtype), x_pixels = chain.H * chain.W, pixels = chain.output_pixels();
  const int64_t x_bytes = x_pixels * chain.x_channels() * item, y_bytes = pixels * chain.K * item;
  const int64_t residual_bytes = chain.has_residual ? y_bytes : 0;
  const int64_t images = std::clamp<int64_t>(kCopyBytes / (x_bytes + y_bytes + residual_bytes + 1), 1, chain.N);
  Scratch x(images * x_bytes), y(images * y_bytes), residual(images * residual_bytes);
  if (x.data() == nullptr || y.data() == nullptr || residual.data() == nullptr) return kOutOfMemory;

  const Workers workers(options.num_threads, options.pool);
  const auto at = [](const void* from, int64_t bytes) { return static_cast<const char*>(from) + bytes; };
  Chain inner = chain;
  inner.layout = Layout::kNHWC;
  Buffers inside = buffers;
  inside.input = x.data();
  inside.residual = chain.has_residual ? residual.data() : nullptr;
  inside.output = y.data();
  for (int64_t n = 0; n < chain.N; n += inner.N) {
    inner.N = std::min(images, chain.N - n);
    TransposeMatrices(at(buffers.input, n * x_bytes), x.data(), inner.N, chain.x_channels(), x_pixels, item, workers);
    if (chain.has_residual) {
      TransposeMatrices(at(buffers.residual, n * y_bytes), residual.data(), inner.N, chain.K, pixels, item, workers);
    }
    if (chain.has_gate) inside.gate = at(buffers.gate, n * chain.CM() * item);
    const std::string wrong = ForwardChannelsLast(inner, inside, packed, options);
    if (!wrong.empty()) return wrong;
    char* const to = static_cast<char*>(buffers.output) + n * y_bytes;
    TransposeMatrices(y.data(), to, inner.N, pixels, chain.K, item, workers);
  }
  return "";
}

std::string Run(const Chain& chain, const Buffers& buffers, const PackedFilters* packed,
                const ForwardOptions& options) {
  return chain.layout == Layout::kNHWC ? ForwardChannelsLast(chain, buffers, packed, options)
                                       : ForwardChannelsFirst(chain, buffers, packed, options);
}

}  // namespace

std::string Forward(const Chain& chain, const Buffers& buffers, const PackedFilters* packed,
                    const ForwardOptions& options) {
  if (chain.empty()) return "";
  if (options.variant == Variant::kReference) {
    ForwardReference(chain, buffers, options.num_threads);
    return "";
  }
  PackedFiltersPtr own;
  if (!ReadsPlainFilters(options.variant)) {
    forward_calls[static_cast<int>(options.isa)].fetch_add(1, std::memory_order_relaxed);
    const bool may_repeat = !IsLadderStep(options.variant);
    if (packed == nullptr || packed->key() != PackKeyOf(chain, options.isa, may_repeat)) {
      own = PackedFilters::Make(chain, options.isa, buffers, may_repeat);
      if (!own) return kOutOfMemory;
      packed = own.get();
    }
  }
  return Run(chain, buffers, packed, options);
}

Machine ForwardMachine(const Chain& chain, const ForwardOptions& options) {
  const CpuFeatures& cpu = GetCpuFeatures();
  const KernelTable& kernels = Kernels(options.isa, chain);
  Machine machine;
  machine.isa = options.isa;
  machine.stream_share = cpu.stream_share;
  if (cpu.l1d_bytes > 0) machine.l1d_bytes = cpu.l1d_bytes;
  if (cpu.l2_bytes > 0) machine.l2_bytes = cpu.l2_bytes;
  if (cpu.l3_bytes > 0) machine.l3_bytes = cpu.l3_bytes;
  machine.threads = std::max(options.num_threads, 1);
  if (options.pool != nullptr && options.pool->team() != nullptr) machine.flops_per_thread = kFlopsInTeam;
  machine.vector_floats = kernels.vector_floats;
  machine.z_bytes = SizeOf(kernels.z_type);
  machine.tile_pixels = kernels.tile_pixels;
  machine.tile_channels = kernels.tile_channels;
  machine.rounds_z = kernels.round != nullptr;
  machine.product_rate = kernels.product_rate;
  machine.product_depth = kernels.depth;
  machine.costs = kernels.costs;
  return machine;
}

Plan ForwardPlan(const Chain& chain, const ForwardOptions& options) {
  const Machine machine = ForwardMachine(chain, options);
  Plan plan;
  const bool tunable = chain.has_depthwise || (chain.E == 0 && IsPointwise(chain));
  if (options.choice != nullptr) {
    if (ApplyPlanChoice(chain, machine, *options.choice, &plan).empty()) return plan;
  } else if (tunable && options.variant == Variant::kAuto && FindTunedPlan(PlannedAs(chain), machine, &plan)) {
    return plan;
  }
  return CachedPlan(chain, machine);
}

std::string CheckPlanChoice(const Chain& chain, const ForwardOptions& options) {
  Plan plan;
  if (options.choice == nullptr) return "";
  return ApplyPlanChoice(chain, ForwardMachine(chain, options), *options.choice, &plan);
}

int64_t ForwardCalls(Isa isa) { return forward_calls[static_cast<int>(isa)].load(std::memory_order_relaxed); }

}  // namespace dwsconv
