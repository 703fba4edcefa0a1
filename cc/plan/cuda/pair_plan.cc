// A depthwise and a 1x1 convolution: one fused kernel, one kernel for each, or a plain one.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "cc/plan/cuda/planner.h"
#include "cc/plan/cuda/tensor_cut.h"

namespace dwsconv {
namespace {

constexpr double kToeplitzPerCycle = 4;  // depthwise sums of a 7x7 window on tensor cores
constexpr double kTensorDepthwise = 4;  // windows on tensor cores, in multiply-adds of CUDA cores (measured on an H200)
constexpr double kFewOutputs = 5;       // what sums of float32 take where few outputs follow (measured on an H200)
constexpr double kDeepProduct = 0.33;   // of the rate of other kernels' products (measured on an H200)
constexpr double kProductOutputs = 8;   // of a product's epilogue in a cycle
constexpr int kMostGroups = 4;          // of a block's threads
constexpr double kL2BytesPerCycle = 24;  // of a multiprocessor, where all of them read the same

double Bytes(const Chain& p, int64_t elements) { return Real(elements) * Real(SizeOf(p.dtype)); }

// Threads that a block of the fused kernels may have: kStreamThreads of cuda/fused/stream_kernel.cuh,
// kTensorStreamThreads of tensor_stream_kernel.cuh. With fewer a thread may have all 255 registers.
int StreamThreads(const Chain& p, bool tensor) { return p.R == 3 && (!tensor || p.K <= 64) ? 384 : 256; }

// Blocks with this tile that one multiprocessor holds.
int BlocksPerMultiprocessor(const CudaMachine& machine, const CudaTile& tile, int most_threads) {
  const int64_t by_shared = machine.multiprocessor_shared_bytes / (tile.shared_bytes + kBlockReservedBytes);
  // Of a thread, at most: what the launch bounds leave it. docs/cuda.md has the compiler's report.
  const int registers = most_threads == 384 ? 168 : 255;
  const int64_t by_registers = 65536 / (int64_t{registers} * tile.threads);
  return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({by_shared, by_registers, 16})));
}

// Cuts the rows into segments and models the time. tensor: the depthwise half is on tensor cores.
void FinishStream(const Chain& p, const CudaMachine& machine, const CudaOptions& options, bool tensor, CudaTile* tile) {
  tile->blocks_per_multiprocessor = BlocksPerMultiprocessor(machine, *tile, StreamThreads(p, tensor));
  const int residents = tile->blocks_per_multiprocessor * tile->groups;  // groups of a multiprocessor
  const double pixels = tile->tile_rows * tile->tile_columns, product = ProductPerCycle(p, machine, options.math);
  // For 8 channels two taps are a product of 16 x 8 x 16, a last one of 16 x 8 x 8: of which an eighth is of use.
  const double sums =
      Real(p.R * p.S) / machine.rates.fma * (p.dtype == DType::kFloat32 && 3 * p.K <= p.C ? kFewOutputs : 1);
  const double depthwise = tensor ? Real(p.R * (p.S / 2 * 16 + 8)) / product : sums;
  const double warps = Real(tile->blocks_per_multiprocessor) * tile->threads / 32;
  // A warp runs on one of a multiprocessor's four parts.
  const double compute = (pixels * tile->channels * depthwise + pixels * tile->channels * tile->out_channels / product +
                          pixels * Real(RoundUp(p.K, 8)) / machine.rates.outputs) *
                         std::max(1.0, 4 / warps);
  const double columns = std::min<double>(tile->in_columns, Real(p.W));
  const double moved = Bytes(p, 1) * (Real(tile->tile_rows * p.stride_h) * columns * Real(p.C) + pixels * Real(p.K));
  // Fewer warps hide less of each other's waiting. On tensor cores alone, with up to 64 channels in and out, rates do
  // better than elsewhere where there is little to multiply. Both fitted on an H200.
  const double idle = std::max(0.0, 12 / warps - 1);
  const double waits = tensor && p.K <= 64 && p.C <= 64 ? 0.75 + 0.2 * idle
                                                        : (tensor                       ? 1.2
                                                           : p.dtype == DType::kFloat32 ? 1.4
                                                                                        : 1) +
                                                              0.1 * idle;
  const double step = StepCycles(machine, residents, compute, moved) * waits;
  CutRows(p, machine, residents, step, 1500, 0, options.segments, tile);
}

