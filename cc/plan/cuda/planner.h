// What the planners share: sizes that kernels take, tiles in shared memory, the workspace.
#ifndef DWSCONV_PLAN_CUDA_PLANNER_H_
#define DWSCONV_PLAN_CUDA_PLANNER_H_

#include <cstdint>
#include <initializer_list>
#include <string>

#include "cc/plan/cuda/plan.h"

namespace dwsconv {

// Past this the kernels' 32-bit sizes would not do; CheckProducts keeps products within 64 bits.
constexpr int64_t kLargest = int64_t{1} << 24;

constexpr int64_t kMostItems = int64_t{1} << 30;  // so that an item after the last one is an int, too

constexpr int kBlockReservedBytes = 1024;  // the system's own, of each block's shared memory

inline double Real(int64_t size) { return static_cast<double>(size); }

bool Small(std::initializer_list<int64_t> sizes);  // none past kLargest
bool SizesFit(const Chain& chain);                 // of the fast kernels

// The windows that have kernels of their own: 3x3 and 5x5 with stride 1 and 2, 7x7 with stride 1; no dilation, M = 1.
bool HasFastWindow(const Chain& chain);

// Whether the card has the instructions that multiply this element type, and multiply-adds of a cycle.
bool HasProduct(const Chain& chain, const CudaMachine& machine, CudaMath math);
double ProductPerCycle(const Chain& chain, const CudaMachine& machine, CudaMath math);

// Of a copy's bandwidth, what a kernel with a step of its own reaches: 0.5 to 0.65 on an H200.
constexpr double kStepBandwidth = 0.6;

// Why a product of pixels x channels times channels x columns does not run by 9.0's own instructions; or "". Of float32
// they take the transposed filter, which a step before has to make.
std::string GroupProductRefuses(const Chain& chain, const CudaMachine& machine, CudaMath math, int64_t pixels,
                                int64_t channels, int64_t columns);
inline bool GroupProductTransposes(const Chain& chain) { return chain.dtype == DType::kFloat32; }
inline double GroupProductPerCycle(const Chain& chain, const CudaMachine& machine) {
  return chain.dtype == DType::kFloat32 ? machine.rates.group32 : machine.rates.group16;
}

// "" or why a block of this card cannot have a kernel's shared memory.
std::string SharedRefuses(const CudaMachine& machine, int64_t bytes);

// Lays out shared memory: what follows from tile_rows, tile_columns, groups and the block.
void LayOutStream(const Chain& chain, CudaTile* tile);
void LayOutTensorStream(const Chain& chain, CudaTile* tile);
void LayOutDeep(const Chain& chain, CudaTile* tile);
void LayOutStrip(const Chain& chain, CudaTile* tile);
bool LayOutGradientStream(const Chain& chain, CudaTile* tile);  // false where it has too many channels

// A step's cycles where `residents` groups of threads share a multiprocessor: computing, moving bytes, and waiting for
// rows that were asked for a step before.
double StepCycles(const CudaMachine& machine, int residents, double compute, double moved_bytes);

// Cuts the rows of images into `segments` pieces, or (0) the number that takes least time: fills segments,
// segment_rows, items and modelled_us. begin_cycles: of an item, before its first step; part_cycles: of a block.
void CutRows(const Chain& chain, const CudaMachine& machine, int residents, double step_cycles, double begin_cycles,
             double part_cycles, int64_t segments, CudaTile* tile);

// Calls f(tile) for each tile of 32 (least), 64 and 128 pixels, or the one that was asked for.
template <typename F>
void ForEachTile(int least, const CudaOptions& options, F f) {
  for (int pixels = least; pixels <= 128; pixels *= 2) {
    for (int columns : {4, 8, 16, 32}) {
      CudaTile tile;
      tile.tile_rows = pixels / columns;
      tile.tile_columns = columns;
      if (tile.tile_rows % 4 != 0) continue;
      if (options.tile_rows > 0 && (options.tile_rows != tile.tile_rows || options.tile_columns != columns)) continue;
      f(tile);
    }
  }
}

// Gives out the workspace's bytes.
class Workspace {
 public:
  Workspace(const Chain& chain, CudaPlan* plan) : chain_(chain), plan_(plan) {}

  void Place(CudaTensor tensor, bool there = true);
  // Parts of a sum as large as `of`, in float32.
  void PlaceSums(CudaTensor sums, const CudaParts& parts, CudaTensor of, bool there);
  // One tensor where another one is.
  void Share(CudaTensor tensor, CudaTensor with);
  // "" or that it would be too large.
  std::string Finish();

 private:
  void PlaceBytes(CudaTensor tensor, int64_t bytes, CudaTensor of);

  const Chain& chain_;
  CudaPlan* const plan_;
  int64_t at_ = 0;
  bool fits_ = true;
};

// A depthwise and a 1x1 convolution from `from` to Y: appends steps and adds their time, or says why the path that is
// asked for cannot be. All NHWC.
std::string PlanPair(const Chain& chain, const CudaMachine& machine, const CudaOptions& options, CudaTensor from,
                     CudaPlan* plan);

std::string PlanGradients(const Chain& chain, const CudaMachine& machine, const CudaOptions& options, CudaPlan* plan);

std::string DescribeGradients(const CudaPlan& plan);
std::string DescribeTile(const CudaTile& tile);  // " tile 4x16 segments 2"

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_CUDA_PLANNER_H_
