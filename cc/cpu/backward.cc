#include "cc/cpu/backward.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "cc/core/aligned_buffer.h"
#include "cc/core/half.h"
#include "cc/cpu/backward_task.h"
#include "cc/cpu/forward.h"
#include "cc/cpu/layout.h"
#include "cc/cpu/scratch_pool.h"
#include "cc/ref/backward_reference.h"

namespace dwsconv {
namespace {

std::atomic<int64_t> backward_calls[3];
std::atomic<int64_t> plain_calls{0};

constexpr char kOutOfMemory[] =
    "out of memory for the working buffers of the depthwise-separable convolution's gradients";

const BackwardTable& Table(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return BackwardAvx512();
  if (isa == Isa::kAvx2) return BackwardAvx2();
#endif
  (void)isa;
  return BackwardGeneric();
}

// Whether any output reads an input in bounds through tap t of an axis.
bool TapUsed(int64_t t, int64_t dilation, int64_t stride, int64_t pad, int64_t in, int64_t out) {
  const int64_t offset = t * dilation - pad;
  const int64_t first = offset >= 0 ? 0 : (-offset + stride - 1) / stride;
  return first < out && first * stride + offset < in;
}

// The packed filters of one block (BackwardJob::filters and panels).
template <typename T>
void PackBlock(const Problem& p, const BackwardBuffers& b, const BackwardPlan& plan, int64_t tile, int64_t block,
               float* filters, float* panels) {
  const T* D = static_cast<const T*>(b.depthwise_filter);
  const T* P = static_cast<const T*>(b.pointwise_filter);
  const T* bias = static_cast<const T*>(b.depthwise_bias);
  const int64_t first = block * plan.block_channels, channels = std::min(plan.block_channels, p.C - first);
  const int64_t taps = p.R * p.S, padded = plan.padded_channels;
  std::fill(filters, filters + plan.filter_floats, 0.0f);
  for (int64_t t = 0; t < taps; ++t) {
    // Padding is zeros here, and zero times what nobody ever multiplies with must not become NaN.
    if (!TapUsed(t / p.S, p.dilation_h, p.stride_h, p.pad_top, p.H, p.Ho) ||
        !TapUsed(t % p.S, p.dilation_w, p.stride_w, p.pad_left, p.W, p.Wo)) {
      continue;
    }
    for (int64_t m = 0; m < p.M; ++m) {
      for (int64_t c = 0; c < channels; ++c) {
        filters[(m * taps + t) * padded + c] = ToFloat(D[(t * p.C + first + c) * p.M + m]);
      }
    }
  }
  for (int64_t m = 0; bias != nullptr && m < p.M; ++m) {
    for (int64_t c = 0; c < channels; ++c) {
      filters[plan.dd_floats + m * padded + c] = ToFloat(bias[(first + c) * p.M + m]);
    }
  }
  if (panels == nullptr) return;
  std::fill(panels, panels + plan.panel_floats, 0.0f);
  for (int64_t m = 0; m < p.M; ++m) {
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t column = m * padded + c;
      const T* from = P + ((first + c) * p.M + m) * p.K;
      float* to = panels + column / tile * tile * p.K + column % tile;
      for (int64_t k = 0; k < p.K; ++k) to[k * tile] = ToFloat(from[k]);
    }
  }
}

// Adds up what the chunks summed, in their order, and stores it: one block's share of the filters' gradients.
template <typename T>
void ReduceBlock(const BackwardJob& job, int64_t block) {
  const Problem& p = *job.problem;
  const BackwardPlan& plan = *job.plan;
  const BackwardBuffers& b = *job.buffers;
  const int64_t tile = job.kernels->tile_channels, taps = p.R * p.S, padded = plan.padded_channels;
  const int64_t first = block * plan.block_channels, channels = std::min(plan.block_channels, p.C - first);
  const int64_t chunk_floats = plan.blocks * plan.sum_floats;
  float* const sums = job.sums + block * plan.sum_floats;
  for (int64_t chunk = 1; chunk < plan.chunks; ++chunk) {
    const float* const more = sums + chunk * chunk_floats;
    for (int64_t i = 0; i < plan.sum_floats; ++i) sums[i] += more[i];
  }
  const float *dd = sums + plan.dp_floats, *mid_bias = dd + plan.dd_floats, *bias = mid_bias + plan.columns;
  for (int64_t m = 0; m < p.M; ++m) {
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t cm = (first + c) * p.M + m, column = m * padded + c;
      if (b.d_pointwise_filter != nullptr) {
        T* const to = static_cast<T*>(b.d_pointwise_filter) + cm * p.K;
        for (int64_t k = 0; k < p.K; k += tile) {
          const float* from = sums + k * plan.columns + column * tile;
          for (int64_t i = 0; i < std::min(tile, p.K - k); ++i) to[k + i] = FromFloat<T>(from[i]);
        }
      }
      if (b.d_depthwise_bias != nullptr) static_cast<T*>(b.d_depthwise_bias)[cm] = FromFloat<T>(mid_bias[column]);
      for (int64_t t = 0; b.d_depthwise_filter != nullptr && t < taps; ++t) {
        static_cast<T*>(b.d_depthwise_filter)[t * p.CM() + cm] = FromFloat<T>(dd[(m * taps + t) * padded + c]);
      }
    }
  }
  for (int64_t k = 0; block == 0 && b.d_bias != nullptr && k < p.K; ++k) {
    static_cast<T*>(b.d_bias)[k] = FromFloat<T>(bias[k]);
  }
}