// Why the fused kernel, on tensor cores or not, does not take this layer; or "".
std::string StreamRefuses(const Chain& p, const CudaMachine& machine, CudaMath math, bool tensor) {
  const std::string path = tensor ? "path tensor_stream" : "path stream";
  if (tensor && (!HasFastWindow(p) || p.R > 5 || p.dtype == DType::kFloat32 || p.K > kTensorStreamOutChannels)) {
    return path +
           " is for 16-bit elements, 3x3 and 5x5 windows with stride 1 or 2, dilation 1, depth multiplier 1, and up "
           "to " +
           std::to_string(kTensorStreamOutChannels) + " output channels";
  }
  if (!HasFastWindow(p)) {
    return path +
           " has kernels for 3x3 and 5x5 windows with stride 1 or 2 and for 7x7 with stride 1, each with "
           "dilation 1 and depth multiplier 1 alone";
  }
  // On 7.5 the kernel on tensor cores would spill, and few of its layers have room.
  if (!HasProduct(p, machine, math) || (tensor && machine.capability < 80)) {
    return path + " needs a card of compute capability 8.0 or more";
  }
  if (!SizesFit(p) || p.C > 512 || p.K > 4096 || p.output_pixels() > std::numeric_limits<int>::max() / p.K) {
    return path + " is not for sizes as large as these";
  }
  return "";
}

// A fused kernel, or why it cannot run. The best tile of those that fit, or the one asked for.
std::string PlanStream(const Chain& p, const CudaMachine& machine, const CudaOptions& options, bool tensor,
                       CudaTile* best) {
  const std::string refused = StreamRefuses(p, machine, options.math, tensor);
  if (!refused.empty()) return refused;
  const int pixel_threads = tensor ? 1 : 2, most_threads = StreamThreads(p, tensor);
  ForEachTile(32, options, [&](CudaTile tile) {
    if (tensor && tile.tile_columns != kTensorStreamColumns) return;
    const int threads = tile.tile_rows * tile.tile_columns * pixel_threads;
    // A thread copies 16 bytes of a pixel at a time, so a pixel has no more of them than a group has threads.
    if (RoundUp(p.C, 16) * SizeOf(p.dtype) / 16 > threads) return;
    const int most = std::min(most_threads / threads, kMostGroups);
    for (tile.groups = 1; tile.groups <= most; ++tile.groups) {
      if (options.groups > 0 && options.groups != tile.groups) continue;
      if (tensor) {
        LayOutTensorStream(p, &tile);
      } else {
        LayOutStream(p, &tile);
      }
      if (tile.shared_bytes > machine.block_shared_bytes) break;
      FinishStream(p, machine, options, tensor, &tile);
      if (tile.items > 0 && (best->items == 0 || tile.modelled_us < best->modelled_us)) *best = tile;
    }
  });
  if (best->items > 0) return "";
  const std::string path = tensor ? "path tensor_stream" : "path stream";
  if (options.tile_columns > 0 || options.groups > 0) {
    return path + " has no tile of " + std::to_string(options.tile_rows) + "x" + std::to_string(options.tile_columns) +
           " in " + std::to_string(options.groups) + " groups that fits (0: any): " +
           (tensor ? "4 or 8 rows of 16 columns, a thread of "
                   : "32, 64 or 128 pixels, 4, 8, 16 or 32 columns, at least 4 rows, two threads of ") +
           std::to_string(most_threads) + " for each pixel of a group, and " +
           std::to_string(machine.block_shared_bytes) + " bytes of shared memory";
  }
  return path + " does not fit into the " + std::to_string(machine.block_shared_bytes) +
         " bytes of shared memory that a block may have";
}

