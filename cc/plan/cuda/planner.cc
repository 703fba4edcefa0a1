#include "cc/plan/cuda/planner.h"

#include <algorithm>
#include <limits>
#include <string>

namespace dwsconv {
namespace {

// Threads of the strip's and the gradients' fused kernels.
constexpr int kWarps = 8;

constexpr int kMostInt = std::numeric_limits<int>::max();

// Gives out a block's shared memory.
struct SharedLayout {
  int64_t at = 0;

  int Place(int64_t bytes) {
    const int64_t begin = at;
    at = RoundUp(at + bytes, 128);
    return static_cast<int>(std::min<int64_t>(begin, kMostInt));
  }
};

int Padded(int64_t channels, int64_t to) { return static_cast<int>(RoundUp(channels, to)); }

// Rows and columns of the input that a tile reads; in the ring, `ahead`, the next step's rows are under way.
void SetInput(const Chain& p, bool ahead, CudaTile* tile) {
  const int stride = static_cast<int>(p.stride_h), window = static_cast<int>(p.R);
  tile->in_columns = (tile->tile_columns - 1) * stride + window;
  tile->ring_rows = (tile->tile_rows - 1) * stride + window + (ahead ? tile->tile_rows * stride : 0);
  tile->strips = static_cast<int>(CeilDiv(p.Wo, tile->tile_columns));
}

}  // namespace

bool Small(std::initializer_list<int64_t> sizes) { return std::max(sizes) <= kLargest; }

bool SizesFit(const Chain& p) {
  return Small({p.H, p.W, p.CM(), p.K, p.R, p.S, p.Ho, p.Wo, p.stride_h, p.stride_w, p.dilation_h, p.dilation_w,
                p.pad_top, p.pad_left}) &&
         p.C * std::max(p.W, p.Wo) <= kMostInt / 8;
}

bool HasFastWindow(const Chain& p) {
  if (p.R != p.S || p.stride_h != p.stride_w || p.dilation_h != 1 || p.dilation_w != 1 || p.M != 1) return false;
  return (p.stride_h == 1 && (p.R == 3 || p.R == 5 || p.R == 7)) || (p.stride_h == 2 && (p.R == 3 || p.R == 5));
}

bool HasProduct(const Chain& p, const CudaMachine& machine, CudaMath math) {
  if (p.dtype == DType::kFloat16) return machine.capability >= 75;
  if (p.dtype == DType::kBFloat16 || math == CudaMath::kTf32) return machine.capability >= 80;
  return true;
}

double ProductPerCycle(const Chain& p, const CudaMachine& machine, CudaMath math) {
  if (p.dtype != DType::kFloat32) return machine.rates.tensor16;
  return math == CudaMath::kTf32 ? machine.rates.tf32 : machine.rates.fma;
}

std::string GroupProductRefuses(const Chain& p, const CudaMachine& machine, CudaMath math, int64_t pixels,
                                int64_t channels, int64_t columns) {
  const bool exact = p.dtype == DType::kFloat32 && math != CudaMath::kTf32;
  if (exact || channels * SizeOf(p.dtype) % 16 != 0 || columns * SizeOf(p.dtype) % 16 != 0) {
    return "path two_step_wgmma is for 16-bit elements, with channels and output channels that are multiples of 8, and "
           "for float32 as TF32, with multiples of 4";
  }
  if (machine.capability != 90) return "path two_step_wgmma needs a card of compute capability 9.0";
  if (!SizesFit(p) || pixels > std::numeric_limits<int>::max() - kProductTile) {
    return "path two_step_wgmma is not for sizes as large as these";
  }
  const std::string refused = SharedRefuses(machine, kGroupSharedBytes);
  return refused.empty() ? "" : "path two_step_wgmma " + refused;
}

std::string SharedRefuses(const CudaMachine& machine, int64_t bytes) {
  if (bytes <= machine.block_shared_bytes) return "";
  return "needs " + std::to_string(bytes) + " bytes of shared memory, of which a block of this card may have " +
         std::to_string(machine.block_shared_bytes);
}

void LayOutStream(const Chain& p, CudaTile* tile) {
  const int element = static_cast<int>(SizeOf(p.dtype)), pixels = tile->tile_rows * tile->tile_columns;
  tile->threads = pixels * 2 * tile->groups;
  tile->channels = Padded(p.C, 16);
  // A warp multiplies by 32 or 64 columns of P.
  tile->out_channels = Padded(p.K, 32);
  tile->warp_channels = tile->out_channels > 64 ? 64 : 32;
  tile->z_pitch = ZPitch(tile->channels, element);
  tile->p_pitch = PPitch(tile->out_channels);
  SetInput(p, true, tile);
  SharedLayout shared;
  tile->p_offset_bytes = shared.Place(int64_t{tile->channels} * tile->p_pitch * element);
  tile->d_offset_bytes = shared.Place(p.R * p.S * tile->channels * element);
  tile->bias_offset_bytes = shared.Place(int64_t{tile->channels + tile->out_channels} * 4);
  const int64_t common = shared.at;
  tile->z_offset_bytes = shared.Place(int64_t{pixels} * tile->z_pitch * element);
  tile->ring_offset_bytes = shared.Place(int64_t{tile->ring_rows} * tile->in_columns * tile->channels * element);
  const int64_t group_bytes = shared.at - common;
  tile->group_bytes = static_cast<int>(std::min<int64_t>(group_bytes, kMostInt));
  tile->shared_bytes = common + tile->groups * group_bytes;
}

void LayOutTensorStream(const Chain& p, CudaTile* tile) {
  const int element = static_cast<int>(SizeOf(p.dtype)), pixels = tile->tile_rows * tile->tile_columns;
  tile->threads = pixels * tile->groups;
  tile->channels = Padded(p.C, 16);
  tile->out_channels = Padded(p.K, 64);
  tile->p_pitch = PPitch(tile->out_channels);
  SetInput(p, true, tile);
  SharedLayout shared;
  tile->p_offset_bytes = shared.Place(int64_t{tile->channels} * tile->p_pitch * element);
  tile->d_offset_bytes = shared.Place(int64_t{tile->channels / 16} * TensorStreamFilterBytes(static_cast<int>(p.R)));
  tile->bias_offset_bytes = shared.Place(int64_t{tile->channels + tile->out_channels} * 4);
  const int64_t common = shared.at;
  tile->ring_offset_bytes =
      shared.Place(int64_t{tile->ring_rows} * tile->in_columns * (tile->channels + kTensorStreamGap) * element);
  const int64_t group_bytes = shared.at - common;
  tile->group_bytes = static_cast<int>(std::min<int64_t>(group_bytes, kMostInt));
  tile->shared_bytes = common + tile->groups * group_bytes;
}

void LayOutDeep(const Chain& p, CudaTile* tile) {
  const int element = static_cast<int>(SizeOf(p.dtype)), pixels = tile->tile_rows * tile->tile_columns;
  tile->threads = pixels * 2 * tile->groups;
  tile->channels = Padded(p.C, DeepStageRows(1, element));
  tile->out_channels = Padded(p.K, int64_t{kDeepGroupColumns} * tile->groups);
  tile->z_pitch = ZPitch(tile->channels, element);
  tile->p_pitch = PPitch(kDeepGroupColumns * tile->groups);
  SharedLayout shared;
  tile->z_offset_bytes = shared.Place(int64_t{pixels} * tile->z_pitch * element);
  tile->ring_offset_bytes =
      shared.Place(int64_t{kDeepStages} * DeepStageRows(tile->groups, element) * tile->p_pitch * element);
  // Behind the bias, where Y has the pixels.
  tile->bias_offset_bytes = shared.Place((int64_t{tile->out_channels} + pixels) * 4);
  tile->shared_bytes = shared.at;
}

void LayOutStrip(const Chain& chain, CudaTile* tile) {
  const Chain& p = chain;
  const int element = static_cast<int>(SizeOf(p.dtype)), pixels = tile->tile_rows * tile->tile_columns;
  const bool projects = chain.has_project;
  tile->depth = Padded(chain.E, 16);
  tile->channels = Padded(p.C, 16);
  tile->out_channels = projects ? Padded(p.K, 16) : 0;
  // Every warp has a part of the tile's sums.
  const int64_t share = CeilDiv(tile->out_channels, std::max(1, kWarps / (pixels / 32)));
  tile->warp_channels = static_cast<int>(std::max<int64_t>(16, std::min<int64_t>(64, RoundUp(share, 16))));
  tile->x_pitch = ZPitch(tile->depth, element);
  tile->ring_pitch = ZPitch(tile->channels, element);
  tile->expand_pitch = PPitch(tile->channels);
  tile->p_pitch = PPitch(tile->out_channels);
  SetInput(p, false, tile);
  SharedLayout shared;
  const int64_t in_pixels = int64_t{tile->ring_rows} * tile->in_columns;
  tile->expand_offset_bytes = shared.Place(int64_t{tile->depth} * tile->expand_pitch * element);
  tile->d_offset_bytes = shared.Place(p.R * p.S * tile->channels * element);
  tile->p_offset_bytes = shared.Place(projects ? int64_t{tile->channels} * tile->p_pitch * element : 0);
  tile->bias_offset_bytes = shared.Place(int64_t{2 * tile->channels + tile->out_channels} * 4);
  // Products take 32 pixels at a time.
  tile->x_offset_bytes = shared.Place(RoundUp(in_pixels, 32) * tile->x_pitch * element);
  tile->ring_offset_bytes = shared.Place(in_pixels * tile->ring_pitch * element);
  tile->z_offset_bytes = shared.Place(projects ? int64_t{pixels} * tile->ring_pitch * element : 0);
  tile->shared_bytes = shared.at;
}

bool LayOutGradientStream(const Chain& p, CudaTile* tile) {
  const int element = static_cast<int>(SizeOf(p.dtype)), pixels = tile->tile_rows * tile->tile_columns;
  tile->channels = Padded(p.C, 16);
  tile->out_channels = Padded(p.K, 16);
  // Each warp has 32 pixels x 32 channels of dZ.
  if (tile->channels > 32 * (kWarps / (pixels / 32))) return false;
  const int rows = (tile->channels + 31) / 32;
  tile->row_warps = rows == 3 ? 4 : rows;
  tile->warp_columns = Padded(CeilDiv(tile->out_channels, kWarps / tile->row_warps), 16);
  tile->z_pitch = Padded(tile->channels, 32) + 8;
  tile->g_pitch = Padded(tile->out_channels, 32) + 8;
  tile->p_pitch = tile->z_pitch;
  SetInput(p, true, tile);
  SharedLayout shared;
  tile->p_offset_bytes = shared.Place(int64_t{tile->out_channels} * tile->p_pitch * element);
  tile->z_offset_bytes = shared.Place(int64_t{pixels} * tile->z_pitch * element);
  tile->g_offset_bytes = shared.Place(int64_t{pixels} * tile->g_pitch * element);
  tile->d_offset_bytes = shared.Place(p.R * p.S * tile->channels * element);
  tile->bias_offset_bytes = shared.Place(tile->channels * int64_t{4});
  tile->sums_offset_bytes = shared.Place(pixels / 32 * tile->channels * int64_t{4});
  const int tensors = p.out.kind == ActivationKind::kNone ? 1 : 2;  // dY and Y, this step's and the next one's
  tile->gradient_offset_bytes = shared.Place(int64_t{tensors} * 2 * pixels * tile->out_channels * element);
  // At the end of a part the bias' sums lie where the ring was.
  const int64_t ring = int64_t{tile->ring_rows} * tile->in_columns * tile->channels * element;
  tile->ring_offset_bytes = shared.Place(std::max<int64_t>(ring, 32 * kWarps * (16 / element) * int64_t{4}));
  tile->shared_bytes = shared.at;
  return true;
}

double StepCycles(const CudaMachine& machine, int residents, double compute, double moved_bytes) {
  const double bytes_per_cycle = machine.dram_bytes_per_us / machine.clock_per_us / machine.multiprocessors;
  // Two groups of a multiprocessor work on different halves at the same time; one alone does not.
  const double overlap = residents == 1 ? 1.15 : residents == 2 ? 0.8 : 0.7;
  // A group's next rows are asked for one step ahead, so no step of it is shorter than they take to come.
  return std::max({compute * overlap, moved_bytes / bytes_per_cycle, machine.rates.latency_cycles / residents});
}

void CutRows(const Chain& p, const CudaMachine& machine, int residents, double step_cycles, double begin_cycles,
             double part_cycles, int64_t segments, CudaTile* tile) {
  const int64_t steps = CeilDiv(p.Ho, tile->tile_rows), slots = int64_t{machine.multiprocessors} * residents;
  const double prologue_cycles = begin_cycles + step_cycles * Real(p.R) / Real(tile->tile_rows * p.stride_h);
  tile->modelled_us = std::numeric_limits<double>::infinity();
  const int64_t most = segments > 0 ? segments : std::min<int64_t>(steps, 64);
  for (int64_t count = segments > 0 ? segments : 1; count <= most; ++count) {
    const int64_t segment_steps = CeilDiv(steps, count), used = CeilDiv(steps, segment_steps);
    const int64_t items = p.N * tile->strips * used;
    if (items > kMostItems) continue;
    const double cycles =
        Real(CeilDiv(items, slots)) * residents * (Real(segment_steps) * step_cycles + prologue_cycles) + part_cycles;
    const double us = cycles / machine.clock_per_us + machine.rates.launch_us;
    if (us >= tile->modelled_us) continue;
    tile->modelled_us = us;
    tile->segments = static_cast<int>(used);
    tile->segment_rows = static_cast<int>(segment_steps * tile->tile_rows);
    tile->items = items;
  }
}

void Workspace::Place(CudaTensor tensor, bool there) {
  if (there) PlaceBytes(tensor, SizeOf(chain_.dtype), tensor);
}

void Workspace::PlaceSums(CudaTensor sums, const CudaParts& parts, CudaTensor of, bool there) {
  if (there) PlaceBytes(sums, 4 * parts.count, of);
}

void Workspace::Share(CudaTensor tensor, CudaTensor with) {
  plan_->at_bytes[static_cast<int>(tensor)] = plan_->at_bytes[static_cast<int>(with)];
}

void Workspace::PlaceBytes(CudaTensor tensor, int64_t bytes, CudaTensor of) {
  for (int64_t size : CudaSizes(chain_, of)) fits_ = fits_ && !__builtin_mul_overflow(bytes, size, &bytes);
  fits_ = fits_ && bytes <= std::numeric_limits<int64_t>::max() - 256 - at_;
  plan_->at_bytes[static_cast<int>(tensor)] = at_;
  if (fits_) at_ += RoundUp(bytes, 256);
}

std::string Workspace::Finish() {
  plan_->workspace_bytes = at_;
  return fits_ ? "" : "the workspace would be past 64 bits: input, what lies in between and output are too large";
}

std::string DescribeTile(const CudaTile& tile) {
  return " tile " + std::to_string(tile.tile_rows) + "x" + std::to_string(tile.tile_columns) + " segments " +
         std::to_string(tile.segments);
}

}  // namespace dwsconv
