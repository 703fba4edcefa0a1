// The gradients of a depthwise and a 1x1 convolution.
#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "cc/plan/cuda/planner.h"
#include "cc/plan/cuda/tensor_cut.h"

namespace dwsconv {
namespace {

constexpr double kGeneralFmaPerCycle = 8;

// Blocks that a kernel with a sum of its own in each should have: two waves of two on the largest cards there are.
constexpr int64_t kBlocks = 512;

// Of the fused path's first kernel, for a pixel: what it takes beside what it computes. Fitted to an H200, where it
// took 505, 250, 230 and 71 us (112x112 32 to 64, the same 64 to 128 with stride 2, 56x56 and 32x32 128 to 128;
// float16, batch 64), which are modelled as 455, 197, 263 and 86. The fewer channels, the more of it is this.
constexpr double kFusedPixelCycles = 60;

// What has to be there on the way.
struct Needs {
  bool z = false;         // Z, computed again
  bool between = false;   // the gradient by Z, and with it of X, D and the depthwise bias
  bool factors = false;   // mid' as a tensor, as Z does not tell it
  bool before = false;    // what went into the last activation has to be computed again
  bool gradient = false;  // dY through the last activation as a tensor: it is not dY itself
  bool group = false;     // products by 9.0's own instructions

  Needs(const Chain& p, const WantedGradients& wanted) {
    between = wanted.input || wanted.depthwise_filter || wanted.depthwise_bias;
    const bool any = between || wanted.pointwise_filter || wanted.bias || wanted.residual;
    gradient = any && p.out.kind != ActivationKind::kNone;
    before = gradient && DerivativeFromInput(p.out);
    factors = between && DerivativeFromInput(p.mid);
    z = wanted.pointwise_filter || before || (between && p.mid.kind != ActivationKind::kNone && !factors);
  }
};

// Cuts `units` into about `target` parts of at least `least` each.
CudaParts Cut(int64_t units, int64_t target, int64_t least) {
  const int64_t wanted = std::max<int64_t>(1, std::min(target, CeilDiv(units, least)));
  const int64_t part_units = CeilDiv(units, wanted);
  return {CeilDiv(units, part_units), part_units};
}

// The parts of dP where it is summed by 9.0's own instructions, one block a multiprocessor: the number that takes least
// time, of whole stages. Times are in those of a stage.
CudaParts CutGroupProduct(int64_t pixels, int64_t channels, int64_t columns, int64_t multiprocessors) {
  // Before a block's first stage and behind its last one; a part's floats, which one kernel writes and one reads.
  constexpr double kBegin = 4, kStageFloats = 250e3;
  const int64_t tiles = CeilDiv(channels, kGradientProduct) * CeilDiv(columns, kGradientProduct);
  const int64_t stages = CeilDiv(pixels, kGroupDepth);
  CudaParts best;
  double least = 0;
  for (int64_t wanted = 1; wanted <= std::min(stages, multiprocessors); ++wanted) {
    const int64_t part = CeilDiv(stages, wanted), count = CeilDiv(stages, part);
    const double turns = Real(CeilDiv(tiles * count, multiprocessors));
    const double time = turns * (Real(part) + kBegin) + Real(count) * Real(channels) * Real(columns) / kStageFloats;
    if (best.count > 0 && time >= least) continue;
    least = time;
    best = {count, part * kGroupDepth};
  }
  return best;
}

void CutSums(const Chain& p, const WantedGradients& wanted, const Needs& needs, CudaPlan* plan) {
  const int64_t pixels = p.N * p.output_pixels();
  if (wanted.bias || wanted.residual || needs.gradient) plan->bias = Cut(pixels, kBlocks, 64);
  if (wanted.pointwise_filter && needs.group) {
    plan->product = CutGroupProduct(pixels, p.CM(), p.K, plan->multiprocessors);
  } else if (wanted.pointwise_filter) {
    const int64_t tiles = CeilDiv(p.CM(), kGradientProduct) * CeilDiv(p.K, kGradientProduct);
    plan->product = Cut(pixels, CeilDiv(kBlocks / 2, tiles), 2 * kGradientProduct);
  }
  if (needs.between) plan->between = Cut(CeilDiv(pixels, kGradientProduct), 2 * kBlocks, 1);
  if (!wanted.depthwise_filter && !wanted.input) return;
  if (plan->tensor) {
    // A warp's part is some pairs of tiles, all rows of them. A block has several where there are few channels.
    const TensorCut cut = CutTensorFilter(p);
    plan->filter = Cut(cut.pairs, CeilDiv(2 * kBlocks * cut.block_pairs(), cut.channel_blocks), 1);
    plan->filter.count = RoundUp(plan->filter.count, cut.block_pairs());
  } else if (plan->window) {
    const int64_t groups = CeilDiv(p.C * SizeOf(p.dtype) / 4, kGradientGroupWords);
    const int64_t patches =
        p.N * GradientPatches(p.H, p.stride_h, p.pad_top) * GradientPatches(p.W, p.stride_w, p.pad_left);
    plan->filter = Cut(patches, CeilDiv(2 * kBlocks, groups), 8);
  } else {
    plan->filter = Cut(pixels, std::max<int64_t>(1, kBlocks / (p.R * p.S)), 64);
  }
}

// What the fused kernel takes: "" or why not.
std::string FusedFits(const Chain& p, const WantedGradients& wanted, const Needs& needs, const CudaPlan& plan) {
  const int64_t vector = 16 / SizeOf(p.dtype);
  if (!plan.window || p.R > 5) {
    return "it has kernels for 3x3 and 5x5 windows with stride 1 or 2, dilation 1 and depth multiplier 1 alone";
  }
  if (p.dtype == DType::kFloat32 && plan.math == CudaMath::kExact) return "exact float32 is multiplied in steps";
  if (p.C % vector != 0 || p.K % vector != 0 || p.C > 128 || p.K > 128) {
    return "it takes up to 128 channels, in whole vectors of 16 bytes";
  }
  if (DerivativeFromInput(p.out) || DerivativeFromInput(p.mid)) {
    return "it takes activations whose derivative is known by their output";
  }
  if (!needs.between || !wanted.pointwise_filter) {
    return "the pointwise filter's gradient and another one must be wanted";
  }
  if (p.output_pixels() > std::numeric_limits<int>::max() / std::max(p.C, p.K)) return "the image is too large";
  return "";
}

// The best tile of the fused kernel, or the one asked for; its items are 0 where none fits.
CudaTile ChooseTile(const Chain& p, const CudaMachine& machine, const CudaOptions& options) {
  CudaTile best;
  ForEachTile(64, options, [&](CudaTile tile) {
    if (!LayOutGradientStream(p, &tile) || tile.shared_bytes > machine.block_shared_bytes) return;
    const double pixels = tile.tile_rows * tile.tile_columns;
    const double both = static_cast<double>(tile.channels) * tile.out_channels, taps = Real(p.R * p.S);
    const double rate = p.dtype == DType::kFloat32 ? machine.rates.tf32 : machine.rates.tensor16;
    const double compute = pixels * (tile.channels * taps / machine.rates.fma + 2 * both / rate +
                                     (tile.channels + tile.out_channels) / machine.rates.outputs + kFusedPixelCycles);
    const int tensors = p.out.kind == ActivationKind::kNone ? 1 : 2;
    const double columns = std::min<double>(tile.in_columns, Real(p.W));
    const double moved = Real(SizeOf(p.dtype)) *
                         (Real(tile.tile_rows * p.stride_h) * columns * Real(p.C) + pixels * Real(tensors * p.K + p.C));
    // What a part begins and ends with: filters come, sums go.
    const double bytes_per_cycle = machine.dram_bytes_per_us / machine.clock_per_us / machine.multiprocessors;
    const double part_cycles = machine.rates.latency_cycles + 12 * both / bytes_per_cycle;
    CutRows(p, machine, 1, StepCycles(machine, 1, compute, moved), machine.rates.latency_cycles, part_cycles, 0, &tile);
    if (tile.items > 0 && (best.items == 0 || tile.modelled_us < best.modelled_us)) best = tile;
  });
  return best;
}

// The steps of all gradients, and the workspace. `fused`: the first kernel of the fused path, or null.
std::string AddSteps(const Chain& chain, const WantedGradients& wanted, const Needs& needs, const CudaTile* fused,
                     CudaPlan* plan) {
  using K = CudaKernel;
  using T = CudaTensor;
  const Chain& p = chain;
  const bool general = plan->path == CudaPath::kGeneral, apart = fused == nullptr;
  const T g = !needs.gradient ? T::kGrad : wanted.residual ? T::kDResidual : T::kG;
  const T dx = wanted.input ? T::kDX : T::kNone, dr = wanted.residual ? T::kDResidual : T::kNone;
  const T bias_sums = wanted.bias ? T::kBiasSums : T::kNone;
  const T between_sums = wanted.depthwise_bias ? T::kBetweenSums : T::kNone;
  const T filter_sums = wanted.depthwise_filter ? T::kFilterSums : T::kNone;
  const auto add = [plan](bool there, K kernel, T from, T with, T to, T sums) {
    if (there) plan->steps.push_back({kernel, from, with, to, sums});
  };
  const auto copy = [&](bool there, T tensor) {
    add(there && plan->transposed, K::kToNhwc, tensor, T::kNone, tensor, T::kNone);
  };
  copy((needs.z || needs.between) && p.H * p.W > 0, T::kX);
  copy(true, T::kGrad);
  copy(needs.gradient && !needs.before, T::kY);
  copy(needs.before && p.has_residual, T::kResidual);
  if (!apart) {
    add(true, K::kTransposeFilter, T::kPointwiseFilter, T::kNone, T::kTransposedFilter, T::kNone);
    add(true, K::kGradientStream, T::kX, T::kTransposedFilter, T::kDZ, T::kProductSums);
    plan->steps.back().residual = wanted.residual;
    plan->steps.back().tile = *fused;
  } else {
    add(needs.z,
        plan->tensor   ? K::kDepthwiseTensor
        : plan->window ? K::kDepthwiseWindow
                       : K::kDepthwise,
        T::kX, T::kDepthwiseFilter, T::kZ, T::kNone);
    if (!needs.gradient) {
      add(wanted.residual || wanted.bias, K::kColumns, T::kGrad, T::kNone, dr, bias_sums);
    } else if (!needs.before) {
      add(true, K::kColumns, T::kGrad, T::kY, g, bias_sums);
    } else {
      add(true, K::kOutputGradient, T::kZ, T::kPointwiseFilter, g, T::kNone);
      add(wanted.bias, K::kColumns, g, T::kNone, T::kNone, bias_sums);
    }
    add(wanted.pointwise_filter, needs.group ? K::kWarpgroupFilterProduct : K::kFilterProduct, T::kZ, g, T::kNone,
        T::kProductSums);
    add(needs.factors, K::kBetweenFactors, T::kX, T::kDepthwiseFilter, T::kDZ, T::kNone);
    const bool transposes = needs.between && !general && !needs.group;
    add(transposes, K::kTransposeFilter, T::kPointwiseFilter, T::kNone, T::kTransposedFilter, T::kNone);
    add(needs.between, needs.group ? K::kWarpgroupBetween : K::kBetweenGradient, g,
        transposes ? T::kTransposedFilter : T::kPointwiseFilter, T::kDZ, general ? T::kNone : between_sums);
    add(wanted.depthwise_bias && general, K::kColumns, T::kDZ, T::kNone, T::kNone, between_sums);
  }
  add(wanted.input || wanted.depthwise_filter, K::kDepthwiseGradient, T::kDZ, T::kX, dx, filter_sums);
  add(wanted.pointwise_filter || wanted.depthwise_filter || wanted.depthwise_bias || wanted.bias, K::kReduce, T::kNone,
      T::kNone, T::kNone, T::kNone);
  for (T tensor : {dx, dr}) {
    add(plan->transposed && tensor != T::kNone, K::kToNchw, tensor, T::kNone, tensor, T::kNone);
  }

  Workspace workspace(chain, plan);
  for (const CudaStep& step : plan->steps) workspace.Place(step.to, step.kernel == K::kToNhwc);
  workspace.Place(dx, plan->transposed && wanted.input);
  workspace.Place(dr, plan->transposed && wanted.residual && needs.gradient);
  // Without an activation the residual's gradient is dY, and its copy here is copied back.
  if (plan->transposed && wanted.residual && !needs.gradient) workspace.Share(T::kDResidual, T::kGrad);
  workspace.Place(T::kZ, needs.z && apart);
  // dZ is written over Z, or over mid'.
  if (needs.between && needs.z && !needs.factors && apart) {
    workspace.Share(T::kDZ, T::kZ);
  } else {
    workspace.Place(T::kDZ, needs.between);
  }
  workspace.Place(T::kG, g == T::kG && apart);
  // With needs.group for pointers that are askew, which the planner does not see.
  workspace.Place(T::kTransposedFilter, needs.between && !general);
  workspace.PlaceSums(T::kBiasSums, plan->bias, T::kDBias, wanted.bias);
  workspace.PlaceSums(T::kProductSums, plan->product, T::kDPointwiseFilter, wanted.pointwise_filter);
  workspace.PlaceSums(T::kBetweenSums, plan->between, T::kDDepthwiseBias, wanted.depthwise_bias);
  workspace.PlaceSums(T::kFilterSums, plan->filter, T::kDDepthwiseFilter, wanted.depthwise_filter);
  return workspace.Finish();
}

// What the kernels move and multiply: each bound by the larger of both. fused_us: of the kernel that has the place of
// some of them, or 0.
double ModelledUs(const Chain& p, const CudaMachine& machine, const CudaPlan& plan, const WantedGradients& wanted,
                  const Needs& needs, double fused_us) {
  const double pixels = Real(p.N * p.output_pixels()), element = Real(SizeOf(p.dtype));
  const double x = Real(p.N * p.H * p.W * p.C) * element, z = pixels * Real(p.CM()) * element,
               y = pixels * Real(p.K) * element;
  const bool general = plan.path == CudaPath::kGeneral, apart = fused_us == 0;
  const double product_rate = general ? kGeneralFmaPerCycle : ProductPerCycle(p, machine, plan.math);
  const double gradient_rate = needs.group ? machine.rates.group16 : product_rate;
  const double depthwise_rate = plan.window ? machine.rates.fma : kGeneralFmaPerCycle;
  double us = 0;
  const auto step = [&](bool there, double bytes, double fma, double rate) {
    if (!there) return;
    us += machine.rates.launch_us + std::max(bytes / (machine.dram_bytes_per_us * kStepBandwidth),
                                             fma / (rate * machine.clock_per_us * machine.multiprocessors));
  };
  const double depthwise = pixels * Real(p.CM()) * Real(p.R * p.S), product = pixels * Real(p.CM()) * Real(p.K);
  step(plan.transposed, 2 * (x + y), 0, 1);
  us += fused_us;
  const bool columns = needs.gradient && !needs.before;
  step(apart && needs.z, x + z, depthwise, depthwise_rate);
  step(apart && needs.factors, x + z, depthwise, kGeneralFmaPerCycle);
  step(apart && needs.before, z + 2 * y, product, product_rate);
  step(apart && columns, 3 * y, 0, 1);
  step(apart && wanted.bias && !columns, y, 0, 1);
  step(apart && wanted.pointwise_filter, z + y, product, gradient_rate);
  step(apart && needs.between, y + z + (p.mid.kind == ActivationKind::kNone ? 0 : z), product, gradient_rate);
  const bool dx = wanted.input, dd = wanted.depthwise_filter, together = plan.window && p.R < 7;
  step(dx || (dd && together), x + z + (dd && together ? x : 0), depthwise * (dx && dd && together ? 2 : 1),
       depthwise_rate);
  step(dd && !together, x + z, depthwise, depthwise_rate);
  return us + machine.rates.launch_us;
}

}  // namespace

std::string PlanGradients(const Chain& chain, const CudaMachine& machine, const CudaOptions& options, CudaPlan* plan) {
  const Chain& p = chain;
  plan->gradients = true;
  if (chain.E > 0 || !chain.has_depthwise || !chain.has_project || chain.normalize || chain.has_gate) {
    return "gradients are those of a depthwise and a pointwise convolution alone";
  }
  if (options.path == CudaPath::kTensorStream ||
      (options.path != CudaPath::kAuto && options.path < CudaPath::kGeneral)) {
    return std::string("path ") + CudaPathName(options.path) + " has no gradients: general, steps and fused have";
  }
  WantedGradients wanted = *options.gradients;
  wanted.depthwise_bias = wanted.depthwise_bias && p.has_depthwise_bias;
  wanted.bias = wanted.bias && p.has_bias;
  wanted.residual = wanted.residual && p.has_residual;
  // Without pixels of X there are windows of padding alone: Z is mid(depthwise bias), so all gradients but X's are
  // sums.
  const bool padding = p.H * p.W == 0;
  if (padding) wanted.input = false;
  if (p.N * p.output_pixels() == 0) {
    const std::pair<bool, CudaTensor> zeros[] = {{wanted.input, CudaTensor::kDX},
                                                 {wanted.depthwise_filter, CudaTensor::kDDepthwiseFilter},
                                                 {wanted.pointwise_filter, CudaTensor::kDPointwiseFilter},
                                                 {wanted.depthwise_bias, CudaTensor::kDDepthwiseBias},
                                                 {wanted.bias, CudaTensor::kDBias}};
    for (const auto& [there, tensor] : zeros) {
      if (there) plan->steps.push_back({CudaKernel::kZero, CudaTensor::kNone, CudaTensor::kNone, tensor});
    }
    return "";
  }
  std::string error = SharedRefuses(machine, kGradientProductSharedBytes);
  if (!error.empty()) {
    error = "path steps " + error;
  } else if (padding) {
    error = "path steps is for an input with pixels";
  } else if (!HasProduct(p, machine, options.math)) {
    error = "path steps needs a card of compute capability 8.0 or more";
  } else if (!SizesFit(p) ||
             p.N * p.output_pixels() > std::numeric_limits<int>::max() / 2 * int64_t{kGradientProduct}) {
    error = "path steps is not for sizes as large as these";
  }
  if (!error.empty() && (options.path == CudaPath::kSteps || options.path == CudaPath::kFused)) return error;
  const bool general = options.path == CudaPath::kGeneral || !error.empty();
  plan->path = general ? CudaPath::kGeneral : CudaPath::kSteps;
  plan->transposed = p.layout == Layout::kNCHW;
  Needs needs(p, wanted);
  plan->window = !general && HasFastWindow(p) && p.C * SizeOf(p.dtype) % 4 == 0;
  plan->tensor = plan->window && HasTensorDepthwise(p, machine.capability) && CutTensorFilter(p).tiles > 0;
  plan->reads_output = needs.gradient && !needs.before;
  // Of floats 9.0's own instructions take no sum over pixels.
  needs.group = !general && machine.group_products && (options.aligned || plan->transposed) &&
                p.dtype != DType::kFloat32 &&
                GroupProductRefuses(p, machine, options.math, p.N * p.output_pixels(), p.CM(), p.K).empty() &&
                SharedRefuses(machine, kGroupFilterSharedBytes).empty();
  CutSums(p, wanted, needs, plan);
  CudaPlan fused = *plan;
  plan->modelled_us = ModelledUs(p, machine, *plan, wanted, needs, 0);
  if (!general && options.path != CudaPath::kSteps) {
    error = FusedFits(p, wanted, needs, *plan);
    if (error.empty() && !options.aligned && !plan->transposed) {
      error = "it takes pointers that are multiples of 16 bytes";
    }
    const CudaTile tile = error.empty() ? ChooseTile(p, machine, options) : CudaTile();
    if (error.empty() && tile.items == 0) {
      error = "no tile of it has room in the " + std::to_string(machine.block_shared_bytes) +
              " bytes of shared memory that a block may have";
    }
    const bool asked = options.path == CudaPath::kFused;
    if (asked && !error.empty()) return "path fused does not fit: " + error;
    if (error.empty()) {
      fused.path = CudaPath::kFused;
      fused.modelled_us = ModelledUs(p, machine, fused, wanted, needs, tile.modelled_us);
      if (asked || fused.modelled_us < plan->modelled_us) {
        *plan = fused;
        plan->bias.count = plan->product.count = plan->between.count =
            std::min<int64_t>(tile.items, machine.multiprocessors);
        return AddSteps(chain, wanted, needs, &tile, plan);
      }
    }
  }
  return AddSteps(chain, wanted, needs, nullptr, plan);
}

std::string DescribeGradients(const CudaPlan& plan) {
  std::string text = CudaPathName(plan.path);
  if (plan.math == CudaMath::kTf32) text += " tf32";
  if (plan.path != CudaPath::kGeneral) text += plan.tensor ? " tensor" : plan.window ? " window" : " general depthwise";
  bool group = false;
  for (const CudaStep& step : plan.steps) {
    group = group || step.kernel == CudaKernel::kWarpgroupBetween || step.kernel == CudaKernel::kWarpgroupFilterProduct;
    if (step.kernel != CudaKernel::kGradientStream) continue;
    text += DescribeTile(step.tile) + " shared " + std::to_string(step.tile.shared_bytes);
  }
  if (group) text += " wgmma";
  return text + " parts bias " + std::to_string(plan.bias.count) + " product " + std::to_string(plan.product.count) +
         " between " + std::to_string(plan.between.count) + " filter " + std::to_string(plan.filter.count);
}

}  // namespace dwsconv