int DeepThreads(const Chain& p) { return DeepMostThreads(static_cast<int>(p.R), static_cast<int>(SizeOf(p.dtype))); }

// Why the fused kernel for deep layers does not take this one; or "".
std::string DeepRefuses(const Chain& p, const CudaMachine& machine, CudaMath math) {
  if (!HasFastWindow(p)) {
    return "path deep is for 3x3 and 5x5 windows with stride 1 or 2 and for 7x7 with stride 1, dilation 1 and depth "
           "multiplier 1";
  }
  if (p.dtype == DType::kFloat32 && math != CudaMath::kTf32) return "path deep is for products on tensor cores";
  if (machine.capability < 80) return "path deep needs a card of compute capability 8.0 or more";
  // A tile's pixels may lie in images that follow the first one's.
  if (!SizesFit(p) || p.K > 4096 || p.output_pixels() > std::numeric_limits<int>::max() / p.K - 2 * kDeepPixels) {
    return "path deep is not for sizes as large as these";
  }
  return "";
}

// Models the time of the fused kernel for deep layers.
void FinishDeep(const Chain& p, const CudaMachine& machine, CudaMath math, CudaTile* tile) {
  const int64_t by_shared = machine.multiprocessor_shared_bytes / (tile->shared_bytes + kBlockReservedBytes);
  // The launch bounds leave a block of the most threads all registers of a multiprocessor.
  const int64_t by_registers = DeepThreads(p) / tile->threads;
  const int residents = static_cast<int>(std::max<int64_t>(1, std::min(by_shared, by_registers)));
  tile->blocks_per_multiprocessor = residents;
  tile->strips = tile->segments = 1;
  const int tile_pixels = tile->tile_rows * tile->tile_columns;
  const double pixels = Real(p.N * p.output_pixels()), part = tile_pixels / pixels;
  tile->items = CeilDiv(p.N * p.output_pixels(), tile_pixels);
  if (tile->items > kMostItems) tile->items = 0;
  // Warps multiply 32 pixels x 64 columns each, on a multiprocessor's four parts.
  const double warps = Real(residents) * tile->threads / 32;
  const double idle = std::ceil(warps / 4) * 4 / warps;
  // P comes past by pieces, which takes 16-bit products more than themselves.
  const double rate = ProductPerCycle(p, machine, math) * (p.dtype == DType::kFloat32 ? 0.5 : kDeepProduct);
  const double product = (Real(tile_pixels) * tile->channels * tile->out_channels / rate +
                          tile_pixels * Real(p.K) / machine.rates.outputs) *
                         idle;
  // Patches at an image's ends are computed whole.
  const double patches = Real(p.N * CeilDiv(p.Ho, 4) * CeilDiv(p.Wo, 4)) * 16;
  const bool vectors = p.C * SizeOf(p.dtype) % 4 == 0 && p.K * SizeOf(p.dtype) % 16 == 0;
  // From global memory they take more instructions than from a ring (docs/cuda.md); without vectors, plain loops.
  const double fma = machine.rates.fma * (vectors ? 0.7 : 0.1);
  const double sums = part * patches * Real(p.C * p.R * p.S) / fma;
  const double bytes_per_cycle = machine.dram_bytes_per_us / machine.clock_per_us / machine.multiprocessors;
  const double x = part * Bytes(p, p.N * p.H * p.W * p.C), y = part * Bytes(p, p.N * p.output_pixels() * p.K);
  const double dram = (x + y) / bytes_per_cycle;
  // A patch's rows: those that the patch above has read come from L2 again. All of a small one are asked for together.
  const double rows = 3 * Real(p.stride_h) + Real(p.R), waits = rows <= 6 ? 1 : rows;
  const double filter = Bytes(p, int64_t{tile->channels} * tile->out_channels);
  const double l2 = (filter + x * rows / (4 * Real(p.stride_h))) / kL2BytesPerCycle;
  const double words = Real(p.C * SizeOf(p.dtype)) / 4;
  const double read = std::ceil(part * patches / 16 * words / tile->threads) * waits * machine.rates.latency_cycles;
  // A block by itself reads X, then multiplies; of two of a multiprocessor one reads while the other multiplies.
  const double alone = std::max({std::max(sums, read) + product, dram, l2});
  const double together = std::max({alone / residents, 0.8 * (sums + product), dram, l2});
  const int64_t slots = int64_t{machine.multiprocessors} * residents, turns = tile->items / slots;
  const int64_t last = CeilDiv(tile->items - turns * slots, machine.multiprocessors);  // blocks of the last turn
  const double cycles =
      Real(turns) * residents * (residents == 1 ? alone : together) + (last == 0   ? 0
                                                                       : last == 1 ? alone
                                                                                   : Real(last) * together);
  tile->modelled_us = (cycles + 1500) / machine.clock_per_us + machine.rates.launch_us;
}

