// CUDA for g++: kernels' bodies run on a CPU, the threads of a block as fibres. What it checks beyond results:
//   - shared memory is all NaN when a block starts, ends at an unmapped page, and a copy that was started leaves NaN at
//   its
//     destination until somebody waits for it;
//   - threads run in any order between barriers (dwsconv_shim_order), so a missing barrier shows;
//   - barriers and warp instructions that not all threads reach, misaligned copies and matrices, too much shared memory
//     are errors; matrix loads whose rows share banks are counted.
#ifndef DWSCONV_CUDA_TESTING_SHIM_H_
#define DWSCONV_CUDA_TESTING_SHIM_H_

#include <math.h>

#include <cstdint>
#include <cstring>
#include <functional>

#include "cc/core/half.h"

#define __global__
#define __launch_bounds__(...)
#define DWS_DEVICE inline
#define DWS_CALLED inline
#define DWS_GRID_CONSTANT
#define DWS_UNROLL
#define DWS_ROLLED
#define DWS_UNROLL_TWICE

namespace dwsconv {
namespace cuda {

struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

namespace shim {

struct Index {
  unsigned x;
};

// Of the fibre that runs.
extern Index thread_index, block_index, block_size, grid_size;
char* Shared();
// Barrier 0 is the block's and takes all of its threads.
void Barrier(int barrier, int threads);
bool BarrierOr(bool value);
uint32_t Shuffle(uint32_t value, int mask);
void NoteRepair();
void StartCopy(void* shared, const void* global, bool valid);
void Commit();
void Wait(int pending);
void LoadMatrices(uint32_t* words, const void* row, bool transposed);
// The same address, if it is one of shared memory that is a multiple of `bytes`.
const void* SharedWords(const void* from, int bytes);
// a: the lane's `words` words of a, then its two of b. Elements are read by `widen` from 16-bit halves, or are floats.
enum class Product { kFloat16, kBFloat16, kTf32 };
void MultiplyAdd(float* sums, const uint32_t* a, uint32_t b0, uint32_t b1, Product product);

// The card that it is taken for: dwsconv_shim_card sets it. card.cc has these.
int Capability();
int64_t BlockSharedBytes();
// A copy's 16 bytes of global memory, for those who count what DRAM gives: see dwsconv_shim_l2.
void CountRead(const void* global);

const char* Launch(const std::function<void()>& kernel, int64_t grid, int threads, int64_t shared_bytes);

}  // namespace shim

#define threadIdx ::dwsconv::cuda::shim::thread_index
#define blockIdx ::dwsconv::cuda::shim::block_index
#define blockDim ::dwsconv::cuda::shim::block_size
#define gridDim ::dwsconv::cuda::shim::grid_size

inline char* SharedMemory() { return shim::Shared(); }
inline void SyncBlock() { shim::Barrier(0, static_cast<int>(blockDim.x)); }
inline bool SyncBlockOr(bool value) { return shim::BarrierOr(value); }
inline void SyncGroup(int group, int threads) { shim::Barrier(group + 1, threads); }
inline int Capability() { return shim::Capability(); }
inline uint32_t Opaque(uint32_t value) { return value; }
inline void NoteRepair() { shim::NoteRepair(); }
inline void SyncWarp() { shim::Shuffle(0, 0); }
inline uint32_t ShuffleXor(uint32_t value, int mask) { return shim::Shuffle(value, mask); }
inline void CopyAsync16(void* shared, const void* global, bool valid) { shim::StartCopy(shared, global, valid); }
inline void CommitCopies() { shim::Commit(); }
template <int kPending>
void WaitForCopies() {
  shim::Wait(kPending);
}
inline void LoadMatrices(uint32_t (&words)[4], const void* row) { shim::LoadMatrices(words, row, false); }
inline void LoadMatricesTransposed(uint32_t (&words)[4], const void* row) { shim::LoadMatrices(words, row, true); }
inline void MultiplyAdd(float* sums, const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Float16) {
  shim::MultiplyAdd(sums, a, b0, b1, shim::Product::kFloat16);
}
inline void MultiplyAdd(float* sums, const uint32_t (&a)[4], uint32_t b0, uint32_t b1, BFloat16) {
  shim::MultiplyAdd(sums, a, b0, b1, shim::Product::kBFloat16);
}
template <typename T>
void MultiplyAddTo(float* sums, const float* from, const uint32_t (&a)[4], uint32_t b0, uint32_t b1, T) {
  memcpy(sums, from, 4 * sizeof(float));
  MultiplyAdd(sums, a, b0, b1, T());
}
template <typename T>
void MultiplyAddHalf(float* sums, uint32_t a0, uint32_t a1, uint32_t b0, T) {
  const uint32_t a[4] = {a0, a1, 0, 0};
  MultiplyAdd(sums, a, b0, 0, T());
}
template <int kWords>
void LoadWordsIf(uint32_t (&words)[kWords], const void* from, bool takes_part) {
  if (takes_part) memcpy(words, shim::SharedWords(from, 4 * kWords), 4 * kWords);
}
inline void MultiplyAddTf32(float* sums, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  shim::MultiplyAdd(sums, a, b0, b1, shim::Product::kTf32);
}
// To nearest, ties away from zero, as cvt.rna does.
inline uint32_t ToTf32(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}

template <typename Args>
const char* LaunchKernel(void (*kernel)(Args), int64_t grid, int threads, int64_t shared_bytes, void* stream,
                         const Args& args) {
  (void)stream;
  return shim::Launch([&] { kernel(args); }, grid, threads, shared_bytes);
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_TESTING_SHIM_H_
