#include "cc/plan/cuda_block_plan.h"

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
    case CudaBlockLast::kForward:
    case CudaBlockLast::kNone:
      break;
  }
  return "";
}

}  // namespace

std::string MakeCudaBlockPlan(const Block& block, const CudaMachine& machine, const CudaBlockOptions& options,
                              CudaBlockPlan* plan) {
  const Problem& p = block.main;
  *plan = CudaBlockPlan();
  if (options.math == CudaMath::kTf32 && p.dtype != DType::kFloat32) return "math tf32 is for float32 alone";
  if (options.general && options.path != CudaPath::kAuto) return "path must be auto with general kernels alone";
  plan->math = options.math;
  if (p.N * p.output_pixels() == 0) return "";  // nothing is launched
  const bool general = options.general || !HasProduct(p.dtype, machine, options.math) || !Small({block.E, p.CM(), p.K});
  if (block.E > 0) plan->expand = general ? CudaBlockExpand::kGeneral : CudaBlockExpand::kProduct;
  const bool is_pair = block.has_depthwise && block.has_pointwise && !block.normalize && !block.has_scale;
  if (is_pair) {
    plan->middle = CudaBlockMiddle::kForward;
    plan->last = CudaBlockLast::kForward;
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

  Workspace workspace{SizeOf(p.dtype)};
  const int64_t outputs = block.has_pointwise ? p.K : p.CM();
  plan->transposed = p.layout == Layout::kNCHW;
  if (plan->transposed) {
    plan->x_at_bytes = workspace.Place({p.N, p.H, p.W, block.x_channels()});
    plan->y_at_bytes = workspace.Place({p.N, p.Ho, p.Wo, outputs});
    if (p.has_residual) plan->residual_at_bytes = workspace.Place({p.N, p.Ho, p.Wo, outputs});
  }
  const bool middle = plan->middle != CudaBlockMiddle::kNone, last = plan->last != CudaBlockLast::kNone;
  if (block.E > 0 && (middle || last)) plan->a_at_bytes = workspace.Place({p.N, p.H, p.W, p.C});
  if (plan->middle == CudaBlockMiddle::kWindowThenPixels) {
    plan->unnormalized_at_bytes = workspace.Place({p.N, p.Ho, p.Wo, p.CM()});
  }
  if (middle && last && !is_pair) plan->z_at_bytes = workspace.Place({p.N, p.Ho, p.Wo, p.CM()});
  if (is_pair) plan->forward_at_bytes = workspace.PlaceBytes(plan->forward.workspace_bytes);
  if (!workspace.fits) {
    return "the workspace would be past 64 bits: input, what lies in between and output are too large";
  }
  plan->workspace_bytes = workspace.at;
  return "";
}

std::string DescribeCudaBlockPlan(const CudaBlockPlan& plan) {
  std::string middle = Word(plan.middle);
  if (plan.middle == CudaBlockMiddle::kForward) middle += DescribeCudaPlan(plan.forward);
  std::string text;
  for (const std::string& stage :
       {std::string(Word(plan.expand)), middle, std::string(Word(plan.last)),
        std::string(plan.math == CudaMath::kTf32 ? "tf32" : ""), std::string(plan.transposed ? "transposed" : "")}) {
    if (!stage.empty()) text += (text.empty() ? "" : ", ") + stage;
  }
  return text.empty() ? "nothing" : text;
}

}  // namespace dwsconv
