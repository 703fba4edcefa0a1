// What compute capability 9.0 has beside the rest, and code for 9.0a alone may use: barriers with phases, copies by an
// engine of their own, and products of a warpgroup, four warps, that read shared memory themselves.
#ifndef DWSCONV_CUDA_DEVICE_HOPPER_CUH_
#define DWSCONV_CUDA_DEVICE_HOPPER_CUH_

#include <cstdint>

#include "cuda/device/async_copy.cuh"
#include "cuda/device/fragments.cuh"
#include "cuda/device/platform.cuh"
#include "cuda/device/tensor_map.h"

#if defined(DWSCONV_SHIM)
#include "cuda/testing/shim_hopper.h"
#define DWS_HAS_HOPPER 1
#else
// Of the card that this pass compiles for. Kernels are empty elsewhere, and take too few threads to be launched.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define DWS_HAS_HOPPER 1
#else
#define DWS_HAS_HOPPER 0
#endif
#endif

namespace dwsconv {
namespace cuda {

constexpr int kWarpgroup = 128;
// Rows and columns of a warpgroup's product.
constexpr int kGroupRows = 64, kGroupColumns = 128;

// How a matrix lies in shared memory: in pieces of 8 x 16 bytes, 128 bytes each, or in rows of 128 bytes whose 16-byte
// pieces are permuted as TensorMap says, in a pattern that repeats after 8 rows and begins at a multiple of 1024 bytes.
enum class Swizzle : int { kNone = 0, k128 = 1 };

// The index that is side by side in shared memory: that of the sum, or that of rows (columns, of the right side).
enum class Major : int { kDepth = 0, kOuter = 1 };

#if !defined(DWSCONV_SHIM)

// A barrier in shared memory whose phase ends when `arrivals` threads have arrived and the bytes that they said they
// expect have come. Its first phase is 0.
DWS_DEVICE void InitPhases(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(SharedAddress(barrier)), "r"(arrivals) : "memory");
}

// After the above, before a barrier of the block: for the copy engine and the other threads.
DWS_DEVICE void FencePhases() {
  asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;\n" ::: "memory");
}

// After ordinary stores to shared memory, before the barrier behind which products or copies read them.
DWS_DEVICE void FenceStores() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }

DWS_DEVICE void Arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(SharedAddress(barrier)) : "memory");
}
DWS_DEVICE void ArriveExpecting(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(SharedAddress(barrier)), "r"(bytes)
               : "memory");
}

// Waits until the phase of this parity has ended. At first the one before phase 0, of parity 1, has.
DWS_DEVICE void WaitForPhase(uint64_t* barrier, int parity) {
  uint32_t ended = 0;
  while (ended == 0) {
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}\n"
                 : "=r"(ended)
                 : "r"(SharedAddress(barrier)), "r"(parity)
                 : "memory");
  }
}

// Bytes from global to shared memory, a multiple of 16, both sides aligned to 16: one thread asks for all of them, and
// they count at the barrier when they have come.
DWS_DEVICE void BulkCopy(void* shared, const void* global, int bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(
                   SharedAddress(shared)),
               "l"(global), "r"(bytes), "r"(SharedAddress(barrier))
               : "memory");
}

// The tile of a matrix that begins at this row and column, to a multiple of 1024 bytes: see TensorMap. All bytes of a
// tile count, those outside the matrix too.
DWS_DEVICE void BulkTile(void* shared, const TensorMap& map, int64_t row, int column, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
      "[%4];\n" ::"r"(SharedAddress(shared)),
      "l"(&map), "r"(column), "r"(static_cast<int>(row)), "r"(SharedAddress(barrier))
      : "memory");
}

// A matrix in shared memory, for the products. stride_bytes: to the next 8 of the outer index; of the sum's, for kOuter
// and k128. leading_bytes: to the next 8 of the sum's index; with kOuter and k128 to the next 64 of the outer index;
// with kDepth and k128 of no meaning.
DWS_DEVICE uint64_t MatrixAt(const void* shared, int leading_bytes, int stride_bytes, Swizzle swizzle) {
  return static_cast<uint64_t>(SharedAddress(shared) >> 4) | static_cast<uint64_t>(leading_bytes >> 4) << 16 |
         static_cast<uint64_t>(stride_bytes >> 4) << 32 | static_cast<uint64_t>(swizzle) << 62;
}

// Before the first product, and after ordinary instructions have touched its registers.
DWS_DEVICE void FenceProducts() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }

// Closes the group of the products so far.
DWS_DEVICE void CommitProducts() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }

#define DWS_FOUR_SUMS(j, i) "+f"(sums[j][i]), "+f"(sums[j][i + 1]), "+f"(sums[j][i + 2]), "+f"(sums[j][i + 3])
#define DWS_HALF_SUMS(i)                                                                                           \
  DWS_FOUR_SUMS(0, i), DWS_FOUR_SUMS(0, i + 8), DWS_FOUR_SUMS(1, i), DWS_FOUR_SUMS(1, i + 8), DWS_FOUR_SUMS(2, i), \
      DWS_FOUR_SUMS(2, i + 8), DWS_FOUR_SUMS(3, i), DWS_FOUR_SUMS(3, i + 8)
