// Sums over the lanes of a warp and the threads of a block, in a fixed order.
#ifndef DWSCONV_CUDA_DEVICE_BLOCK_SUMS_CUH_
#define DWSCONV_CUDA_DEVICE_BLOCK_SUMS_CUH_

#include <cstdint>

#include "cuda/device/element.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

DWS_DEVICE float ShuffleFloatXor(float value, int mask) {
  const float mine[1] = {value};
  float other[1];
  WidenWord(ShuffleXor(NarrowWord(mine, float()), mask), other, float());
  return other[0];
}

// The sum over a warp's lanes, in all of them.
DWS_DEVICE float SumOfWarp(float value) {
  DWS_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) value += ShuffleFloatXor(value, mask);
  return value;
}

constexpr int kSumsOfBlock = 16;

// Replaces each of 16 values by its sum over the block's threads. `shared` has 16 floats for each warp and 16 more.
// Each step of the exchange gives half of a lane's values away and adds what it gets to the others, so that a lane ends
// with one of them: 16 shuffles where a sum of each alone would take 80.
DWS_DEVICE void SumOfBlock(float (&values)[kSumsOfBlock], float* shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  DWS_UNROLL
  for (int half = kSumsOfBlock / 2; half > 0; half /= 2) {
    const bool upper = (lane & (2 * half)) != 0;
    DWS_UNROLL
    for (int i = 0; i < kSumsOfBlock / 2; ++i) {
      if (i >= half) continue;
      const float given = upper ? values[i] : values[i + half], kept = upper ? values[i + half] : values[i];
      values[i] = kept + ShuffleFloatXor(given, 2 * half);
    }
  }
  values[0] += ShuffleFloatXor(values[0], 1);
  float* const totals = shared + warps * kSumsOfBlock;
  if (lane % 2 == 0) shared[warp * kSumsOfBlock + lane / 2] = values[0];
  SyncBlock();
  if (threadIdx.x < kSumsOfBlock) {
    float total = 0.f;
    for (int i = 0; i < warps; ++i) total += shared[i * kSumsOfBlock + threadIdx.x];
    totals[threadIdx.x] = total;
  }
  // The totals are there, and nobody reads the warps' sums any more.
  SyncBlock();
  DWS_UNROLL
  for (int i = 0; i < kSumsOfBlock; ++i) values[i] = totals[i];
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEVICE_BLOCK_SUMS_CUH_