// The fused kernel for deep layers, or why it cannot run. The best tile of those that fit, or the one asked for.
std::string PlanDeep(const Chain& p, const CudaMachine& machine, const CudaOptions& options, CudaTile* best) {
  const std::string refused = DeepRefuses(p, machine, options.math);
  if (!refused.empty()) return refused;
  for (int pixels = 64; pixels <= kDeepPixels; pixels += 32) {
    for (int groups = 1; groups <= 2; ++groups) {
      CudaTile tile;
      tile.tile_rows = 4, tile.tile_columns = pixels / 4, tile.groups = groups;
      if (options.tile_rows > 0 && (options.tile_rows != 4 || options.tile_columns != tile.tile_columns)) continue;
      if ((options.groups > 0 && options.groups != groups) || options.segments > 1) continue;
      LayOutDeep(p, &tile);
      if (tile.shared_bytes > machine.block_shared_bytes || tile.threads > DeepThreads(p)) continue;
      FinishDeep(p, machine, options.math, &tile);
      if (tile.items > 0 && (best->items == 0 || tile.modelled_us < best->modelled_us)) *best = tile;
    }
  }
  if (best->items > 0) return "";
  return "path deep has no tile of 4x16, 4x24 or 4x32 in one or two groups, and one segment, that fits into the " +
         std::to_string(machine.block_shared_bytes) + " bytes of shared memory that a block may have";
}

// The depthwise half of a 7x7 window on tensor cores, where that can be.
bool PlanToeplitz(const Chain& p, const CudaMachine& machine, CudaTile* tile) {
  if (!HasFastWindow(p) || p.R != 7 || p.dtype == DType::kFloat32 || p.C % 8 != 0) return false;
  if (machine.capability < 80 || machine.block_shared_bytes < kToeplitzMostSharedBytes) return false;
  const int64_t steps = CeilDiv(p.Ho, kToeplitzTile), strips = CeilDiv(p.Wo, kToeplitzTile);
  const int64_t columns = p.N * CeilDiv(p.C, kToeplitzChannels) * strips;
  // Blocks of a group of channels take turns at its items. The segments that end soonest: every one loads 6 rows more.
  const int64_t groups = CeilDiv(p.C, kToeplitzChannels);
  const int64_t blocks = std::max<int64_t>(1, int64_t{machine.multiprocessors} * kToeplitzBlocks / groups);
  int64_t segment_steps = steps, segments = 1;
  double least = std::numeric_limits<double>::infinity();
  for (int64_t count = 1; count <= std::min<int64_t>(steps, 64); ++count) {
    const int64_t some = CeilDiv(steps, count), used = CeilDiv(steps, some);
    const double turns = Real(CeilDiv(columns / groups * used, blocks)) * (Real(some) + 0.375);
    if (turns < least) least = turns, segment_steps = some, segments = used;
  }
  if (columns * segments > kMostItems) return false;
  tile->strips = static_cast<int>(strips);
  tile->segments = static_cast<int>(segments);
  tile->segment_rows = static_cast<int>(segment_steps * kToeplitzTile);
  tile->items = columns * segments;
  return true;
}

