#include "cc/plan/cuda/forward_plan.h"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <string>

namespace dwsconv {
namespace {

// What a multiprocessor does in a cycle, with what is usually lost already taken off. Estimates: none of them has been
// measured on a card yet.
constexpr double kFmaPerCycle = 128 * 0.6;
constexpr double kTensor16PerCycle = 1024 * 0.8;
constexpr double kTf32PerCycle = 512 * 0.5;
constexpr double kToeplitzPerCycle = 4;  // depthwise sums of a 7x7 window on tensor cores
constexpr double kOutputsPerCycle = 24;  // an epilogue's: bias, activation, rounding, store
constexpr double kLatencyCycles = 1400;  // from asking DRAM to having it, under load
constexpr double kLaunchUs = 3;

// Past this the kernels' 32-bit sizes would not do; CheckProducts keeps products within 64 bits.
constexpr int64_t kLargest = int64_t{1} << 24;

constexpr int64_t kMostItems = int64_t{1} << 30;  // so that an item after the last one is an int, too
constexpr int kMostGroups = 4;                    // of a block's threads

constexpr int kBlockReservedBytes = 1024;  // the system's own, of each block's shared memory

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t RoundUp(int64_t a, int64_t b) { return Ceil(a, b) * b; }

bool Small(std::initializer_list<int64_t> sizes) { return std::max(sizes) <= kLargest; }

bool SizesFit(const Problem& p) {
  return Small({p.H, p.W, p.CM(), p.K, p.R, p.S, p.Ho, p.Wo, p.stride_h, p.stride_w, p.dilation_h, p.dilation_w,
                p.pad_top, p.pad_left}) &&
         p.C * std::max(p.W, p.Wo) <= std::numeric_limits<int>::max() / 8;
}

// Whether the card has the instructions that multiply this element type.
bool HasProduct(const Problem& p, const CudaMachine& machine, CudaMath math) {
  if (p.dtype == DType::kFloat16) return machine.capability >= 75;
  if (p.dtype == DType::kBFloat16 || math == CudaMath::kTf32) return machine.capability >= 80;
  return true;
}

double ProductPerCycle(const Problem& p, CudaMath math) {
  if (p.dtype != DType::kFloat32) return kTensor16PerCycle;
  return math == CudaMath::kTf32 ? kTf32PerCycle : kFmaPerCycle;
}

double Bytes(const Problem& p, int64_t elements) { return static_cast<double>(elements) * SizeOf(p.dtype); }

double CyclesToUs(const CudaMachine& machine, double cycles) { return cycles / machine.clock_per_us; }

// A tile in shared memory: fills what follows from tile_rows, tile_columns and the problem.
void LayOutTile(const Problem& p, CudaPlan* plan) {
  const int element = static_cast<int>(SizeOf(p.dtype));
  const int stride = static_cast<int>(p.stride_h), window = static_cast<int>(p.R);
  const int pixels = plan->tile_rows * plan->tile_columns;
  plan->threads = pixels * 2 * plan->groups;
  plan->channels = static_cast<int>(RoundUp(p.C, 16));
  // A warp multiplies by 32 or 64 columns of P.
  plan->out_channels = static_cast<int>(RoundUp(p.K, 32));
  plan->warp_channels = plan->out_channels > 64 ? 64 : 32;
  plan->in_columns = (plan->tile_columns - 1) * stride + window;
  plan->ring_rows = (plan->tile_rows - 1) * stride + window + plan->tile_rows * stride;
  int64_t at = 0;
  const auto place = [&at](int64_t bytes) {
    const int64_t begin = at;
    at = RoundUp(at + bytes, 128);
    return static_cast<int>(std::min<int64_t>(begin, std::numeric_limits<int>::max()));
  };
  plan->p_offset_bytes = place(int64_t{plan->channels} * PPitch(plan->out_channels) * element);
  plan->d_offset_bytes = place(p.R * p.S * plan->channels * element);
  plan->bias_offset_bytes = place(int64_t{plan->channels + plan->out_channels} * 4);
  const int64_t common = at;
  plan->z_offset_bytes = place(int64_t{pixels} * ZPitch(plan->channels, element) * element);
  plan->ring_offset_bytes = place(int64_t{plan->ring_rows} * plan->in_columns * plan->channels * element);
  const int64_t group_bytes = at - common;
  plan->group_bytes = static_cast<int>(std::min<int64_t>(group_bytes, std::numeric_limits<int>::max()));
  plan->shared_bytes = common + plan->groups * group_bytes;
}

// Threads that a block of the fused kernel may have: kStreamThreads of cuda/fused/stream_kernel.cuh.
int StreamThreads(const Problem& p) { return p.R == 3 ? 384 : 256; }

// Blocks of this plan that one multiprocessor holds.
int BlocksPerMultiprocessor(const Problem& p, const CudaMachine& machine, const CudaPlan& plan) {
  const int64_t by_shared = machine.multiprocessor_shared_bytes / (plan.shared_bytes + kBlockReservedBytes);
  // Of a thread, at most: what the launch bounds leave it. docs/cuda.md has the compiler's report.
  const int registers = p.R == 3 ? 168 : 255;
  const int64_t by_registers = 65536 / (int64_t{registers} * plan.threads);
  return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({by_shared, by_registers, 16})));
}