// dY through the last activation, as a tensor: the residual's gradient.
template <typename T>
void StoreResidualGradient(const BackwardJob& job, const Workers& workers) {
  const Problem& p = *job.problem;
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
    job.kernels->gather[type]({static_cast<const T*>(job.at) + begin, 0, 1, n, padded, at, 0});
    job.kernels->derivative({p.out, at, 0, grad, 0, 1, padded});
    T* const to = static_cast<T*>(b.d_residual) + begin;
    for (int64_t i = 0; i < n; ++i) to[i] = FromFloat<T>(grad[i]);
  });
}

template <typename T>
std::string RunBlocked(const Problem& p, const BackwardBuffers& b, const BackwardPlan& plan, const void* at,
                       const BackwardOptions& options) {
  BackwardJob job;
  job.problem = &p;
  job.buffers = &b;
  job.plan = &plan;
  job.kernels = &Table(options.isa);
  job.at = at;
  job.wants_dp = b.d_pointwise_filter != nullptr;
  job.wants_dx = b.d_input != nullptr;
  job.wants_dd = b.d_depthwise_filter != nullptr;
  job.wants_mid_bias = b.d_depthwise_bias != nullptr;
  job.wants_bias = b.d_bias != nullptr;
  job.wants_dz = job.wants_dx || job.wants_dd || job.wants_mid_bias;
  const Workers workers(options.num_threads, options.pool);
  if (b.d_residual != nullptr) StoreResidualGradient<T>(job, workers);
  if (!job.wants_dz && !job.wants_dp && !job.wants_bias) return "";

  const int64_t threads = std::min<int64_t>(std::max(options.num_threads, 1), plan.tasks());
  constexpr int64_t kFloat = sizeof(float);
  Scratch scratch(threads * plan.scratch_floats * kFloat);
  Scratch filters(plan.blocks * plan.filter_floats * kFloat);
  Scratch panels(job.wants_dz ? plan.blocks * plan.panel_floats * kFloat : 0);
  Scratch sums(plan.tasks() * plan.sum_floats * kFloat);
  if (!scratch.data() || !filters.data() || !panels.data() || !sums.data()) return kOutOfMemory;
  float* const packed_filters = reinterpret_cast<float*>(filters.data());
  float* const packed_panels = job.wants_dz ? reinterpret_cast<float*>(panels.data()) : nullptr;
  job.filters = packed_filters;
  job.panels = packed_panels;
  job.sums = reinterpret_cast<float*>(sums.data());

  ParallelFor(workers, plan.blocks, [&](int64_t block, int) {
    PackBlock<T>(p, b, plan, job.kernels->tile_channels, block, packed_filters + block * plan.filter_floats,
                 packed_panels == nullptr ? nullptr : packed_panels + block * plan.panel_floats);
  });
  ParallelFor(workers, plan.tasks(), [&](int64_t task, int worker) {
    std::memset(job.sums + task * plan.sum_floats, 0, static_cast<size_t>(plan.sum_floats) * sizeof(float));
    float* const mine = reinterpret_cast<float*>(scratch.data()) + worker * plan.scratch_floats;
    RunBackwardTask(job, task / plan.blocks, task % plan.blocks, mine);
  });
  ParallelFor(workers, plan.blocks, [&](int64_t block, int) { ReduceBlock<T>(job, block); });
  return "";
}

void ZeroGradients(const Problem& p, const BackwardBuffers& b) {
  const auto zero = [&](void* to, int64_t count) {
    if (to != nullptr) std::memset(to, 0, static_cast<size_t>(count * SizeOf(p.dtype)));
  };
  zero(b.d_input, p.N * p.H * p.W * p.C);
  zero(b.d_depthwise_filter, p.R * p.S * p.CM());
  zero(b.d_pointwise_filter, p.CM() * p.K);
  zero(b.d_depthwise_bias, p.CM());
  zero(b.d_bias, p.K);
}

// What went into the last activation, in a buffer of its own, of the problem's dtype.
std::string InputOfLastActivation(const Problem& problem, const BackwardBuffers& b, const BackwardOptions& options,
                                  void* to) {
  Problem linear = problem;
  linear.out = Activation{};
  ForwardBuffers buffers;
  buffers.input = b.input;
  buffers.depthwise_filter = b.depthwise_filter;
  buffers.pointwise_filter = b.pointwise_filter;
  buffers.depthwise_bias = b.depthwise_bias;
  buffers.bias = b.bias;
  buffers.residual = b.residual;
  buffers.output = to;
  ForwardOptions forward;
  forward.isa = options.isa;
  forward.num_threads = options.num_threads;
  forward.pool = options.pool;
  return Forward(linear, buffers, nullptr, forward);
}