// Sums of a lane in the order in which the instruction counts them.
#define DWS_GROUP_SUMS DWS_HALF_SUMS(0), DWS_HALF_SUMS(4)
#define DWS_GROUP_REGISTERS                                                                              \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,"  \
  "%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51," \
  "%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}"

// Waits until all groups but the last one have been multiplied, or all: then the sums are there.
DWS_DEVICE void WaitForAllButOne() { asm volatile("wgmma.wait_group.sync.aligned 1;\n" ::: "memory"); }
DWS_DEVICE void WaitForProducts(Sums& sums) {
  // Sums are read and written by it, so that nothing moves to before it that uses them.
  asm volatile("wgmma.wait_group.sync.aligned 0;\n" : DWS_GROUP_SUMS::"memory");
}

// sums[64 x 128] (+)= a[64 x 16] * b[16 x 128], of a warpgroup's threads; without `add` what the sums were is dropped.
// They are written until somebody waits for them. A lane of the group's warp w, with g = lane / 4 and t = lane % 4,
// has rows 16w + g and 16w + g + 8, and of each 8 columns 2t and 2t + 1: see GroupSums.
#define DWS_GROUP_PRODUCT(type)                                                                                       \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type \
               " " DWS_GROUP_REGISTERS ", %64, %65, p, 1, 1, %67, %68;\n}\n"                                          \
               : DWS_GROUP_SUMS                                                                                       \
               : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(kA)), "n"(static_cast<int>(kB)))
template <Major kA, Major kB>
DWS_DEVICE void MultiplyGroup(Sums& sums, uint64_t a, uint64_t b, bool add, Float16) {
  DWS_GROUP_PRODUCT("f16");
}
template <Major kA, Major kB>
DWS_DEVICE void MultiplyGroup(Sums& sums, uint64_t a, uint64_t b, bool add, BFloat16) {
  DWS_GROUP_PRODUCT("bf16");
}
#undef DWS_GROUP_PRODUCT

// The same of floats as TF32, 8 of the sum's index. The low 13 bits of both sides are dropped, not rounded, and no side
// can be kOuter.
template <Major kA, Major kB>
DWS_DEVICE void MultiplyGroup(Sums& sums, uint64_t a, uint64_t b, bool add, float) {
  static_assert(kA == Major::kDepth && kB == Major::kDepth, "TF32 is not transposed on its way");
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, "
      "0;\nwgmma.mma_async.sync.aligned.m64n128k8.f32.tf32.tf32 " DWS_GROUP_REGISTERS ", %64, %65, p, 1, 1;\n}\n"
      : DWS_GROUP_SUMS
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

// The same as the first two with a's rows of the warp in registers, as MultiplyAdd has them.
#define DWS_GROUP_PRODUCT(type)                                                                                       \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type \
               " " DWS_GROUP_REGISTERS ", {%64,%65,%66,%67}, %68, p, 1, 1, %70;\n}\n"                                 \
               : DWS_GROUP_SUMS                                                                                       \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)),                      \
                 "n"(static_cast<int>(kB)))
template <Major kB>
DWS_DEVICE void MultiplyGroup(Sums& sums, const uint32_t (&a)[4], uint64_t b, bool add, Float16) {
  DWS_GROUP_PRODUCT("f16");
}
template <Major kB>
DWS_DEVICE void MultiplyGroup(Sums& sums, const uint32_t (&a)[4], uint64_t b, bool add, BFloat16) {
  DWS_GROUP_PRODUCT("bf16");
}
#undef DWS_GROUP_PRODUCT
#undef DWS_GROUP_REGISTERS
#undef DWS_GROUP_SUMS
#undef DWS_HALF_SUMS
#undef DWS_FOUR_SUMS

#endif  // DWSCONV_SHIM

// A matrix that begins so many bytes, a multiple of 16, past another one: of the low half alone, where its place is.
DWS_DEVICE uint64_t MatrixPast(uint64_t matrix, int bytes) {
  const uint32_t place = static_cast<uint32_t>(matrix) + static_cast<uint32_t>(bytes >> 4);
  return matrix >> 32 << 32 | place;
}

// As a policy of store_tile.cuh: 16 rows x 128 columns of a warp, in the registers in which another policy has 32 x 64.
// sums[j][4 * m + 8 * half] and the next three are of columns 64 * m + 16 * j + 8 * half and on.
template <typename T>
struct GroupSums {
  using Element = T;
  static constexpr int kRows = 2;

  DWS_DEVICE static int Row(int lane, int i) { return i * 8 + (lane >> 2); }

  template <typename F>
  DWS_DEVICE static void ForEach(Sums& sums, int lane, int tiles, F f) {
    DWS_UNROLL
    for (int tile = 0; tile < 2 * kTiles; ++tile) {
      if (tile >= tiles) continue;
      DWS_UNROLL
      for (int half = 0; half < 2; ++half) {
        float* const four = &sums[tile % kTiles][tile / kTiles * 4 + half * 8];
        const int column = tile * kTileColumns + half * 8 + 2 * (lane & 3);
        f(0, column, four);
        f(1, column, four + 2);
      }
    }
  }
};

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEVICE_HOPPER_CUH_