// Two kernels: fills the first one and *us, or says why they cannot run.
std::string PlanTwoStep(const Chain& p, const CudaMachine& machine, CudaMath math, bool group, CudaStep* depthwise,
                        double* us) {
  if (!HasProduct(p, machine, math)) return "path two_step needs a card of compute capability 8.0 or more";
  if (!SizesFit(p)) return "path two_step is not for sizes as large as these";
  const std::string refused = SharedRefuses(machine, ProductSharedBytes(ProductStages(machine.capability), false));
  if (!refused.empty()) return "path two_step " + refused;
  const bool window = HasFastWindow(p) && p.C * SizeOf(p.dtype) % 4 == 0;
  const bool toeplitz = PlanToeplitz(p, machine, &depthwise->tile);
  const bool tensor = HasTensorDepthwise(p, machine.capability);
  depthwise->kernel = toeplitz ? CudaKernel::kDepthwiseToeplitz
                      : tensor ? CudaKernel::kDepthwiseTensor
                      : window ? CudaKernel::kDepthwiseWindow
                               : CudaKernel::kDepthwise;
  const int64_t pixels = p.N * p.output_pixels();
  const double x = Bytes(p, p.N * p.H * p.W * p.C), z = Bytes(p, pixels * p.CM()), y = Bytes(p, pixels * p.K);
  // The copy engine brings rows of floats, which are twice as long, nearer to a copy's bandwidth (measured on an H200).
  const double reached = group && p.dtype == DType::kFloat32 ? 1.2 * kStepBandwidth : kStepBandwidth;
  const double per_us = machine.dram_bytes_per_us * reached;
  // Z is read back from L2 where it fits in half of it.
  const double z_us = z / (z <= machine.l2_bytes / 2 ? 2 * per_us : per_us);
  const double clocks = machine.clock_per_us * machine.multiprocessors;
  const double fma = Real(pixels) * Real(p.CM()) * Real(p.R) * Real(p.S);
  const double tiles_of_toeplitz = Real(p.N * CeilDiv(p.Ho, kToeplitzTile) * CeilDiv(p.Wo, kToeplitzTile));
  const double sums = toeplitz ? tiles_of_toeplitz * kToeplitzTile * kToeplitzTile *
                                     Real(RoundUp(p.C, kToeplitzChannels)) / (clocks * kToeplitzPerCycle)
                               : fma / (clocks * machine.rates.fma *
                                        (tensor   ? kTensorDepthwise
                                         : window ? 1
                                                  : 0.1));
  const int64_t tiles = CeilDiv(pixels, 128) * CeilDiv(p.K, 128), slots = int64_t{machine.multiprocessors} * 2;
  const double waves = Real(CeilDiv(tiles, slots) * 2);
  const double rate = group ? GroupProductPerCycle(p, machine) : ProductPerCycle(p, machine, math);
  const double product = waves * 128 * 128 * (Real(RoundUp(p.CM(), 32)) / rate + 1 / kProductOutputs);
  // The product's columns are its fastest index: Z is read once, whatever K, and so is P.
  const double filter = Bytes(p, p.CM() * p.K);
  const double transposed = group && GroupProductTransposes(p) ? 2 * filter / per_us + machine.rates.launch_us : 0;
  *us = std::max(x / per_us + z_us, sums) + std::max(z_us + (y + filter) / per_us, product / machine.clock_per_us) +
        2 * machine.rates.launch_us + transposed;
  return "";
}

}  // namespace