std::string BackwardChannelsLast(const Problem& problem, const BackwardBuffers& buffers,
                                 const BackwardOptions& options) {
  const BackwardPlan plan = options.plan != nullptr ? *options.plan : BackwardPlanFor(problem, options.isa);
  if (!plan.blocked) {
    plain_calls.fetch_add(1, std::memory_order_relaxed);
    return BackwardReference(problem, buffers, options.num_threads) ? "" : kOutOfMemory;
  }
  backward_calls[static_cast<int>(options.isa)].fetch_add(1, std::memory_order_relaxed);
  const bool from_input = DerivativeFromInput(problem.out);
  Scratch before(from_input ? problem.N * problem.output_pixels() * problem.K * SizeOf(problem.dtype) : 0);
  if (from_input) {
    if (before.data() == nullptr) return kOutOfMemory;
    const std::string wrong = InputOfLastActivation(problem, buffers, options, before.data());
    if (!wrong.empty()) return wrong;
  }
  const void* at = from_input ? before.data() : buffers.output;
  switch (problem.dtype) {
    case DType::kFloat32:
      return RunBlocked<float>(problem, buffers, plan, at, options);
    case DType::kBFloat16:
      return RunBlocked<BFloat16>(problem, buffers, plan, at, options);
    case DType::kFloat16:
      return RunBlocked<Float16>(problem, buffers, plan, at, options);
  }
  return "";
}

// Channels-first: the same between transpositions of whole tensors.
std::string BackwardChannelsFirst(const Problem& problem, const BackwardBuffers& buffers,
                                  const BackwardOptions& options) {
  const int64_t item = SizeOf(problem.dtype), pixels = problem.output_pixels();
  const int64_t x_bytes = problem.N * problem.H * problem.W * problem.C * item;
  const int64_t y_bytes = problem.N * pixels * problem.K * item;
  const Workers workers(options.num_threads, options.pool);
  Problem inner = problem;
  inner.layout = Layout::kNHWC;
  BackwardBuffers inside = buffers;
  const auto read = [&](const void*& from, Scratch& copy, int64_t rows, int64_t columns) {
    if (from == nullptr) return;
    TransposeMatrices(from, copy.data(), problem.N, rows, columns, item, workers);
    from = copy.data();
  };
  Scratch x(x_bytes), grad(y_bytes), output(buffers.output ? y_bytes : 0), residual(buffers.residual ? y_bytes : 0);
  Scratch d_x(buffers.d_input ? x_bytes : 0), d_residual(buffers.d_residual ? y_bytes : 0);
  for (Scratch* s : {&x, &grad, &output, &residual, &d_x, &d_residual}) {
    if (s->data() == nullptr) return kOutOfMemory;
  }
  read(inside.input, x, problem.C, problem.H * problem.W);
  read(inside.grad, grad, problem.K, pixels);
  read(inside.output, output, problem.K, pixels);
  read(inside.residual, residual, problem.K, pixels);
  if (buffers.d_input != nullptr) inside.d_input = d_x.data();
  if (buffers.d_residual != nullptr) inside.d_residual = d_residual.data();
  const std::string wrong = BackwardChannelsLast(inner, inside, options);
  if (!wrong.empty()) return wrong;
  if (buffers.d_input != nullptr) {
    TransposeMatrices(d_x.data(), buffers.d_input, problem.N, problem.H * problem.W, problem.C, item, workers);
  }
  if (buffers.d_residual != nullptr) {
    TransposeMatrices(d_residual.data(), buffers.d_residual, problem.N, pixels, problem.K, item, workers);
  }
  return "";
}

}  // namespace

std::string Backward(const Problem& problem, const BackwardBuffers& buffers, const BackwardOptions& options) {
  if (problem.N == 0 || problem.output_pixels() == 0) {
    ZeroGradients(problem, buffers);
    return "";
  }
  return problem.layout == Layout::kNHWC ? BackwardChannelsLast(problem, buffers, options)
                                         : BackwardChannelsFirst(problem, buffers, options);
}

BackwardPlan BackwardPlanFor(const Problem& problem, Isa isa) {
  const CpuFeatures& cpu = GetCpuFeatures();
  Machine machine;
  if (cpu.l2_bytes > 0) machine.l2_bytes = cpu.l2_bytes;
  machine.tile_channels = Table(isa).tile_channels;
  return MakeBackwardPlan(problem, machine);
}

int64_t BackwardCalls(Isa isa) { return backward_calls[static_cast<int>(isa)].load(std::memory_order_relaxed); }
int64_t BackwardPlainCalls() { return plain_calls.load(std::memory_order_relaxed); }

}  // namespace dwsconv
