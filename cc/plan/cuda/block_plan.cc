#include "cc/plan/cuda/block_plan.h"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <string>

namespace dwsconv {
namespace {

// Past this the kernels' 32-bit sizes would not do.
constexpr int64_t kLargest = int64_t{1} << 24;

// Of one output pixel, channels as 4-byte words: as many threads as the kernel for windows has.
constexpr int64_t kWindowWords = 384;

bool Small(std::initializer_list<int64_t> sizes) { return std::max(sizes) <= kLargest; }

bool WindowFits(const Problem& p) {
  return Small({p.H, p.W, p.R, p.S, p.Ho, p.Wo, p.stride_h, p.stride_w, p.dilation_h, p.dilation_w, p.pad_top,
                p.pad_left}) &&
         Small({(p.R - 1) * p.dilation_h, (p.S - 1) * p.dilation_w, p.R * p.S});
}

// Whether the card has the instructions that multiply this element type.
bool HasProduct(DType dtype, const CudaMachine& machine, CudaMath math) {
  if (dtype == DType::kFloat16) return machine.capability >= 75;
  if (dtype == DType::kBFloat16 || math == CudaMath::kTf32) return machine.capability >= 80;
  return true;
}

// Gives out the workspace's bytes; `fits` is false once they are past 64 bits.
struct Workspace {
  int64_t element_bytes, at = 0;
  bool fits = true;

