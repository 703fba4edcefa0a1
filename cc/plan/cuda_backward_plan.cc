#include "cc/plan/cuda_backward_plan.h"

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
constexpr double kLaunchUs = 3;

// Past this the kernels' 32-bit sizes would not do.
constexpr int64_t kLargest = int64_t{1} << 24;

// Blocks that a kernel with a sum of its own in each should have: two waves of two on the largest cards there are.
constexpr int64_t kBlocks = 512;

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool SizesFit(const Problem& p) {
  const int64_t largest = std::max({p.H, p.W, p.CM(), p.K, p.R, p.S, p.Ho, p.Wo, p.stride_h, p.stride_w, p.dilation_h,
                                    p.dilation_w, p.pad_top, p.pad_left});
  return largest <= kLargest && p.C * std::max(p.W, p.Wo) <= std::numeric_limits<int>::max() / 8;
}

bool HasProduct(const Problem& p, const CudaMachine& machine, CudaMath math) {
  if (p.dtype == DType::kFloat16) return machine.capability >= 75;
  if (p.dtype == DType::kBFloat16 || math == CudaMath::kTf32) return machine.capability >= 80;
  return true;
}

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
    const int64_t tiles = Ceil(p.CM(), kCudaBackwardTile) * Ceil(p.K, kCudaBackwardTile);
    Cut(pixels, Ceil(kBlocks / 2, tiles), 2 * kCudaBackwardTile, &plan->product_parts, &plan->product_part_pixels);
  }
  if (plan->between) {
    Cut(Ceil(pixels, kCudaBackwardTile), 2 * kBlocks, 1, &plan->between_parts, &plan->between_part_tiles);
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
  plan->z_at_bytes = place(plan->z, z_bytes);
  const bool over_z = plan->z && !plan->between_factors;
  plan->dz_at_bytes = plan->between && over_z ? plan->z_at_bytes : place(plan->between, z_bytes);
  plan->gradient_at_bytes = place(plan->gradient && !plan->gradient_is_residual, y_bytes);
  plan->p_transposed_at_bytes =
      place(plan->between && plan->path != CudaBackwardPath::kGeneral, p.CM() * p.K * element);
  plan->bias_sums_at_bytes = place(wanted.bias, plan->bias_parts * p.K * 4);
  plan->product_sums_at_bytes = place(wanted.pointwise_filter, plan->product_parts * p.CM() * p.K * 4);
  plan->between_sums_at_bytes = place(wanted.depthwise_bias, plan->between_parts * p.CM() * 4);
  plan->filter_sums_at_bytes = place(wanted.depthwise_filter, plan->filter_parts * p.R * p.S * p.CM() * 4);
  plan->workspace_bytes = at;
}

// What the kernels move and multiply: each bound by the larger of both.
double ModelledUs(const Problem& p, const CudaMachine& machine, const CudaBackwardPlan& plan) {
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
  step(plan.z, x + z, depthwise, depthwise_rate);
  step(plan.between_factors, x + z, depthwise, kGeneralFmaPerCycle);
  step(plan.before, z + 2 * y, product, product_rate);
  step(plan.gradient && !plan.before, 3 * y, 0, 1);
  step(plan.wanted.bias && !(plan.gradient && !plan.before), y, 0, 1);
  step(plan.wanted.pointwise_filter, z + y, product, product_rate);
  step(plan.between, y + z + (p.mid.kind == ActivationKind::kNone ? 0 : z), product, product_rate);
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
    case CudaBackwardPath::kAuto:
      break;
  }
  return "auto";
}

std::string MakeCudaBackwardPlan(const Problem& p, const CudaMachine& machine, const WantedGradients& wanted,
                                 const CudaBackwardOptions& options, CudaBackwardPlan* plan) {
  if (options.math == CudaMath::kTf32 && p.dtype != DType::kFloat32) return "math tf32 is for float32 alone";
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
  if (options.path == CudaBackwardPath::kSteps && !error.empty()) return error;
  const bool general = options.path == CudaBackwardPath::kGeneral || !error.empty();
  plan->path = general ? CudaBackwardPath::kGeneral : CudaBackwardPath::kSteps;
  plan->fast_depthwise = !general && HasFastWindow(p) && p.C * SizeOf(p.dtype) % 4 == 0;
  plan->transposed = p.layout == Layout::kNCHW;
  Resolve(p, plan);
  CutSums(p, plan);
  LayOutWorkspace(p, plan);
  plan->modelled_us = ModelledUs(p, machine, *plan);
  return "";
}

std::string DescribeCudaBackwardPlan(const CudaBackwardPlan& plan) {
  std::string text = CudaBackwardPathName(plan.path);
  if (plan.math == CudaMath::kTf32) text += " tf32";
  if (plan.path != CudaBackwardPath::kGeneral) text += plan.fast_depthwise ? " window" : " general depthwise";
  text += " parts bias " + std::to_string(plan.bias_parts) + " product " + std::to_string(plan.product_parts) +
          " between " + std::to_string(plan.between_parts) + " filter " + std::to_string(plan.filter_parts);
  if (plan.transposed) text += " transposed";
  return text;
}

}  // namespace dwsconv
