#include "cc/cpu/run/backward.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "cc/core/aligned_buffer.h"
#include "cc/core/half.h"
#include "cc/cpu/kernels/targets.h"
#include "cc/cpu/run/backward_filters.h"
#include "cc/cpu/run/backward_task.h"
#include "cc/cpu/run/forward.h"
#include "cc/cpu/run/layout.h"
#include "cc/cpu/run/scratch_pool.h"
#include "cc/ref/backward_reference.h"

namespace dwsconv {
namespace {

std::atomic<int64_t> backward_calls[kIsaCount];
std::atomic<int64_t> repeated_calls{0}, plain_calls{0};

constexpr char kOutOfMemory[] =
    "out of memory for the working buffers of the depthwise-separable convolution's gradients";

// Without a product there is nothing that tiles or factors in bfloat16 are for.
Isa IsaFor(const Chain& chain, Isa isa) { return chain.has_project ? isa : WithoutTiles(isa); }

const BackwardTable& KernelsFor(const Chain& chain, Isa isa) {
  return BackwardKernels(IsaFor(chain, isa), chain.dtype);
}

// dY through the last activation, as a tensor: the residual's gradient.
template <typename T>
void StoreResidualGradient(const BackwardJob& job, const Workers& workers) {
  const Chain& p = *job.chain;
  const BackwardBuffers& b = *job.buffers;
  constexpr int64_t kRun = 1024;
  const int64_t count = p.N * p.output_pixels() * p.K, runs = (count + kRun - 1) / kRun;
  if (p.out.kind == ActivationKind::kNone) {
    if (b.d_residual != b.grad) std::memcpy(b.d_residual, b.grad, static_cast<size_t>(count * SizeOf(p.dtype)));
    return;
  }
  ParallelFor(workers, runs, [&](int64_t run, int) {
    float grad[kRun], at[kRun];
    const int64_t begin = run * kRun, n = std::min(kRun, count - begin), padded = (n + 15) / 16 * 16;
    const int type = static_cast<int>(p.dtype);
    job.kernels->gather[type]({static_cast<const T*>(b.grad) + begin, 0, 1, n, padded, grad, 0});
    const char* const from = static_cast<const char*>(job.at) + begin * SizeOf(job.at_dtype);
    job.kernels->gather[static_cast<int>(job.at_dtype)]({from, 0, 1, n, padded, at, 0});
    job.kernels->derivative({p.out, at, 0, grad, 0, 1, padded});
    T* const to = static_cast<T*>(b.d_residual) + begin;
    for (int64_t i = 0; i < n; ++i) to[i] = FromFloat<T>(grad[i]);
  });
}

template <typename T>
std::string RunBlocked(const Chain& p, const BackwardBuffers& b, const BackwardPlan& plan, const void* at,
                       const BackwardOptions& options) {
  const Chain layer = plan.times > 1 ? Repeated(p) : p;
  BackwardJob job;
  job.chain = &layer;
  job.buffers = &b;
  job.plan = &plan;
  job.kernels = &KernelsFor(p, options.isa);
  job.at = at;
  job.at_dtype = DerivativeFromInput(p.out) ? DType::kFloat32 : p.dtype;
  job.wants_dp = b.d_pointwise_filter != nullptr;
  job.wants_dx = b.d_input != nullptr;
  job.wants_dd = b.d_depthwise_filter != nullptr;
  job.wants_mid_bias = b.d_depthwise_bias != nullptr;
  job.wants_bias = b.d_bias != nullptr;
  job.wants_dz = job.wants_dx || job.wants_dd || job.wants_mid_bias;
  // As the forward pass: around the caches where all that passes through them exceeds L3. Whole lines only: a block of
  // channels starts on one in each pixel.
  const CpuFeatures& cpu = GetCpuFeatures();
  const int64_t item = SizeOf(p.dtype);
  const int64_t passing = (2 * p.N * p.H * p.W * p.C + p.N * p.output_pixels() * p.K) * item;
  const double pays = cpu.backward_stream_share * static_cast<double>(cpu.l3_bytes);
  job.stream_dx = plan.times == 1 && cpu.l3_bytes > 0 && static_cast<double>(passing) > pays && p.C * item % 64 == 0 &&
                  plan.block_channels * item % 64 == 0 && reinterpret_cast<uintptr_t>(b.d_input) % 64 == 0;
  const Workers workers(options.num_threads, options.pool);
  if (b.d_residual != nullptr) StoreResidualGradient<T>(job, workers);
  if (!job.wants_dz && !job.wants_dp && !job.wants_bias) return "";

  const int threads = static_cast<int>(std::min<int64_t>(std::max(options.num_threads, 1), plan.tasks()));
  constexpr int64_t kFloat = sizeof(float);
  const WorkerScratch scratch(threads, plan.scratch_floats * kFloat);
  Scratch filters(plan.blocks * plan.filter_floats * kFloat);
  const bool wants_panels = job.wants_dz && p.has_project;
  Scratch panels(wants_panels ? plan.blocks * plan.panel_floats * kFloat : 0);
  Scratch sums(plan.tasks() * plan.sum_floats * kFloat);
  if (!scratch.ok() || !filters.data() || !panels.data() || !sums.data()) return kOutOfMemory;
  float* const packed_filters = reinterpret_cast<float*>(filters.data());
  float* const packed_panels = wants_panels ? reinterpret_cast<float*>(panels.data()) : nullptr;
  job.filters = packed_filters;
  job.panels = packed_panels;
  job.sums = reinterpret_cast<float*>(sums.data());

  PackBackwardFilters(job, packed_filters, packed_panels, workers);
  ParallelFor(workers, plan.tasks(), [&](int64_t task, int worker) {
    float* const mine = reinterpret_cast<float*>(scratch.of(worker));
    RunBackwardTask(job, task / plan.blocks, task % plan.blocks, mine);
  });
  ReduceSums(job, workers);
  return "";
}

void ZeroGradients(const Chain& p, const BackwardBuffers& b) {
  const auto zero = [&](void* to, int64_t count) {
    if (to != nullptr) std::memset(to, 0, static_cast<size_t>(count * SizeOf(p.dtype)));
  };
  zero(b.d_input, p.N * p.H * p.W * p.C);
  zero(b.d_depthwise_filter, p.R * p.S * p.CM());
  zero(b.d_pointwise_filter, p.CM() * p.K);
  zero(b.d_depthwise_bias, p.CM());
  zero(b.d_bias, p.K);
}

// What went into the last activation, [N,Ho,Wo,K] in float whatever the dtype: rounded to 16 bits it could change sides
// at a kink. Made a few images at a time, so that the copies in float stay small.
std::string InputOfLastActivation(const Chain& chain, const BackwardBuffers& b, const BackwardOptions& options,
                                  float* to) {
  Chain linear = chain;
  linear.out = Activation{};
  linear.dtype = DType::kFloat32;
  constexpr int64_t kCopyFloats = 2 << 20, kFloat = sizeof(float);
  const int64_t x_floats = chain.H * chain.W * chain.C, y_floats = chain.output_pixels() * chain.K;
  const bool copies = chain.dtype != DType::kFloat32;
  const int64_t images = copies ? std::clamp<int64_t>(kCopyFloats / (x_floats + y_floats + 1), 1, chain.N) : chain.N;
  const Workers workers(options.num_threads, options.pool);
  const int64_t filters[] = {chain.R * chain.S * chain.CM(), chain.CM() * chain.K, chain.CM(), chain.K};
  Scratch x(copies ? images * x_floats * kFloat : 0), residual(copies && b.residual ? images * y_floats * kFloat : 0);
  Scratch filter_copies(copies ? (filters[0] + filters[1] + filters[2] + filters[3]) * kFloat : 0);
  if (!x.data() || !residual.data() || !filter_copies.data()) return kOutOfMemory;

  const auto to_floats = [&](const void* from, int64_t first, int64_t count, char* floats) {
    constexpr int64_t kRun = 1 << 14;
    const auto gather = BackwardKernels(options.isa, chain.dtype).gather[static_cast<int>(chain.dtype)];
    const char* const start = static_cast<const char*>(from) + first * SizeOf(chain.dtype);
    ParallelFor(workers, (count + kRun - 1) / kRun, [&](int64_t run, int) {
      // Not past the end: the last vector of a run is stored whole.
      const int64_t begin = run * kRun, n = std::min(kRun, count - begin),
                    whole = n / kBackwardQuantum * kBackwardQuantum;
      const char* const in = start + begin * SizeOf(chain.dtype);
      float* const out = reinterpret_cast<float*>(floats) + begin;
      gather({in, 0, 1, whole, whole, out, 0});
      float tail[kBackwardQuantum];
      gather({in + whole * SizeOf(chain.dtype), 0, 1, n - whole, n > whole ? kBackwardQuantum : 0, tail, 0});
      std::copy(tail, tail + (n - whole), out + whole);
    });
    return static_cast<const void*>(floats);
  };
  Buffers buffers;
  const void* const from[] = {b.depthwise_filter, b.pointwise_filter, b.depthwise_bias, b.bias};
  const void** const into[] = {&buffers.depthwise_filter, &buffers.pointwise_filter, &buffers.depthwise_bias,
                               &buffers.bias};
  char* next = filter_copies.data();
  for (int i = 0; i < 4; ++i) {
    if (from[i] == nullptr) continue;
    *into[i] = copies ? to_floats(from[i], 0, filters[i], next) : from[i];
    next += copies ? filters[i] * kFloat : 0;
  }
  ForwardOptions forward;
  forward.isa = options.isa;
  forward.num_threads = options.num_threads;
  forward.pool = options.pool;
  const PackedFiltersPtr packed = PackedFilters::Make(linear, options.isa, buffers);
  if (packed == nullptr) return kOutOfMemory;
  for (int64_t n = 0; n < chain.N; n += linear.N) {
    linear.N = std::min(images, chain.N - n);
    buffers.input = copies ? to_floats(b.input, n * x_floats, linear.N * x_floats, x.data()) : b.input;
    if (b.residual != nullptr) {
      buffers.residual =
          copies ? to_floats(b.residual, n * y_floats, linear.N * y_floats, residual.data()) : b.residual;
    }
    buffers.output = to + n * y_floats;
    const std::string wrong = Forward(linear, buffers, packed.get(), forward);
    if (!wrong.empty()) return wrong;
  }
  return "";
}

std::string BackwardChannelsLast(const Chain& chain, const BackwardBuffers& buffers, const BackwardOptions& options) {
  const BackwardPlan plan = options.plan != nullptr ? *options.plan : BackwardPlanFor(chain, options.isa);
  if (!plan.blocked) {
    plain_calls.fetch_add(1, std::memory_order_relaxed);
    return BackwardReference(chain, buffers, options.num_threads) ? "" : kOutOfMemory;
  }
  backward_calls[static_cast<int>(IsaFor(chain, options.isa))].fetch_add(1, std::memory_order_relaxed);
  if (plan.times > 1) repeated_calls.fetch_add(1, std::memory_order_relaxed);
  const bool from_input = DerivativeFromInput(chain.out);
  Scratch before(from_input ? chain.N * chain.output_pixels() * chain.K * int64_t{sizeof(float)} : 0);
  if (from_input) {
    if (before.data() == nullptr) return kOutOfMemory;
    const std::string wrong = InputOfLastActivation(chain, buffers, options, reinterpret_cast<float*>(before.data()));
    if (!wrong.empty()) return wrong;
  }
  const void* at = from_input ? before.data() : buffers.output;
  return WithType(chain.dtype,
                  [&](auto type) { return RunBlocked<decltype(type)>(chain, buffers, plan, at, options); });
}

// Channels-first: the same between transpositions of whole tensors.
std::string BackwardChannelsFirst(const Chain& chain, const BackwardBuffers& buffers, const BackwardOptions& options) {
  const int64_t item = SizeOf(chain.dtype), pixels = chain.output_pixels();
  const int64_t x_bytes = chain.N * chain.H * chain.W * chain.C * item;
  const int64_t y_bytes = chain.N * pixels * chain.K * item;
  const Workers workers(options.num_threads, options.pool);
  Chain inner = chain;
  inner.layout = Layout::kNHWC;
  BackwardBuffers inside = buffers;
  const auto read = [&](const void*& from, Scratch& copy, int64_t rows, int64_t columns) {
    if (from == nullptr) return;
    TransposeMatrices(from, copy.data(), chain.N, rows, columns, item, workers);
    from = copy.data();
  };
  Scratch x(x_bytes), grad(y_bytes), output(buffers.output ? y_bytes : 0), residual(buffers.residual ? y_bytes : 0);
  Scratch d_x(buffers.d_input ? x_bytes : 0), d_residual(buffers.d_residual ? y_bytes : 0);
  for (Scratch* s : {&x, &grad, &output, &residual, &d_x, &d_residual}) {
    if (s->data() == nullptr) return kOutOfMemory;
  }
  read(inside.input, x, chain.C, chain.H * chain.W);
  read(inside.grad, grad, chain.K, pixels);
  read(inside.output, output, chain.K, pixels);
  read(inside.residual, residual, chain.K, pixels);
  if (buffers.d_input != nullptr) inside.d_input = d_x.data();
  if (buffers.d_residual != nullptr) inside.d_residual = d_residual.data();
  const std::string wrong = BackwardChannelsLast(inner, inside, options);
  if (!wrong.empty()) return wrong;
  if (buffers.d_input != nullptr) {
    TransposeMatrices(d_x.data(), buffers.d_input, chain.N, chain.H * chain.W, chain.C, item, workers);
  }
  if (buffers.d_residual != nullptr) {
    TransposeMatrices(d_residual.data(), buffers.d_residual, chain.N, pixels, chain.K, item, workers);
  }
  return "";
}

}  // namespace

std::string BackwardRefuses(const Chain& chain) {
  const struct {
    bool there;
    const char* what;
  } others[] = {{chain.E > 0, "an expansion"},
                {!chain.has_depthwise, "no depthwise convolution"},
                {!chain.has_project && (chain.out.kind != ActivationKind::kNone || chain.has_residual),
                 "no projection but a last activation or a residual"},
                {chain.normalize, "a norm"},
                {chain.has_gate, "a gate"},
                {chain.mid.kind == ActivationKind::kPRelu || chain.out.kind == ActivationKind::kPRelu, "prelu"}};
  for (const auto& other : others) {
    if (other.there) return std::string("there is no backward pass of a chain with ") + other.what;
  }
  return "";
}

std::string Backward(const Chain& chain, const BackwardBuffers& buffers, const BackwardOptions& options) {
  const std::string refused = BackwardRefuses(chain);
  if (!refused.empty()) return refused;
  if (chain.N == 0 || chain.output_pixels() == 0) {
    ZeroGradients(chain, buffers);
    return "";
  }
  return chain.layout == Layout::kNHWC ? BackwardChannelsLast(chain, buffers, options)
                                       : BackwardChannelsFirst(chain, buffers, options);
}

BackwardPlan BackwardPlanFor(const Chain& chain, Isa isa) {
  const CpuFeatures& cpu = GetCpuFeatures();
  Machine machine;
  if (cpu.l2_bytes > 0) machine.l2_bytes = cpu.l2_bytes;
  const BackwardTable& table = KernelsFor(chain, isa);
  machine.tile_channels = table.tile_channels;
  machine.z_bytes = SizeOf(table.product_type);
  machine.product_depth = table.depth;
  return MakeBackwardPlan(chain, machine);
}

int64_t BackwardCalls(Isa isa) { return backward_calls[static_cast<int>(isa)].load(std::memory_order_relaxed); }
int64_t BackwardRepeatedCalls() { return repeated_calls.load(std::memory_order_relaxed); }
int64_t BackwardPlainCalls() { return plain_calls.load(std::memory_order_relaxed); }

}  // namespace dwsconv