// Cuts the rows into segments and models the time.
void FinishStream(const Problem& p, const CudaMachine& machine, const CudaOptions& options, CudaPlan* plan) {
  plan->blocks_per_multiprocessor = BlocksPerMultiprocessor(p, machine, *plan);
  const int64_t strips = Ceil(p.Wo, plan->tile_columns), steps = Ceil(p.Ho, plan->tile_rows);
  const int residents = plan->blocks_per_multiprocessor * plan->groups;  // groups of a multiprocessor
  const int64_t slots = int64_t{machine.multiprocessors} * residents;
  const double pixels = plan->tile_rows * plan->tile_columns;
  const double taps = static_cast<double>(p.R * p.S);
  const double compute = pixels * plan->channels * taps / kFmaPerCycle +
                         pixels * plan->channels * plan->out_channels / ProductPerCycle(p, plan->math) +
                         pixels * plan->out_channels / kOutputsPerCycle;
  const double columns = std::min<double>(plan->in_columns, static_cast<double>(p.W));
  const double moved = Bytes(p, 1) * (plan->tile_rows * p.stride_h * columns * p.C + pixels * p.K);
  const double bytes_per_cycle = machine.dram_bytes_per_us / machine.clock_per_us / machine.multiprocessors;
  // Two groups of a multiprocessor work on different halves at the same time; one alone does not.
  const double overlap = residents == 1 ? 1.15 : residents == 2 ? 0.8 : 0.7;
  // A group's next rows are asked for one step ahead, so no step of it is shorter than they take to come.
  const double waiting = kLatencyCycles / residents;
  // What bounds a step hides the rest, but not all of it, and the less the fewer warps there are.
  const double warps = static_cast<double>(residents) * pixels / 16;
  const double shown = compute * 0.02 * std::max(1.0, 12 / warps);
  const double step_cycles = std::max({compute * overlap, moved / bytes_per_cycle, waiting}) + shown;
  const double prologue_cycles = 1500 + step_cycles * p.R / (plan->tile_rows * p.stride_h);

  plan->modelled_us = std::numeric_limits<double>::infinity();
  const int64_t most = options.segments > 0 ? options.segments : std::min<int64_t>(steps, 64);
  for (int64_t segments = options.segments > 0 ? options.segments : 1; segments <= most; ++segments) {
    const int64_t segment_steps = Ceil(steps, segments);
    const int64_t used = Ceil(steps, segment_steps);
    const int64_t items = p.N * strips * used;
    if (items > kMostItems) continue;
    const double cycles = static_cast<double>(Ceil(items, slots)) * residents *
                          (static_cast<double>(segment_steps) * step_cycles + prologue_cycles);
    const double us = CyclesToUs(machine, cycles) + kLaunchUs;
    if (us >= plan->modelled_us) continue;
    plan->modelled_us = us;
    plan->segments = static_cast<int>(used);
    plan->segment_rows = static_cast<int>(segment_steps * plan->tile_rows);
    plan->items = items;
  }
}

