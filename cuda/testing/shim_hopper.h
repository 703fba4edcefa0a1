// The shim of cuda/device/hopper.cuh. What it checks beyond results:
//   - a copy comes as late as it can, or at once, or in any order (dwsconv_shim_order), and its target is NaN until
//   then;
//   - a phase that ends before its bytes have come or gets more than it expects, one that never ends, arrivals too
//   many,
//     barriers that nobody has made or fenced;
//   - a product reads shared memory when somebody waits for it, not before, and its sums are NaN until then;
//   - descriptors that are askew or reach outside shared memory, warps of a group that multiply different things.
#ifndef DWSCONV_CUDA_TESTING_SHIM_HOPPER_H_
#define DWSCONV_CUDA_TESTING_SHIM_HOPPER_H_

#include <cstdint>

#include "cc/core/half.h"
#include "cuda/device/tensor_map.h"
#include "cuda/testing/shim.h"

namespace dwsconv {
namespace cuda {

enum class Swizzle : int;
enum class Major : int;

namespace shim {

// As on a card, the block's shared memory begins past what the system has of it, here at no multiple of 1024.
uint32_t SharedAddress(const void* shared);

void InitPhases(uint64_t* barrier, int arrivals);
void FencePhases();
void Arrive(uint64_t* barrier, int64_t bytes);
void WaitForPhase(uint64_t* barrier, int parity);
void BulkCopy(void* shared, const void* global, int bytes, uint64_t* barrier);
void BulkTile(void* shared, const TensorMap& map, int64_t row, int column, uint64_t* barrier);

uint64_t MatrixAt(const void* shared, int leading_bytes, int stride_bytes, Swizzle swizzle);
void FenceProducts();
void CommitProducts();
void WaitForProducts(int pending);
// One product of a warpgroup. registers: of a, or null, and then a is the matrix.
struct GroupProduct {
  const uint32_t* registers;
  uint64_t a, b;
  Major a_major, b_major;
  bool add;
  Product product;
};
void MultiplyGroup(float* sums, const GroupProduct& product);

}  // namespace shim

inline uint32_t SharedAddress(const void* shared) { return shim::SharedAddress(shared); }
inline void InitPhases(uint64_t* barrier, int arrivals) { shim::InitPhases(barrier, arrivals); }
inline void FencePhases() { shim::FencePhases(); }
inline void FenceStores() {}
inline void Arrive(uint64_t* barrier) { shim::Arrive(barrier, 0); }
inline void ArriveExpecting(uint64_t* barrier, int bytes) { shim::Arrive(barrier, bytes); }
inline void WaitForPhase(uint64_t* barrier, int parity) { shim::WaitForPhase(barrier, parity); }
inline void BulkCopy(void* shared, const void* global, int bytes, uint64_t* barrier) {
  shim::BulkCopy(shared, global, bytes, barrier);
}
inline void BulkTile(void* shared, const TensorMap& map, int64_t row, int column, uint64_t* barrier) {
  shim::BulkTile(shared, map, row, column, barrier);
}
inline uint64_t MatrixAt(const void* shared, int leading_bytes, int stride_bytes, Swizzle swizzle) {
  return shim::MatrixAt(shared, leading_bytes, stride_bytes, swizzle);
}
inline void FenceProducts() { shim::FenceProducts(); }
inline void CommitProducts() { shim::CommitProducts(); }
inline void WaitForAllButOne() { shim::WaitForProducts(1); }
inline void WaitForProducts(float (&)[4][16]) { shim::WaitForProducts(0); }
inline shim::Product ProductOf(Float16) { return shim::Product::kFloat16; }
inline shim::Product ProductOf(BFloat16) { return shim::Product::kBFloat16; }
inline shim::Product ProductOf(float) { return shim::Product::kTf32; }
template <Major kA, Major kB, typename T>
void MultiplyGroup(float (&sums)[4][16], uint64_t a, uint64_t b, bool add, T) {
  static_assert(sizeof(T) == 2 || (kA == Major() && kB == Major()), "TF32 is not transposed on its way");
  shim::MultiplyGroup(sums[0], {nullptr, a, b, kA, kB, add, ProductOf(T())});
}
template <Major kB, typename T>
void MultiplyGroup(float (&sums)[4][16], const uint32_t (&a)[4], uint64_t b, bool add, T) {
  static_assert(sizeof(T) == 2, "no kernel has TF32 in registers");
  shim::MultiplyGroup(sums[0], {a, 0, b, Major(), kB, add, ProductOf(T())});
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_TESTING_SHIM_HOPPER_H_