std::string PlanPair(const Chain& p, const CudaMachine& machine, const CudaOptions& options, CudaTensor from,
                     CudaPlan* plan) {
  const size_t before = plan->steps.size();
  CudaStep stream{CudaKernel::kStream, from, CudaTensor::kPointwiseFilter, CudaTensor::kY};
  CudaStep tensor{CudaKernel::kTensorStream, from, CudaTensor::kPointwiseFilter, CudaTensor::kY};
  CudaStep deep{CudaKernel::kDeep, from, CudaTensor::kPointwiseFilter, CudaTensor::kY};
  CudaStep depthwise{CudaKernel::kDepthwise, from, CudaTensor::kDepthwiseFilter, CudaTensor::kZ};
  CudaStep direct{CudaKernel::kDirect, from, CudaTensor::kPointwiseFilter, CudaTensor::kY};
  CudaStep product{CudaKernel::kProduct, CudaTensor::kZ, CudaTensor::kPointwiseFilter, CudaTensor::kY};
  CudaStep transpose{CudaKernel::kTransposeFilter, CudaTensor::kPointwiseFilter, CudaTensor::kNone,
                     CudaTensor::kTransposedFilter};
  stream.residual = tensor.residual = deep.residual = direct.residual = product.residual = p.has_residual;
  plan->path = CudaPath::kDirect;
  if (options.path == CudaPath::kDirect || options.path == CudaPath::kGeneral || p.H * p.W == 0) {
    plan->steps.push_back(direct);
    return "";
  }
  const bool any = options.path == CudaPath::kAuto;
  double least = std::numeric_limits<double>::infinity();
  std::string error;
  // The quickest of those that run; of equals the first.
  const auto consider = [&](CudaPath path, const std::string& refused, double us, std::vector<CudaStep> steps) {
    if (!any) error = refused;
    if (!refused.empty() || (any && us >= least)) return;
    least = us;
    plan->path = path;
    plan->steps.resize(before);
    plan->steps.insert(plan->steps.end(), steps.begin(), steps.end());
  };
  if (any || options.path == CudaPath::kStream) {
    const std::string refused = PlanStream(p, machine, options, false, &stream.tile);
    consider(CudaPath::kStream, refused, stream.tile.modelled_us, {stream});
  }
  if (any || options.path == CudaPath::kTensorStream) {
    const std::string refused = PlanStream(p, machine, options, true, &tensor.tile);
    consider(CudaPath::kTensorStream, refused, tensor.tile.modelled_us, {tensor});
  }
  // Where P leaves room in shared memory, the other fused kernels move as little, by fewer instructions.
  const bool is_deep = Bytes(p, p.CM() * p.K) > Real(machine.block_shared_bytes) / 2;
  if ((any && is_deep) || options.path == CudaPath::kDeep) {
    const std::string refused = PlanDeep(p, machine, options, &deep.tile);
    consider(CudaPath::kDeep, refused, deep.tile.modelled_us, {deep});
  }
  // In 16 bits the product by 9.0's own instructions took 0.65 to 0.96 of the other's time on all layers that were
  // measured. Of float32 the filter's transposition comes first, which small layers do not pay for.
  std::string refused = GroupProductRefuses(p, machine, options.math, p.N * p.output_pixels(), p.CM(), p.K);
  const bool group = any ? machine.group_products && refused.empty() : options.path == CudaPath::kTwoStepWgmma;
  double us = 0;
  if (group) {
    if (refused.empty()) refused = PlanTwoStep(p, machine, options.math, true, &depthwise, &us);
    product.kernel = CudaKernel::kWarpgroupProduct;
    std::vector<CudaStep> steps = {depthwise, product};
    if (GroupProductTransposes(p)) steps.insert(steps.begin(), transpose);
    consider(CudaPath::kTwoStepWgmma, refused, us, steps);
  }
  if (options.path == CudaPath::kTwoStep || (any && (!group || GroupProductTransposes(p)))) {
    refused = PlanTwoStep(p, machine, options.math, false, &depthwise, &us);
    product.kernel = CudaKernel::kProduct;
    consider(CudaPath::kTwoStep, refused, us, {depthwise, product});
  }
  if (plan->steps.size() > before) {
    plan->modelled_us += least;
  } else if (any) {
    plan->steps.push_back(direct);
  }
  return error;
}

}  // namespace dwsconv