// The fused kernel, or why it cannot run. The best tile of those that fit, or the one asked for.
std::string PlanStream(const Problem& p, const CudaMachine& machine, const CudaOptions& options, CudaPlan* plan) {
  if (!HasFastWindow(p)) {
    return "path stream has kernels for 3x3 and 5x5 windows with stride 1 or 2 and for 7x7 with stride 1, each with "
           "dilation 1 and depth multiplier 1 alone";
  }
  if (!HasProduct(p, machine, options.math)) return "path stream needs a card of compute capability 8.0 or more";
  if (!SizesFit(p) || p.C > 512 || p.K > 4096 || p.output_pixels() > std::numeric_limits<int>::max() / p.K) {
    return "path stream is not for sizes as large as these";
  }
  bool found = false;
  for (int pixels : {32, 64, 128}) {
    for (int columns : {4, 8, 16, 32}) {
      const int rows = pixels / columns;
      if (rows % 4 != 0) continue;
      if (options.tile_columns > 0 && (options.tile_columns != columns || options.tile_rows != rows)) continue;
      // A thread copies 16 bytes of a pixel at a time, so a pixel has no more of them than a group has threads.
      if (RoundUp(p.C, 16) * SizeOf(p.dtype) / 16 > 2 * pixels) continue;
      const int most = std::min(StreamThreads(p) / (2 * pixels), kMostGroups);
      for (int groups = 1; groups <= most; ++groups) {
        if (options.groups > 0 && options.groups != groups) continue;
        CudaPlan candidate;
        candidate.path = CudaPath::kStream;
        candidate.math = options.math;
        candidate.tile_rows = rows;
        candidate.tile_columns = columns;
        candidate.groups = groups;
        LayOutTile(p, &candidate);
        if (candidate.shared_bytes > machine.block_shared_bytes) break;
        FinishStream(p, machine, options, &candidate);
        if (candidate.items == 0) continue;
        if (!found || candidate.modelled_us < plan->modelled_us) *plan = candidate;
        found = true;
      }
    }
  }
  if (found) return "";
  if (options.tile_columns > 0 || options.groups > 0) {
    return "path stream has no tile of " + std::to_string(options.tile_rows) + "x" +
           std::to_string(options.tile_columns) + " in " + std::to_string(options.groups) +
           " groups that fits (0: any): 32, 64 or 128 pixels, 4, 8, 16 or 32 columns, at least 4 rows, two threads "
           "of " +
           std::to_string(StreamThreads(p)) + " for each pixel of a group, and " +
           std::to_string(machine.block_shared_bytes) + " bytes of shared memory";
  }
  return "path stream does not fit into the " + std::to_string(machine.block_shared_bytes) +
         " bytes of shared memory that a block may have";
}

// The depthwise half of a 7x7 window on tensor cores, where that can be.
bool PlanToeplitz(const Problem& p, const CudaMachine& machine, CudaPlan* plan) {
  if (!HasFastWindow(p) || p.R != 7 || p.dtype == DType::kFloat32 || p.C % 8 != 0) return false;
  if (machine.capability < 80 || machine.block_shared_bytes < kToeplitzMostSharedBytes) return false;
  const int64_t steps = Ceil(p.Ho, kToeplitzTile);
  const int64_t columns = p.N * Ceil(p.C, 32) * Ceil(p.Wo, kToeplitzTile);
  // Segments so that each block has some; every one loads 6 rows more.
  const int64_t wanted = std::min(steps, Ceil(int64_t{machine.multiprocessors} * 4, columns));
  const int64_t segment_steps = Ceil(steps, wanted), segments = Ceil(steps, segment_steps);
  if (columns * segments > kMostItems) return false;
  plan->segments = static_cast<int>(segments);
  plan->segment_rows = static_cast<int>(segment_steps * kToeplitzTile);
  plan->items = columns * segments;
  return true;
}

std::string PlanTwoStep(const Problem& p, const CudaMachine& machine, const CudaOptions& options, CudaPlan* plan) {
  if (!HasProduct(p, machine, options.math)) return "path two_step needs a card of compute capability 8.0 or more";
  if (!SizesFit(p)) return "path two_step is not for sizes as large as these";
  plan->path = CudaPath::kTwoStep;
  plan->math = options.math;
  plan->fast_depthwise = HasFastWindow(p) && p.C * SizeOf(p.dtype) % 4 == 0;
  plan->toeplitz = PlanToeplitz(p, machine, plan);
  const int64_t pixels = p.N * p.output_pixels();
  const double x = Bytes(p, p.N * p.H * p.W * p.C), z = Bytes(p, pixels * p.CM()), y = Bytes(p, pixels * p.K);
  const double per_us = machine.dram_bytes_per_us;
  // Z is read back from L2 where it fits in half of it.
  const double z_us = z / (z <= machine.l2_bytes / 2 ? 2 * per_us : per_us);
  const double clocks = machine.clock_per_us * machine.multiprocessors;
  const double fma = static_cast<double>(pixels) * p.CM() * p.R * p.S;
  const double tiles_of_toeplitz = static_cast<double>(p.N * Ceil(p.Ho, kToeplitzTile) * Ceil(p.Wo, kToeplitzTile));
  const double sums = plan->toeplitz ? tiles_of_toeplitz * kToeplitzTile * kToeplitzTile *
                                           static_cast<double>(RoundUp(p.C, 32)) / (clocks * kToeplitzPerCycle)
                                     : fma / (clocks * kFmaPerCycle * (plan->fast_depthwise ? 1 : 0.1));
  const double depthwise = std::max(x / per_us + z_us, sums);
  const int64_t tiles = Ceil(pixels, 128) * Ceil(p.K, 128), slots = int64_t{machine.multiprocessors} * 2;
  const double waves = static_cast<double>(Ceil(tiles, slots) * 2);
  const double product = waves * 128 * 128 * static_cast<double>(RoundUp(p.CM(), 32)) / ProductPerCycle(p, plan->math);
  const double pointwise = std::max(z_us + y / per_us, CyclesToUs(machine, product));
  plan->modelled_us = depthwise + pointwise + 2 * kLaunchUs;
  return "";
}

