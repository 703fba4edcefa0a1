// Where planning begins: gradients are gradient_plan.cc's, depthwise and 1x1 convolution alone pair_plan.cc's, and a
// block's other stages are planned here.
#include "cc/plan/cuda/plan.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <string>

#include "cc/plan/cuda/planner.h"

namespace dwsconv {
namespace {

// Of one output pixel, channels as 4-byte words: as many threads as the kernel for windows has.
constexpr int64_t kWindowWords = 384;

constexpr int64_t kMostInt = std::numeric_limits<int>::max();

bool WindowFits(const Chain& p) {
  return Small({p.H, p.W, p.R, p.S, p.Ho, p.Wo, p.stride_h, p.stride_w, p.dilation_h, p.dilation_w, p.pad_top,
                p.pad_left}) &&
         Small({(p.R - 1) * p.dilation_h, (p.S - 1) * p.dilation_w, p.R * p.S});
}

// "" where the GPU kernels know all of them; else which they do not know.
std::string RefusesActivations(const Chain& chain) {
  for (const Activation& activation : {chain.expand, chain.mid, chain.out}) {
    if (activation.kind > ActivationKind::kTanh) {
      return "elu, mish, gelu_tanh, prelu, and relu with a slope or bounds of its own have no GPU kernels: place the "
             "op on the CPU, or give the model to tf_dwsconv.to_builtin";
    }
  }
  return "";
}

bool IsPair(const Chain& chain) {
  return chain.has_depthwise && chain.has_project && !chain.normalize && !chain.has_gate;
}

// The stages up to the last convolution, from `from`: appends steps. Returns where they leave Z.
CudaTensor PlanMiddle(const Chain& chain, bool general, CudaTensor from, CudaPlan* plan) {
  const Chain& p = chain;
  const bool ends = !chain.has_project, residual = ends && p.has_residual;
  const CudaTensor to = ends ? CudaTensor::kY : CudaTensor::kZ;
  const auto add = [&](CudaKernel kernel, CudaTensor x, CudaTensor filter, CudaTensor z, bool all) {
    plan->steps.push_back({kernel, x, filter, z});
    CudaStep& step = plan->steps.back();
    step.normalize = all && chain.normalize, step.gate = all && chain.has_gate, step.residual = all && residual;
  };
  if (!chain.has_depthwise) {
    // A gate alone is multiplied where the product reads.
    if (!chain.normalize && !(chain.has_gate && ends) && !residual) return from;
    add(CudaKernel::kPixels, from, CudaTensor::kNone, to, true);
    return to;
  }
  const int64_t row_bytes = p.C * SizeOf(p.dtype);
  const bool window =
      !general && HasFastWindow(p) && row_bytes % 4 == 0 && WindowFits(p) && p.C * std::max(p.W, p.Wo) <= kMostInt / 8;
  if (window && chain.normalize && row_bytes / 4 > kWindowWords) {
    add(CudaKernel::kWindow, from, CudaTensor::kDepthwiseFilter, CudaTensor::kUnnormalized, false);
    add(CudaKernel::kPixels, CudaTensor::kUnnormalized, CudaTensor::kNone, to, true);
  } else {
    add(window ? CudaKernel::kWindow : CudaKernel::kPixels, from, CudaTensor::kDepthwiseFilter, to, true);
  }
  return to;
}

// The last convolution, from `from`.
void PlanLast(const Chain& chain, bool general, CudaTensor from, CudaPlan* plan) {
  const Chain& p = chain;
  const bool dense = !chain.has_depthwise && (p.R > 1 || p.S > 1 || p.stride_h > 1 || p.stride_w > 1 || p.Ho != p.H ||
                                              p.Wo != p.W || p.pad_top > 0 || p.pad_left > 0);
  CudaStep step{CudaKernel::kProduct, from, CudaTensor::kPointwiseFilter, CudaTensor::kY};
  step.residual = p.has_residual;
  step.gate = !chain.has_depthwise && chain.has_gate && !chain.normalize;
  if (general || (dense && (!WindowFits(p) || p.R * p.S > kLargest / p.C))) {
    step.kernel = CudaKernel::kConvolution;
  } else if (dense) {
    step.kernel = CudaKernel::kDenseProduct;
  } else if (step.gate) {
    step.kernel = CudaKernel::kGatedProduct;
  }
  plan->steps.push_back(step);
}

// Of the strip's epilogues in a cycle; and what its steps take beside what they compute and move: on an H200 four
// blocks took 3.6 to 5.6 times as long as that.
constexpr double kStripOutputs = 12, kStripWaits = 4.4;

// Cuts the rows into segments and models the time.
void FinishStrip(const Chain& chain, const CudaMachine& machine, CudaMath math, CudaTile* tile) {
  const Chain& p = chain;
  const int64_t by_shared = machine.multiprocessor_shared_bytes / (tile->shared_bytes + kBlockReservedBytes);
  // The kernels are compiled for two blocks of a multiprocessor, from 10.0 on for one.
  const int64_t by_registers = machine.capability >= 100 ? 1 : 2;
  tile->blocks_per_multiprocessor = static_cast<int>(std::max<int64_t>(1, std::min(by_shared, by_registers)));
  const double pixels = tile->tile_rows * tile->tile_columns, channels = tile->channels;
  const double product = ProductPerCycle(p, machine, math), in_columns = tile->in_columns;
  const double new_pixels = tile->tile_rows * Real(p.stride_h) * in_columns;
  const double outputs = chain.has_project ? tile->out_channels : channels;
  const double compute = new_pixels * channels * (tile->depth / product + 1 / kStripOutputs) +
                         pixels * channels * Real(p.R * p.S) / machine.rates.fma +
                         pixels * channels * tile->out_channels / product + pixels * outputs / kStripOutputs;
  const double moved =
      Real(SizeOf(p.dtype)) * (new_pixels * Real(chain.E) + pixels * outputs * (p.has_residual ? 2 : 1));
  const int residents = tile->blocks_per_multiprocessor;
  const double step = kStripWaits * StepCycles(machine, residents, compute, moved);
  CutRows(p, machine, residents, step, 1500, 0, 0, tile);
}

// The kernel that computes all, or why it cannot run. The best tile of those that fit.
std::string PlanStrip(const Chain& chain, const CudaMachine& machine, const CudaOptions& options, CudaTile* best) {
  const Chain& p = chain;
  if (chain.E == 0 || !chain.has_depthwise || chain.normalize || chain.has_gate ||
      (p.has_residual && !chain.has_project)) {
    return "fusion is for an expansion and a depthwise convolution, without norm and scale, and with a residual where "
           "there is a pointwise convolution";
  }
  if (!HasFastWindow(p) || p.R > 5) return "fusion is for 3x3 and 5x5 windows with stride 1 or 2, dilation 1 and M = 1";
  if (p.dtype == DType::kFloat32 && options.math != CudaMath::kTf32) return "fusion is for products on tensor cores";
  const int64_t largest = kMostInt / 8;
  if (!WindowFits(p) || p.output_pixels() > largest / std::max(p.CM(), p.K) || p.H * p.W > largest / chain.E) {
    return "fusion is not for sizes as large as these";
  }
  ForEachTile(32, options, [&](CudaTile tile) {
    LayOutStrip(chain, &tile);
    if (tile.shared_bytes > machine.block_shared_bytes) return;
    FinishStrip(chain, machine, options.math, &tile);
    if (tile.items > 0 && (best->items == 0 || tile.modelled_us < best->modelled_us)) *best = tile;
  });
  if (best->items > 0) return "";
  return "fusion does not fit into the " + std::to_string(machine.block_shared_bytes) +
         " bytes of shared memory that a block may have";
}

// What the separate kernels of an expansion and a depthwise convolution take. pair_us: what is behind the expansion, or
// 0 where that is not a pair.
double ModelledUs(const Chain& chain, const CudaMachine& machine, const CudaPlan& plan, double pair_us) {
  const Chain& p = chain;
  const double element = Real(SizeOf(p.dtype)), per_us = machine.dram_bytes_per_us * kStepBandwidth;
  const double clocks = machine.clock_per_us * machine.multiprocessors;
  const int64_t pixels = p.N * p.H * p.W;
  const double x = element * Real(pixels * chain.E), a = element * Real(pixels * p.C);
  // A is read back from L2 where it fits in half of it.
  const bool stays = a <= Real(machine.l2_bytes) / 2;
  const double a_us = a / (stays ? 2 * per_us : per_us);
  const double products = Real(RoundUp(pixels, 128) * RoundUp(p.C, 128) * RoundUp(chain.E, 32));
  const double expand = std::max(x / per_us + a_us, products / (clocks * ProductPerCycle(p, machine, plan.math)));
  if (IsPair(chain)) return expand + machine.rates.launch_us + pair_us - (stays ? std::min(a_us, pair_us / 4) : 0);
  const double z = Real(p.N * p.output_pixels() * p.CM());
  const CudaStep& middle = plan.steps[1];
  const double window = middle.kernel == CudaKernel::kWindow && middle.to != CudaTensor::kUnnormalized ? 1 : 0.1;
  const double depthwise =
      std::max(a_us + element * z / per_us, z * Real(p.R * p.S) / (clocks * machine.rates.fma * window));
  return expand + depthwise + 2 * machine.rates.launch_us;
}

std::string PlanStages(const Chain& chain, const CudaMachine& machine, const CudaOptions& options, CudaPlan* plan) {
  const Chain& p = chain;
  // With windows, the most that a block's product takes.
  const bool room = SharedRefuses(machine, ProductSharedBytes(ProductStages(machine.capability), true)).empty();
  const bool general = options.path == CudaPath::kGeneral || !HasProduct(p, machine, options.math) || !room ||
                       !Small({chain.E, p.CM(), p.K});
  if (general && options.fusion == CudaFusion::kAlways) return "fusion must not be asked for with general kernels";
  const bool expands = chain.E > 0, pair = IsPair(chain);
  plan->path = general ? CudaPath::kGeneral : CudaPath::kSteps;
  CudaTensor at = CudaTensor::kX;
  if (expands) {
    // It is all there is where nothing stands behind it.
    const bool ends =
        !chain.has_depthwise && !chain.has_project && !chain.normalize && !chain.has_gate && !p.has_residual;
    at = ends ? CudaTensor::kY : CudaTensor::kExpanded;
    plan->steps.push_back(
        {general ? CudaKernel::kConvolution : CudaKernel::kProduct, CudaTensor::kX, CudaTensor::kExpandFilter, at});
  }
  if (pair) {
    CudaOptions behind = options;
    if (general && options.path == CudaPath::kAuto) behind.path = CudaPath::kDirect;
    const std::string error = PlanPair(p, machine, behind, at, plan);
    if (!error.empty()) return error;
  } else {
    at = PlanMiddle(chain, general, at, plan);
    if (chain.has_project) PlanLast(chain, general, at, plan);
  }
  if (expands && chain.has_depthwise && !general) {
    plan->modelled_us = ModelledUs(chain, machine, *plan, plan->modelled_us);
  }
  if (general || options.path != CudaPath::kAuto || options.fusion == CudaFusion::kNever) return "";
  CudaStep strip{CudaKernel::kStrip, CudaTensor::kX, CudaTensor::kExpandFilter, CudaTensor::kY};
  const std::string error = PlanStrip(chain, machine, options, &strip.tile);
  const bool always = options.fusion == CudaFusion::kAlways;
  if (always && !error.empty()) return error;
  if (error.empty() && (always || strip.tile.modelled_us < plan->modelled_us)) {
    strip.residual = p.has_residual;
    plan->path = CudaPath::kSteps;
    plan->modelled_us = strip.tile.modelled_us;
    plan->steps = {strip};
  }
  return "";
}

// Whether that makes up for the filter's transposition: what the products take less, beside a launch.
bool PaysToTranspose(const Chain& p, const CudaMachine& machine, CudaMath math, int64_t pixels) {
  const double clocks = machine.clock_per_us * machine.multiprocessors;
  const double products = Real(RoundUp(pixels, kProductTile) * RoundUp(p.K, kProductTile)) * Real(p.CM()) / clocks;
  const double least = 1 / ProductPerCycle(p, machine, math) - 1 / GroupProductPerCycle(p, machine);
  return products * least > machine.rates.launch_us;
}

// Products that 9.0 has instructions of its own for go there. Of float32 the last one alone: only its filter has a
// place for its transpose.
void UseGroupProducts(const Chain& p, const CudaMachine& machine, const CudaOptions& options, CudaPlan* plan) {
  if (options.path != CudaPath::kAuto || plan->path == CudaPath::kTwoStep) return;
  for (size_t i = 0; machine.group_products && i < plan->steps.size(); ++i) {
    CudaStep& step = plan->steps[i];
    if (step.kernel != CudaKernel::kProduct) continue;
    const bool expands = step.with == CudaTensor::kExpandFilter, transposes = GroupProductTransposes(p);
    const int64_t pixels = p.N * (expands ? p.H * p.W : p.output_pixels());
    const int64_t channels = expands ? p.E : p.CM(), columns = expands ? p.C : p.K;
    if (!GroupProductRefuses(p, machine, options.math, pixels, channels, columns).empty()) continue;
    if (transposes && (expands || !PaysToTranspose(p, machine, options.math, pixels))) continue;
    step.kernel = CudaKernel::kWarpgroupProduct;
    const CudaStep transpose{CudaKernel::kTransposeFilter, CudaTensor::kPointwiseFilter, CudaTensor::kNone,
                             CudaTensor::kTransposedFilter};
    if (transposes) plan->steps.insert(plan->steps.begin() + static_cast<std::ptrdiff_t>(i), transpose);
  }
}

// NHWC copies around the steps, and the workspace.
std::string FinishStages(const Chain& chain, CudaPlan* plan) {
  Workspace workspace(chain, plan);
  // The plain kernel of a layer reads and writes either layout.
  const bool any_layout = plan->steps.size() == 1 && plan->steps[0].kernel == CudaKernel::kDirect;
  plan->transposed = chain.layout == Layout::kNCHW && !any_layout;
  if (plan->transposed) {
    std::vector<CudaStep> copies;
    for (CudaTensor tensor : {CudaTensor::kX, CudaTensor::kResidual}) {
      if (tensor == CudaTensor::kResidual && !chain.has_residual) continue;
      workspace.Place(tensor);
      copies.push_back({CudaKernel::kToNhwc, tensor, CudaTensor::kNone, tensor});
    }
    workspace.Place(CudaTensor::kY);
    plan->steps.insert(plan->steps.begin(), copies.begin(), copies.end());
    plan->steps.push_back({CudaKernel::kToNchw, CudaTensor::kY, CudaTensor::kNone, CudaTensor::kY});
  }
  for (const CudaStep& step : plan->steps) workspace.Place(step.to, step.to > CudaTensor::kDResidual);
  return workspace.Finish();
}

std::string Word(const CudaPlan& plan, const CudaStep& step) {
  const std::string tf32 = plan.math == CudaMath::kTf32 ? " tf32" : "";
  const std::string pair = (step.from == CudaTensor::kExpanded ? "pair " : "") + std::string(CudaPathName(plan.path));
  const std::string blocks = " blocks " + std::to_string(step.tile.blocks_per_multiprocessor);
  const bool expands = step.with == CudaTensor::kExpandFilter;
  switch (step.kernel) {
    case CudaKernel::kDepthwise:
      return pair + tf32 + " general";
    case CudaKernel::kDepthwiseWindow:
      return pair + tf32 + " window";
    case CudaKernel::kDepthwiseTensor:
      return pair + " tensor";
    case CudaKernel::kDepthwiseToeplitz:
      return pair + tf32 + " toeplitz segments " + std::to_string(step.tile.segments);
    case CudaKernel::kDirect:
      return pair + tf32;
    case CudaKernel::kStream:
    case CudaKernel::kTensorStream:
    case CudaKernel::kDeep:
      return pair + tf32 + DescribeTile(step.tile) + " groups " + std::to_string(step.tile.groups) + " threads " +
             std::to_string(step.tile.threads) + " shared " + std::to_string(step.tile.shared_bytes) + blocks;
    case CudaKernel::kStrip:
      return "strip" + DescribeTile(step.tile) + " shared " + std::to_string(step.tile.shared_bytes) + blocks;
    case CudaKernel::kWindow:
      return "window";
    case CudaKernel::kPixels:
      return "pixels";
    case CudaKernel::kProduct:
      return expands ? "expand product" : plan.path == CudaPath::kTwoStep ? "" : "pointwise";
    case CudaKernel::kWarpgroupProduct:
      return expands ? "expand product wgmma" : plan.path == CudaPath::kTwoStepWgmma ? "" : "pointwise wgmma";
    case CudaKernel::kGatedProduct:
      return "gated";
    case CudaKernel::kDenseProduct:
      return "dense";
    case CudaKernel::kConvolution:
      return expands ? "expand general" : "general";
    default:
      return "";
  }
}

}  // namespace

const char* CudaPathName(CudaPath path) {
  const char* const names[kCudaPaths] = {"auto",  "direct", "two_step",      "stream", "general",
                                         "steps", "fused",  "tensor_stream", "deep",   "two_step_wgmma"};
  return names[static_cast<int>(path)];
}

std::array<int64_t, 4> CudaSizes(const Chain& chain, CudaTensor tensor) {
  const Chain& p = chain;
  switch (tensor) {
    case CudaTensor::kX:
    case CudaTensor::kDX:
      return {p.N, p.H, p.W, chain.x_channels()};
    case CudaTensor::kExpanded:
      return {p.N, p.H, p.W, p.C};
    case CudaTensor::kUnnormalized:
    case CudaTensor::kZ:
    case CudaTensor::kDZ:
      return {p.N, p.Ho, p.Wo, p.CM()};
    case CudaTensor::kDDepthwiseFilter:
      return {p.R, p.S, 1, p.CM()};
    case CudaTensor::kDPointwiseFilter:
    case CudaTensor::kTransposedFilter:
      return {1, 1, p.CM(), p.K};
    case CudaTensor::kDDepthwiseBias:
      return {1, 1, 1, p.CM()};
    case CudaTensor::kDBias:
      return {1, 1, 1, p.K};
    default:
      return {p.N, p.Ho, p.Wo, chain.has_project ? p.K : p.CM()};  // Y, and what is as large
  }
}

std::string MakeCudaPlan(const Chain& chain, const CudaMachine& machine, const CudaOptions& options, CudaPlan* plan) {
  const Chain& p = chain;
  *plan = CudaPlan();
  plan->math = options.math;
  plan->multiprocessors = machine.multiprocessors;
  plan->capability = machine.capability;
  plan->named = options.path != CudaPath::kAuto;
  const std::string refused = RefusesActivations(chain);
  if (!refused.empty()) return refused;
  if ((options.tile_rows > 0) != (options.tile_columns > 0)) {
    return "tile_rows and tile_columns must be given together, but are " + std::to_string(options.tile_rows) + " and " +
           std::to_string(options.tile_columns);
  }
  if (options.math == CudaMath::kTf32 && p.dtype != DType::kFloat32) return "math tf32 is for float32 alone";
  if (options.gradients) return PlanGradients(chain, machine, options, plan);
  if (options.path == CudaPath::kSteps || options.path == CudaPath::kFused) {
    return std::string("path ") + CudaPathName(options.path) + " is for gradients alone";
  }
  if (p.N * p.output_pixels() == 0) return "";  // nothing is launched
  const std::string error = PlanStages(chain, machine, options, plan);
  if (!error.empty()) return error;
  UseGroupProducts(chain, machine, options, plan);
  return FinishStages(chain, plan);
}

std::string DescribeCudaPlan(const CudaPlan& plan) {
  if (plan.path == CudaPath::kAuto) return "nothing";
  const bool pair = plan.path == CudaPath::kDirect || plan.path == CudaPath::kTwoStep ||
                    plan.path == CudaPath::kTwoStepWgmma || plan.path == CudaPath::kStream ||
                    plan.path == CudaPath::kTensorStream || plan.path == CudaPath::kDeep;
  std::string text;
  const auto add = [&text](const std::string& word) {
    if (!word.empty()) text += (text.empty() ? "" : ", ") + word;
  };
  if (plan.gradients) {
    add(DescribeGradients(plan));
  } else {
    for (const CudaStep& step : plan.steps) add(Word(plan, step));
    if (plan.math == CudaMath::kTf32 && !pair) add("tf32");
  }
  if (plan.transposed) add("transposed");
  return text;
}

}  // namespace dwsconv