  int64_t Place(std::initializer_list<int64_t> sizes) {
    int64_t bytes = element_bytes;
    for (int64_t size : sizes) fits = fits && !__builtin_mul_overflow(bytes, size, &bytes);
    return PlaceBytes(bytes);
  }
  int64_t PlaceBytes(int64_t bytes) {
    const int64_t begin = at;
    fits = fits && bytes <= std::numeric_limits<int64_t>::max() - 256 - begin;
    if (fits) at = begin + (bytes + 255) / 256 * 256;
    return begin;
  }
};

CudaBlockMiddle ChooseMiddle(const Block& block, bool general) {
  const Problem& p = block.main;
  if (!block.has_depthwise) {
    // Factors alone are multiplied where the product reads.
    const bool factors = block.has_scale && !block.has_pointwise;
    const bool at_end = p.has_residual && !block.has_pointwise;
    return block.normalize || factors || at_end ? CudaBlockMiddle::kPixels : CudaBlockMiddle::kNone;
  }
  const int64_t row_bytes = p.C * SizeOf(p.dtype);
  const bool window = !general && HasFastWindow(p) && row_bytes % 4 == 0 && WindowFits(p) &&
                      p.C * std::max(p.W, p.Wo) <= std::numeric_limits<int>::max() / 8;
  if (!window) return CudaBlockMiddle::kPixels;
  return block.normalize && row_bytes / 4 > kWindowWords ? CudaBlockMiddle::kWindowThenPixels
                                                         : CudaBlockMiddle::kWindow;
}

CudaBlockLast ChooseLast(const Block& block, bool general) {
  const Problem& p = block.main;
  if (!block.has_pointwise) return CudaBlockLast::kNone;
  const bool dense = !block.has_depthwise && (p.R > 1 || p.S > 1 || p.stride_h > 1 || p.stride_w > 1 || p.Ho != p.H ||
                                              p.Wo != p.W || p.pad_top > 0 || p.pad_left > 0);
  if (general || (dense && (!WindowFits(p) || p.R * p.S > kLargest / p.C))) return CudaBlockLast::kGeneral;
  if (dense) return CudaBlockLast::kWindow;
  const bool gated = !block.has_depthwise && block.has_scale && !block.normalize;
  return gated ? CudaBlockLast::kGated : CudaBlockLast::kPointwise;
}

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t RoundUp(int64_t a, int64_t b) { return Ceil(a, b) * b; }

// What a multiprocessor does in a cycle, as in cuda_plan.cc: estimates, until a card has been measured.
constexpr double kFmaPerCycle = 128 * 0.6;
constexpr double kTensor16PerCycle = 1024 * 0.8;
constexpr double kTf32PerCycle = 512 * 0.5;
constexpr double kOutputsPerCycle = 24;  // bias, activation, rounding, store
constexpr double kLatencyCycles = 1400;  // from asking DRAM to having it, under load
constexpr double kLaunchUs = 3;

constexpr int kStripWarps = 8;
constexpr int kBlockReservedBytes = 1024;  // the system's own, of each block's shared memory

double ProductPerCycle(const Problem& p, CudaMath math) {
  if (p.dtype != DType::kFloat32) return kTensor16PerCycle;
  return math == CudaMath::kTf32 ? kTf32PerCycle : kFmaPerCycle;
}

double Real(int64_t size) { return static_cast<double>(size); }

// A tile in shared memory: fills what follows from tile_rows, tile_columns and the block.
void LayOutStrip(const Block& block, CudaBlockStrip* strip) {
  const Problem& p = block.main;
  const int element = static_cast<int>(SizeOf(p.dtype)), stride = static_cast<int>(p.stride_h);
  const int pixels = strip->tile_rows * strip->tile_columns;
  strip->depth = static_cast<int>(RoundUp(block.E, 16));
  strip->channels = static_cast<int>(RoundUp(p.C, 16));
  strip->out_channels = block.has_pointwise ? static_cast<int>(RoundUp(p.K, 16)) : 0;
  strip->in_columns = (strip->tile_columns - 1) * stride + static_cast<int>(p.S);
  strip->ring_rows = (strip->tile_rows - 1) * stride + static_cast<int>(p.R);
  // Every warp has a part of the tile's sums.
  const int64_t share = Ceil(strip->out_channels, std::max(1, kStripWarps / (pixels / 32)));
  strip->warp_channels = static_cast<int>(std::max<int64_t>(16, std::min<int64_t>(64, RoundUp(share, 16))));
  strip->x_pitch = ZPitch(strip->depth, element);
  strip->ring_pitch = ZPitch(strip->channels, element);
  strip->expand_pitch = PPitch(strip->channels);
  strip->p_pitch = PPitch(strip->out_channels);
  int64_t at = 0;
  const auto place = [&at](int64_t bytes) {
    const int64_t begin = at;
    at = RoundUp(at + bytes, 128);
    return static_cast<int>(std::min<int64_t>(begin, std::numeric_limits<int>::max()));
  };
  const int64_t in_pixels = int64_t{strip->ring_rows} * strip->in_columns;
  strip->expand_offset_bytes = place(int64_t{strip->depth} * strip->expand_pitch * element);
  strip->d_offset_bytes = place(p.R * p.S * strip->channels * element);
  strip->p_offset_bytes = place(block.has_pointwise ? int64_t{strip->channels} * strip->p_pitch * element : 0);
  strip->bias_offset_bytes = place(int64_t{2 * strip->channels + strip->out_channels} * 4);
  // Products take 32 pixels at a time.
  strip->x_offset_bytes = place(RoundUp(in_pixels, 32) * strip->x_pitch * element);
  strip->ring_offset_bytes = place(in_pixels * strip->ring_pitch * element);
  strip->z_offset_bytes = place(block.has_pointwise ? int64_t{pixels} * strip->ring_pitch * element : 0);
  strip->shared_bytes = at;
}

// Cuts the rows into segments and models the time.
void FinishStrip(const Block& block, const CudaMachine& machine, CudaMath math, CudaBlockStrip* strip) {
  const Problem& p = block.main;
  const int64_t by_shared = machine.multiprocessor_shared_bytes / (strip->shared_bytes + kBlockReservedBytes);
  // The kernels are compiled for two blocks of a multiprocessor, from 10.0 on for one.
  const int64_t by_registers = machine.capability >= 100 ? 1 : 2;
  strip->blocks_per_multiprocessor = static_cast<int>(std::max<int64_t>(1, std::min(by_shared, by_registers)));
  strip->strips = static_cast<int>(Ceil(p.Wo, strip->tile_columns));
  const int64_t steps = Ceil(p.Ho, strip->tile_rows);
  const int64_t slots = int64_t{machine.multiprocessors} * strip->blocks_per_multiprocessor;
  const double pixels = strip->tile_rows * strip->tile_columns, channels = strip->channels;
  const double product = ProductPerCycle(p, math), in_columns = strip->in_columns;
  const double new_pixels = strip->tile_rows * Real(p.stride_h) * in_columns;
  const double outputs = block.has_pointwise ? strip->out_channels : channels;
  const double compute = new_pixels * channels * (strip->depth / product + 1 / kOutputsPerCycle) +
                         pixels * channels * Real(p.R * p.S) / kFmaPerCycle +
                         pixels * channels * strip->out_channels / product + pixels * outputs / kOutputsPerCycle;
  const double moved =
      Real(SizeOf(p.dtype)) * (new_pixels * Real(block.E) + pixels * outputs * (p.has_residual ? 2 : 1));
  const double bytes_per_cycle = machine.dram_bytes_per_us / machine.clock_per_us / machine.multiprocessors;
  const double overlap = strip->blocks_per_multiprocessor == 1 ? 1.15 : 0.8;
  const double waiting = kLatencyCycles / strip->blocks_per_multiprocessor;
  const double step_cycles = std::max({compute * overlap, moved / bytes_per_cycle, waiting});
  const double prologue_cycles = 1500 + step_cycles * Real(p.R) / (strip->tile_rows * Real(p.stride_h));
  strip->modelled_us = std::numeric_limits<double>::infinity();
  for (int64_t segments = 1; segments <= std::min<int64_t>(steps, 64); ++segments) {
    const int64_t segment_steps = Ceil(steps, segments), used = Ceil(steps, segment_steps);
    const int64_t items = p.N * strip->strips * used;
    const double cycles = Real(Ceil(items, slots) * strip->blocks_per_multiprocessor) *
                          (Real(segment_steps) * step_cycles + prologue_cycles);
    const double us = cycles / machine.clock_per_us + kLaunchUs;
    if (us >= strip->modelled_us) continue;
    strip->modelled_us = us;
    strip->segments = static_cast<int>(used);
    strip->segment_rows = static_cast<int>(segment_steps * strip->tile_rows);
    strip->items = items;
  }
}

// The kernel that computes all, or why it cannot run. The best tile of those that fit.
std::string PlanStrip(const Block& block, const CudaMachine& machine, const CudaBlockOptions& options,
                      CudaBlockStrip* strip) {
  const Problem& p = block.main;
  if (block.E == 0 || !block.has_depthwise || block.normalize || block.has_scale ||
      (p.has_residual && !block.has_pointwise)) {
    return "fusion is for an expansion and a depthwise convolution, without norm and scale, and with a residual where "
           "there is a pointwise convolution";
  }
  if (!HasFastWindow(p) || p.R > 5) return "fusion is for 3x3 and 5x5 windows with stride 1 or 2, dilation 1 and M = 1";
  if (p.dtype == DType::kFloat32 && options.math != CudaMath::kTf32) return "fusion is for products on tensor cores";
  const int64_t largest = std::numeric_limits<int>::max() / 8;
  if (!WindowFits(p) || p.output_pixels() > largest / std::max(p.CM(), p.K) || p.H * p.W > largest / block.E) {
    return "fusion is not for sizes as large as these";
  }
  bool found = false;
  for (int pixels : {32, 64, 128}) {
    for (int columns : {4, 8, 16, 32}) {
      const int rows = pixels / columns;
      if (rows % 4 != 0) continue;
      CudaBlockStrip candidate;
      candidate.tile_rows = rows;
      candidate.tile_columns = columns;
      LayOutStrip(block, &candidate);
      if (candidate.shared_bytes > machine.block_shared_bytes) continue;
      FinishStrip(block, machine, options.math, &candidate);
      if (!found || candidate.modelled_us < strip->modelled_us) *strip = candidate;
      found = true;
    }
  }
  if (found) return "";
  return "fusion does not fit into the " + std::to_string(machine.block_shared_bytes) +
         " bytes of shared memory that a block may have";
}

// What the separate kernels of an expansion and a depthwise convolution take.
double ModelledUs(const Block& block, const CudaMachine& machine, const CudaBlockPlan& plan) {
  const Problem& p = block.main;
  const double element = Real(SizeOf(p.dtype)), per_us = machine.dram_bytes_per_us;
  const double clocks = machine.clock_per_us * machine.multiprocessors;
  const int64_t pixels = p.N * p.H * p.W;
  const double x = element * Real(pixels * block.E), a = element * Real(pixels * p.C);
  // A is read back from L2 where it fits in half of it.
  const bool stays = a <= Real(machine.l2_bytes) / 2;
  const double a_us = a / (stays ? 2 * per_us : per_us);
  const double products = Real(RoundUp(pixels, 128) * RoundUp(p.C, 128) * RoundUp(block.E, 32));
  const double expand = std::max(x / per_us + a_us, products / (clocks * ProductPerCycle(p, plan.math)));
  if (plan.middle == CudaBlockMiddle::kForward) {
    return expand + kLaunchUs + plan.forward.modelled_us - (stays ? std::min(a_us, plan.forward.modelled_us / 4) : 0);
  }
  const double z = Real(p.N * p.output_pixels() * p.CM());
  const double window = plan.middle == CudaBlockMiddle::kWindow ? 1 : 0.1;
  const double depthwise =
      std::max(a_us + element * z / per_us, z * Real(p.R * p.S) / (clocks * kFmaPerCycle * window));
  return expand + depthwise + 2 * kLaunchUs;
}

const char* Word(CudaBlockExpand expand) {
  switch (expand) {
    case CudaBlockExpand::kProduct:
      return "expand product";
    case CudaBlockExpand::kGeneral:
      return "expand general";
    case CudaBlockExpand::kNone:
      break;
  }
  return "";
}

const char* Word(CudaBlockMiddle middle) {
  switch (middle) {
    case CudaBlockMiddle::kStrip:
      return "strip";
    case CudaBlockMiddle::kForward:
      return "pair ";
    case CudaBlockMiddle::kWindow:
      return "window";
    case CudaBlockMiddle::kWindowThenPixels:
      return "window, pixels";
    case CudaBlockMiddle::kPixels:
      return "pixels";
    case CudaBlockMiddle::kNone:
      break;
  }
  return "";
}

const char* Word(CudaBlockLast last) {
  switch (last) {
    case CudaBlockLast::kPointwise:
      return "pointwise";
    case CudaBlockLast::kGated:
      return "gated";
    case CudaBlockLast::kWindow:
      return "dense";
    case CudaBlockLast::kGeneral:
      return "general";
    case CudaBlockLast::kInMiddle:
    case CudaBlockLast::kNone:
      break;
  }
  return "";
}

}  // namespace

std::string MakeCudaBlockPlan(const Block& block, const CudaMachine& machine, const CudaBlockOptions& options,
                              CudaBlockPlan* plan) {
  const std::string refused = CudaRefusesActivations({block.lead, block.main.mid, block.main.out});
  if (!refused.empty()) return refused;
  const Problem& p = block.main;
  *plan = CudaBlockPlan();
  if (options.math == CudaMath::kTf32 && p.dtype != DType::kFloat32) return "math tf32 is for float32 alone";
  if (options.general && options.path != CudaPath::kAuto) return "path must be auto with general kernels alone";
  plan->math = options.math;
  if (p.N * p.output_pixels() == 0) return "";  // nothing is launched
  const bool general = options.general || !HasProduct(p.dtype, machine, options.math) || !Small({block.E, p.CM(), p.K});
  if (block.E > 0) plan->expand = general ? CudaBlockExpand::kGeneral : CudaBlockExpand::kProduct;
  const bool is_pair = block.has_depthwise && block.has_pointwise && !block.normalize && !block.has_scale;
  if (general && options.fusion == CudaBlockFusion::kAlways) return "fusion must not be asked for with general kernels";
  if (is_pair) {
    plan->middle = CudaBlockMiddle::kForward;
    plan->last = CudaBlockLast::kInMiddle;
    Problem pair = p;
    pair.layout = Layout::kNHWC;
    CudaOptions forward;
    forward.math = options.math;
    forward.path = general ? CudaPath::kDirect : options.path;
    const std::string error = MakeCudaPlan(pair, machine, forward, &plan->forward);
    if (!error.empty()) return error;
  } else {
    plan->middle = ChooseMiddle(block, general);
    plan->last = ChooseLast(block, general);
  }
  if (block.E > 0 && block.has_depthwise && !general) plan->modelled_us = ModelledUs(block, machine, *plan);
  if (!general && options.path == CudaPath::kAuto && options.fusion != CudaBlockFusion::kNever) {
    CudaBlockStrip strip;
    const std::string error = PlanStrip(block, machine, options, &strip);
    const bool always = options.fusion == CudaBlockFusion::kAlways;
    if (always && !error.empty()) return error;
    if (error.empty() && (always || strip.modelled_us < plan->modelled_us)) {
      plan->strip = strip;
      plan->modelled_us = strip.modelled_us;
      plan->expand = CudaBlockExpand::kNone;
      plan->middle = CudaBlockMiddle::kStrip;
      plan->last = block.has_pointwise ? CudaBlockLast::kInMiddle : CudaBlockLast::kNone;
    }
  }

  Workspace workspace{SizeOf(p.dtype)};
  const int64_t outputs = block.has_pointwise ? p.K : p.CM();
  plan->transposed = p.layout == Layout::kNCHW;
  if (plan->transposed) {
    plan->x_at_bytes = workspace.Place({p.N, p.H, p.W, block.x_channels()});
    plan->y_at_bytes = workspace.Place({p.N, p.Ho, p.Wo, outputs});
    if (p.has_residual) plan->residual_at_bytes = workspace.Place({p.N, p.Ho, p.Wo, outputs});
  }
  const bool middle = plan->middle != CudaBlockMiddle::kNone, last = plan->last != CudaBlockLast::kNone;
  if (plan->expand != CudaBlockExpand::kNone && (middle || last))
    plan->a_at_bytes = workspace.Place({p.N, p.H, p.W, p.C});
  if (plan->middle == CudaBlockMiddle::kWindowThenPixels) {
    plan->unnormalized_at_bytes = workspace.Place({p.N, p.Ho, p.Wo, p.CM()});
  }
  if (middle && last && plan->last != CudaBlockLast::kInMiddle)
    plan->z_at_bytes = workspace.Place({p.N, p.Ho, p.Wo, p.CM()});
  if (plan->middle == CudaBlockMiddle::kForward)
    plan->forward_at_bytes = workspace.PlaceBytes(plan->forward.workspace_bytes);
  if (!workspace.fits) {
    return "the workspace would be past 64 bits: input, what lies in between and output are too large";
  }
  plan->workspace_bytes = workspace.at;
  return "";
}

std::string DescribeCudaBlockPlan(const CudaBlockPlan& plan) {
  std::string middle = Word(plan.middle);
  if (plan.middle == CudaBlockMiddle::kForward) middle += DescribeCudaPlan(plan.forward);
  if (plan.middle == CudaBlockMiddle::kStrip) {
    const CudaBlockStrip& strip = plan.strip;
    middle += " tile " + std::to_string(strip.tile_rows) + "x" + std::to_string(strip.tile_columns) + " segments " +
              std::to_string(strip.segments) + " shared " + std::to_string(strip.shared_bytes) + " blocks " +
              std::to_string(strip.blocks_per_multiprocessor);
  }
  std::string text;
  for (const std::string& stage :
       {std::string(Word(plan.expand)), middle, std::string(Word(plan.last)),
        std::string(plan.math == CudaMath::kTf32 ? "tf32" : ""), std::string(plan.transposed ? "transposed" : "")}) {
    if (!stage.empty()) text += (text.empty() ? "" : ", ") + stage;
  }
  return text.empty() ? "nothing" : text;
}

}  // namespace dwsconv