// Where copies of tensors lie in the workspace.
void LayOutWorkspace(const Problem& p, CudaPlan* plan) {
  int64_t at = 0;
  const auto place = [&at, &p](int64_t elements) {
    const int64_t begin = at;
    at += RoundUp(elements * SizeOf(p.dtype), 256);
    return begin;
  };
  const int64_t outputs = p.N * p.output_pixels() * p.K;
  if (plan->path == CudaPath::kTwoStep) plan->z_at_bytes = place(p.N * p.output_pixels() * p.CM());
  plan->transposed = p.layout == Layout::kNCHW && plan->path != CudaPath::kDirect;
  if (plan->transposed) {
    plan->x_at_bytes = place(p.N * p.H * p.W * p.C);
    plan->y_at_bytes = place(outputs);
    if (p.has_residual) plan->residual_at_bytes = place(outputs);
  }
  plan->workspace_bytes = at;
}

}  // namespace

const char* CudaPathName(CudaPath path) {
  switch (path) {
    case CudaPath::kDirect:
      return "direct";
    case CudaPath::kTwoStep:
      return "two_step";
    case CudaPath::kStream:
      return "stream";
    case CudaPath::kAuto:
      break;
  }
  return "auto";
}

bool HasFastWindow(const Problem& p) {
  if (p.R != p.S || p.stride_h != p.stride_w || p.dilation_h != 1 || p.dilation_w != 1 || p.M != 1) return false;
  return (p.stride_h == 1 && (p.R == 3 || p.R == 5 || p.R == 7)) || (p.stride_h == 2 && (p.R == 3 || p.R == 5));
}

std::string CudaRefusesActivations(std::initializer_list<Activation> activations) {
  for (const Activation& activation : activations) {
    if (activation.kind > ActivationKind::kTanh) {
      return "elu, mish, gelu_tanh, prelu, and relu with a slope or bounds of its own have no GPU kernels: place the "
             "op on "
             "the CPU, or give the model to tf_dwsconv.to_builtin";
    }
  }
  return "";
}

std::string MakeCudaPlan(const Problem& p, const CudaMachine& machine, const CudaOptions& options, CudaPlan* plan) {
  const std::string refused = CudaRefusesActivations({p.mid, p.out});
  if (!refused.empty()) return refused;
  if ((options.tile_rows > 0) != (options.tile_columns > 0)) {
    return "tile_rows and tile_columns must be given together, but are " + std::to_string(options.tile_rows) + " and " +
           std::to_string(options.tile_columns);
  }
  if (options.math == CudaMath::kTf32 && p.dtype != DType::kFloat32) {
    return "math tf32 is for float32 alone";
  }
  *plan = CudaPlan();
  plan->math = options.math;
  if (p.N * p.output_pixels() == 0 || p.H * p.W == 0) return "";  // nothing is launched
  std::string error;
  switch (options.path) {
    case CudaPath::kDirect:
      break;
    case CudaPath::kTwoStep:
      error = PlanTwoStep(p, machine, options, plan);
      break;
    case CudaPath::kStream:
      error = PlanStream(p, machine, options, plan);
      break;
    case CudaPath::kAuto: {
      CudaPlan stream, two_step;
      const bool streams = PlanStream(p, machine, options, &stream).empty();
      const bool steps = PlanTwoStep(p, machine, options, &two_step).empty();
      if (streams && (!steps || stream.modelled_us <= two_step.modelled_us)) {
        *plan = stream;
      } else if (steps) {
        *plan = two_step;
      }
      break;
    }
  }
  if (error.empty()) LayOutWorkspace(p, plan);
  return error;
}

std::string DescribeCudaPlan(const CudaPlan& plan) {
  std::string text = CudaPathName(plan.path);
  if (plan.math == CudaMath::kTf32) text += " tf32";
  if (plan.path == CudaPath::kTwoStep)
    text += plan.toeplitz ? " toeplitz" : plan.fast_depthwise ? " window" : " general";
  if (plan.path == CudaPath::kStream) {
    text += " tile " + std::to_string(plan.tile_rows) + "x" + std::to_string(plan.tile_columns) + " segments " +
            std::to_string(plan.segments) + " groups " + std::to_string(plan.groups) + " threads " +
            std::to_string(plan.threads) + " shared " + std::to_string(plan.shared_bytes) + " blocks " +
            std::to_string(plan.blocks_per_multiprocessor);
  }
  if (plan.transposed) text += " transposed";
  return text;
}

}  // namespace dwsconv
