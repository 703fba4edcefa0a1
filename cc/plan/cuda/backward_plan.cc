#include "cc/plan/cuda/backward_plan.h"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <string>

namespace dwsconv {
namespace {

// As in cuda_plan.cc: estimates, none of them measured on a card yet.
constexpr double kFmaPerCycle = 128 * 0.6;
constexpr double kTensor16PerCycle = 1024 * 0.8;
constexpr double kTf32PerCycle = 512 * 0.5;
constexpr double kGeneralFmaPerCycle = 8;
constexpr double kOutputsPerCycle = 24;  // of a tile's epilogue
constexpr double kLatencyCycles = 1400;  // from asking DRAM to having it, under load
constexpr double kLaunchUs = 3;

// Past this the kernels' 32-bit sizes would not do.
constexpr int64_t kLargest = int64_t{1} << 24;

// Blocks that a kernel with a sum of its own in each should have: two waves of two on the largest cards there are.
constexpr int64_t kBlocks = 512;

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool SizesFit(const Problem& p) {
  const int64_t largest = std::max({p.H, p.W, p.CM(), p.K, p.R, p.S, p.Ho, p.Wo, p.stride_h, p.stride_w, p.dilation_h,
                                    p.dilation_w, p.pad_top, p.pad_left});
  if (p.N * p.output_pixels() > std::numeric_limits<int>::max() / 2 * int64_t{kCudaBackwardProduct}) return false;
  return largest <= kLargest && p.C * std::max(p.W, p.Wo) <= std::numeric_limits<int>::max() / 8;
}

bool HasProduct(const Problem& p, const CudaMachine& machine, CudaMath math) {
  if (p.dtype == DType::kFloat16) return machine.capability >= 75;
  if (p.dtype == DType::kBFloat16 || math == CudaMath::kTf32) return machine.capability >= 80;
  return true;
}

int64_t RoundUp(int64_t a, int64_t b) { return Ceil(a, b) * b; }

// Cuts `units` into about `target` parts of at least `least` each.
void Cut(int64_t units, int64_t target, int64_t least, int64_t* parts, int64_t* part_units) {
  const int64_t wanted = std::max<int64_t>(1, std::min(target, Ceil(units, least)));
  *part_units = Ceil(units, wanted);
  *parts = Ceil(units, *part_units);
}

// What has to be computed for what is wanted.
void Resolve(const Problem& p, CudaBackwardPlan* plan) {
  const WantedGradients& wanted = plan->wanted;
  plan->between = wanted.input || wanted.depthwise_filter || wanted.depthwise_bias;
  const bool any = plan->between || wanted.pointwise_filter || wanted.bias || wanted.residual;
  plan->gradient = any && p.out.kind != ActivationKind::kNone;
  plan->before = plan->gradient && DerivativeFromInput(p.out);
  plan->gradient_is_residual = plan->gradient && wanted.residual;
  plan->between_factors = plan->between && DerivativeFromInput(p.mid);
  plan->z = wanted.pointwise_filter || plan->before ||
            (plan->between && p.mid.kind != ActivationKind::kNone && !plan->between_factors);
}

void CutSums(const Problem& p, CudaBackwardPlan* plan) {
  const WantedGradients& wanted = plan->wanted;
  const int64_t pixels = p.N * p.output_pixels();
  if (wanted.bias || wanted.residual || plan->gradient)
    Cut(pixels, kBlocks, 64, &plan->bias_parts, &plan->bias_part_pixels);
  if (wanted.pointwise_filter) {
    const int64_t tiles = Ceil(p.CM(), kCudaBackwardProduct) * Ceil(p.K, kCudaBackwardProduct);
    Cut(pixels, Ceil(kBlocks / 2, tiles), 2 * kCudaBackwardProduct, &plan->product_parts, &plan->product_part_pixels);
  }
  if (plan->between) {
    Cut(Ceil(pixels, kCudaBackwardProduct), 2 * kBlocks, 1, &plan->between_parts, &plan->between_part_tiles);
  }
  if (wanted.depthwise_filter || wanted.input) {
    if (plan->fast_depthwise) {
      const int64_t groups = Ceil(p.C * SizeOf(p.dtype) / 4, kCudaBackwardGroupWords);
      const int64_t patches = p.N * PatchesOf(p.H, p.stride_h, p.pad_top) * PatchesOf(p.W, p.stride_w, p.pad_left);
      Cut(patches, Ceil(2 * kBlocks, groups), 8, &plan->filter_parts, &plan->filter_part_units);
    } else {
      Cut(pixels, std::max<int64_t>(1, kBlocks / (p.R * p.S)), 64, &plan->filter_parts, &plan->filter_part_units);
    }
  }
}

// What the fused kernel takes: "" or why not.
std::string FusedFits(const Problem& p, const CudaBackwardPlan& plan) {
  const int64_t vector = 16 / SizeOf(p.dtype);
  if (!plan.fast_depthwise || p.R > 5) {
    return "path fused does not fit: it has kernels for 3x3 and 5x5 windows with stride 1 or 2, dilation 1 and depth "
           "multiplier 1 alone";
  }
  if (p.dtype == DType::kFloat32 && plan.math == CudaMath::kExact) {
    return "path fused does not fit: exact float32 is multiplied in steps";
  }
  if (p.C % vector != 0 || p.K % vector != 0 || p.C > 128 || p.K > 128) {
    return "path fused does not fit: it takes up to 128 channels, in whole vectors of 16 bytes";
  }
  if (DerivativeFromInput(p.out) || DerivativeFromInput(p.mid)) {
    return "path fused does not fit: it takes activations whose derivative is known by their output";
  }
  if (!plan.between || !plan.wanted.pointwise_filter) {
    return "path fused does not fit: the pointwise filter's gradient and another one must be wanted";
  }
  if (p.output_pixels() > std::numeric_limits<int>::max() / std::max(p.C, p.K)) {
    return "path fused does not fit: the image is too large";
  }
  return "";
}

// Fills what follows from tile_rows, tile_columns and the problem. False where it fits no block.
bool LayOutTile(const Problem& p, const CudaMachine& machine, CudaBackwardTile* tile) {
  const int element = static_cast<int>(SizeOf(p.dtype)), pixels = tile->tile_rows * tile->tile_columns;
  const int stride = static_cast<int>(p.stride_h), window = static_cast<int>(p.R);
  tile->channels = static_cast<int>(RoundUp(p.C, 16));
  tile->out_channels = static_cast<int>(RoundUp(p.K, 16));
  // 8 warps have 32 pixels x 32 channels of dZ each.
  if (tile->channels > 32 * (8 / (pixels / 32))) return false;
  const int rows = (tile->channels + 31) / 32;
  tile->row_warps = rows == 3 ? 4 : rows;
  tile->warp_columns = static_cast<int>(RoundUp(Ceil(tile->out_channels, 8 / tile->row_warps), 16));
  tile->in_columns = (tile->tile_columns - 1) * stride + window;
  tile->ring_rows = (tile->tile_rows - 1) * stride + window + tile->tile_rows * stride;
  tile->z_pitch = static_cast<int>(RoundUp(tile->channels, 32)) + 8;
  tile->g_pitch = static_cast<int>(RoundUp(tile->out_channels, 32)) + 8;
  tile->p_pitch = tile->z_pitch;
  int64_t at = 0;
  const auto place = [&at](int64_t bytes) {
    const int64_t begin = at;
    at = RoundUp(at + bytes, 128);
    return static_cast<int>(std::min<int64_t>(begin, std::numeric_limits<int>::max()));
  };
  tile->p_offset_bytes = place(int64_t{tile->out_channels} * tile->p_pitch * element);
  tile->z_offset_bytes = place(int64_t{pixels} * tile->z_pitch * element);
  tile->g_offset_bytes = place(int64_t{pixels} * tile->g_pitch * element);
  tile->d_offset_bytes = place(p.R * p.S * tile->channels * element);
  tile->bias_offset_bytes = place(tile->channels * int64_t{4});
  tile->sums_offset_bytes = place(pixels / 32 * tile->channels * int64_t{4});
  const int tensors = p.out.kind == ActivationKind::kNone ? 1 : 2;  // dY and Y, this step's and the next one's
  tile->gradient_offset_bytes = place(int64_t{tensors} * 2 * pixels * tile->out_channels * element);
  // At the end of a part the bias' sums lie where the ring was.
  const int64_t ring = int64_t{tile->ring_rows} * tile->in_columns * tile->channels * element;
  tile->ring_offset_bytes = place(std::max<int64_t>(ring, 256 * (16 / element) * int64_t{4}));
  tile->shared_bytes = at;
  return at <= machine.block_shared_bytes;
}

// The best tile, or the one asked for, and the modelled time of the kernel. False where none fits.
bool ChooseTile(const Problem& p, const CudaMachine& machine, const CudaBackwardOptions& options,
                CudaBackwardPlan* plan, double* us) {
  bool found = false;
  for (int pixels : {64, 128}) {
    for (int columns : {4, 8, 16, 32}) {
      CudaBackwardTile tile;
      tile.tile_rows = pixels / columns;
      tile.tile_columns = columns;
      if (tile.tile_rows % 4 != 0) continue;
      if (options.tile_rows > 0 && (options.tile_rows != tile.tile_rows || options.tile_columns != columns)) continue;
      if (!LayOutTile(p, machine, &tile)) continue;
      const double both = static_cast<double>(tile.channels) * tile.out_channels, taps = static_cast<double>(p.R * p.S);
      const double rate = p.dtype == DType::kFloat32 ? kTf32PerCycle : kTensor16PerCycle;
      const double compute = pixels * (tile.channels * taps / kFmaPerCycle + 2 * both / rate +
                                       (tile.channels + tile.out_channels) / kOutputsPerCycle);
      const int tensors = p.out.kind == ActivationKind::kNone ? 1 : 2;
      const double columns_read = std::min<double>(tile.in_columns, static_cast<double>(p.W));
      const double moved = static_cast<double>(SizeOf(p.dtype)) *
                           (tile.tile_rows * p.stride_h * columns_read * p.C + pixels * (tensors * p.K + p.C));
      const double bytes_per_cycle = machine.dram_bytes_per_us / machine.clock_per_us / machine.multiprocessors;
      const double step = std::max({compute * 1.15, moved / bytes_per_cycle, kLatencyCycles});
      const double prologue = kLatencyCycles + step * p.R / (tile.tile_rows * p.stride_h);
      const int64_t strips = Ceil(p.Wo, columns), steps = Ceil(p.Ho, tile.tile_rows);
      for (int64_t segments = 1; segments <= std::min<int64_t>(steps, 64); ++segments) {
        const int64_t segment_steps = Ceil(steps, segments), used = Ceil(steps, segment_steps);
        const int64_t items = p.N * strips * used, parts = std::min<int64_t>(items, machine.multiprocessors);
        const double cycles =
            static_cast<double>(Ceil(items, parts)) * (static_cast<double>(segment_steps) * step + prologue);
        // What a part begins and ends with: filters come, sums go.
        const double some = kLatencyCycles + 12 * both / bytes_per_cycle;
        const double all = (cycles + some) / machine.clock_per_us + kLaunchUs;
        if (found && all >= *us) continue;
        found = true;
        *us = all;
        tile.segments = static_cast<int>(used);
        tile.segment_rows = static_cast<int>(segment_steps * tile.tile_rows);
        tile.items = items;
        plan->tile = tile;
        plan->bias_parts = plan->product_parts = plan->between_parts = parts;
      }
    }
  }
  return found;
}

void LayOutWorkspace(const Problem& p, CudaBackwardPlan* plan) {
  const WantedGradients& wanted = plan->wanted;
  int64_t at = 0;
  const auto place = [&at](bool there, int64_t bytes) {
    if (!there) return int64_t{-1};
    const int64_t begin = at;
    at += Ceil(bytes, 256) * 256;
    return begin;
  };
  const int64_t element = SizeOf(p.dtype), pixels = p.N * p.output_pixels();
  const int64_t x_bytes = p.N * p.H * p.W * p.C * element, y_bytes = pixels * p.K * element;
  const int64_t z_bytes = pixels * p.CM() * element;
  const bool transposed = plan->transposed;
  plan->x_at_bytes = place(transposed && (plan->z || plan->between), x_bytes);
  plan->grad_at_bytes = place(transposed, y_bytes);
  plan->output_at_bytes = place(transposed && plan->gradient && !plan->before, y_bytes);
  plan->residual_at_bytes = place(transposed && plan->before && p.has_residual, y_bytes);
  plan->dx_at_bytes = place(transposed && wanted.input, x_bytes);
  plan->dr_at_bytes = place(transposed && wanted.residual && plan->gradient, y_bytes);
  const bool fused = plan->path == CudaBackwardPath::kFused;
  plan->z_at_bytes = place(plan->z && !fused, z_bytes);
  const bool over_z = plan->z && !plan->between_factors && !fused;
  plan->dz_at_bytes = plan->between && over_z ? plan->z_at_bytes : place(plan->between, z_bytes);
  plan->gradient_at_bytes = place(plan->gradient && !plan->gradient_is_residual && !fused, y_bytes);
  plan->p_transposed_at_bytes =
      place(plan->between && plan->path != CudaBackwardPath::kGeneral, p.CM() * p.K * element);
  plan->bias_sums_at_bytes = place(wanted.bias, plan->bias_parts * p.K * 4);
  plan->product_sums_at_bytes = place(wanted.pointwise_filter, plan->product_parts * p.CM() * p.K * 4);
  plan->between_sums_at_bytes = place(wanted.depthwise_bias, plan->between_parts * p.CM() * 4);
  plan->filter_sums_at_bytes = place(wanted.depthwise_filter, plan->filter_parts * p.R * p.S * p.CM() * 4);
  plan->workspace_bytes = at;
}

// What the kernels move and multiply: each bound by the larger of both. fused_us: of the kernel that has the place of
// some of them, or 0.
double ModelledUs(const Problem& p, const CudaMachine& machine, const CudaBackwardPlan& plan, double fused_us) {
  const double pixels = static_cast<double>(p.N * p.output_pixels()), element = static_cast<double>(SizeOf(p.dtype));
  const double x = static_cast<double>(p.N * p.H * p.W * p.C) * element, z = pixels * p.CM() * element,
               y = pixels * p.K * element;
  const bool general = plan.path == CudaBackwardPath::kGeneral;
  const double product_rate = general                        ? kGeneralFmaPerCycle
                              : p.dtype != DType::kFloat32   ? kTensor16PerCycle
                              : plan.math == CudaMath::kTf32 ? kTf32PerCycle
                                                             : kFmaPerCycle;
  const double depthwise_rate = plan.fast_depthwise ? kFmaPerCycle : kGeneralFmaPerCycle;
  double us = 0;
  const auto step = [&](bool there, double bytes, double fma, double rate) {
    if (!there) return;
    us += kLaunchUs +
          std::max(bytes / machine.dram_bytes_per_us, fma / (rate * machine.clock_per_us * machine.multiprocessors));
  };
  const double taps = static_cast<double>(p.R * p.S), depthwise = pixels * p.CM() * taps;
  const double product = pixels * p.CM() * p.K;
  step(plan.transposed, 2 * (x + y), 0, 1);
  us += fused_us;
  const bool apart = fused_us == 0;
  step(apart && plan.z, x + z, depthwise, depthwise_rate);
  step(apart && plan.between_factors, x + z, depthwise, kGeneralFmaPerCycle);
  step(apart && plan.before, z + 2 * y, product, product_rate);
  step(apart && plan.gradient && !plan.before, 3 * y, 0, 1);
  step(apart && plan.wanted.bias && !(plan.gradient && !plan.before), y, 0, 1);
  step(apart && plan.wanted.pointwise_filter, z + y, product, product_rate);
  step(apart && plan.between, y + z + (p.mid.kind == ActivationKind::kNone ? 0 : z), product, product_rate);
  const bool dx = plan.wanted.input, dd = plan.wanted.depthwise_filter;
  const bool together = plan.fast_depthwise && p.R < 7;
  step(dx || (dd && together), x + z + (dd && together ? x : 0), depthwise * (dx && dd && together ? 2 : 1),
       depthwise_rate);
  step(dd && !together, x + z, depthwise, depthwise_rate);
  return us + kLaunchUs;
}

}  // namespace

const char* CudaBackwardPathName(CudaBackwardPath path) {
  switch (path) {
    case CudaBackwardPath::kGeneral:
      return "general";
    case CudaBackwardPath::kSteps:
      return "steps";
    case CudaBackwardPath::kFused:
      return "fused";
    case CudaBackwardPath::kAuto:
      break;
  }
  return "auto";
}

std::string MakeCudaBackwardPlan(const Problem& p, const CudaMachine& machine, const WantedGradients& wanted,
                                 const CudaBackwardOptions& options, CudaBackwardPlan* plan) {
  if (options.math == CudaMath::kTf32 && p.dtype != DType::kFloat32) return "math tf32 is for float32 alone";
  const std::string refused = CudaRefusesActivations({p.mid, p.out});
  if (!refused.empty()) return refused;
  *plan = CudaBackwardPlan();
  plan->math = options.math;
  plan->wanted = wanted;
  plan->wanted.depthwise_bias = wanted.depthwise_bias && p.has_depthwise_bias;
  plan->wanted.bias = wanted.bias && p.has_bias;
  plan->wanted.residual = wanted.residual && p.has_residual;
  if (p.N * p.output_pixels() == 0 || p.H * p.W == 0) return "";  // gradients are zeros
  std::string error;
  if (!HasProduct(p, machine, options.math)) {
    error = "path steps needs a card of compute capability 8.0 or more";
  } else if (!SizesFit(p)) {
    error = "path steps is not for sizes as large as these";
  }
  const bool asked = options.path == CudaBackwardPath::kSteps || options.path == CudaBackwardPath::kFused;
  if (asked && !error.empty()) return error;
  const bool general = options.path == CudaBackwardPath::kGeneral || !error.empty();
  plan->path = general ? CudaBackwardPath::kGeneral : CudaBackwardPath::kSteps;
  plan->fast_depthwise = !general && HasFastWindow(p) && p.C * SizeOf(p.dtype) % 4 == 0;
  plan->transposed = p.layout == Layout::kNCHW;
  Resolve(p, plan);
  CutSums(p, plan);
  LayOutWorkspace(p, plan);
  plan->modelled_us = ModelledUs(p, machine, *plan, 0);
  if (general || options.path == CudaBackwardPath::kSteps) return "";

  CudaBackwardPlan fused = *plan;
  fused.path = CudaBackwardPath::kFused;
  double fused_us = 0;
  error = FusedFits(p, fused);
  if (error.empty() && !options.aligned && !plan->transposed) {
    error = "path fused does not fit: it takes pointers that are multiples of 16 bytes";
  }
  if (error.empty() && !ChooseTile(p, machine, options, &fused, &fused_us)) {
    error = "path fused does not fit: no tile of it has room in the " + std::to_string(machine.block_shared_bytes) +
            " bytes of shared memory that a block may have";
  }
  if (!error.empty()) return options.path == CudaBackwardPath::kFused ? error : "";
  LayOutWorkspace(p, &fused);
  fused.modelled_us = ModelledUs(p, machine, fused, fused_us);
  if (options.path == CudaBackwardPath::kFused || fused.modelled_us < plan->modelled_us) *plan = fused;
  return "";
}

std::string DescribeCudaBackwardPlan(const CudaBackwardPlan& plan) {
  std::string text = CudaBackwardPathName(plan.path);
  if (plan.math == CudaMath::kTf32) text += " tf32";
  if (plan.path != CudaBackwardPath::kGeneral) text += plan.fast_depthwise ? " window" : " general depthwise";
  if (plan.path == CudaBackwardPath::kFused) {
    text += " tile " + std::to_string(plan.tile.tile_rows) + "x" + std::to_string(plan.tile.tile_columns) +
            " segments " + std::to_string(plan.tile.segments) + " shared " + std::to_string(plan.tile.shared_bytes);
  }
  text += " parts bias " + std::to_string(plan.bias_parts) + " product " + std::to_string(plan.product_parts) +
          " between " + std::to_string(plan.between_parts) + " filter " + std::to_string(plan.filter_parts);
  if (plan.transposed) text += " transposed";
  return text;
}

}  // namespace dwsconv
