// What a kernel for 9.0a must not do, one case each: the shim has to say so. For the shim alone: `hopper_misuse CASE`
// prints the error of case number CASE, or nothing.
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "cuda/device/hopper.cuh"

namespace dwsconv {
namespace cuda {
namespace {

alignas(16) char global[2 << 10];

struct Args {
  int number;
  TensorMap map;
};

// Of a warpgroup, with 8 KB of a matrix [64, 64] and 16 KB of one [64, 128], then a barrier.
struct Block {
  char *a, *b;
  uint64_t* barrier;

  Block() {
    a = SharedMemory() + (0u - SharedAddress(SharedMemory())) % 1024u;
    b = a + (8 << 10);
    barrier = reinterpret_cast<uint64_t*>(b + (16 << 10));
  }
  uint64_t Left(int at = 0) const { return MatrixAt(a + at, 16, 1024, Swizzle::k128); }
  uint64_t Right() const { return MatrixAt(b, 8 << 10, 1024, Swizzle::k128); }
};

void Multiply(Sums& sums, uint64_t a, uint64_t b) {
  MultiplyGroup<Major::kDepth, Major::kOuter>(sums, a, b, false, Float16());
}

// Cases of products: all threads of the warpgroup.
void Products(int number, const Block& block) {
  Sums sums;
  ClearSums(sums);
  if (number != 20) FenceProducts();
  const uint64_t left = number == 21   ? block.Left(128)
                        : number == 22 ? MatrixAt(block.a, 16, 60 << 10, Swizzle::k128)
                        : number == 23 ? MatrixAt(block.a + 8, 16, 1024, Swizzle::k128)
                        : number == 24 ? block.Left(threadIdx.x / 32 == 2 ? 32 : 0)
                                       : block.Left();
  Multiply(sums, left, block.Right());
  if (number == 25 && threadIdx.x == 3) return;  // the others wait for it
  if (number == 27) {
    CommitProducts();
    return;
  }
  CommitProducts();
  if (number == 26) WaitForAllButOne();
  if (number == 26) return;
  WaitForProducts(sums);
  if (number == 28) Multiply(sums, left, block.Right());  // without a fence after the sums were there
}

// Cases of copies and phases: thread 0, and others that wait.
void Copies(const Args& args, const Block& block) {
  const int number = args.number;
  if (threadIdx.x == 0) {
    if (number != 1) InitPhases(block.barrier, 1);
    if (number != 1 && number != 2) FencePhases();
  }
  SyncBlock();
  if (threadIdx.x == 0) {
    uint64_t* const barrier = block.barrier;
    const int expected = number == 3                   ? 1040
                         : number == 4                 ? 1008
                         : number == 5 || number == 17 ? 512
                         : number == 14                ? 8192
                                                       : 1024;
    if (number == 6) BulkCopy(block.a, global, 1024, barrier);  // and nobody says so
    if (number != 6) ArriveExpecting(barrier, expected);
    if (number == 7) BulkCopy(block.a + 8, global, 1024, barrier);
    if (number == 8) BulkCopy(block.a, global + 8, 1024, barrier);
    if (number == 9) BulkCopy(block.a, global, 1000, barrier);
    if (number == 10) BulkCopy(block.b + (16 << 10), global, 1024, barrier);
    if (number == 11) Arrive(barrier);
    if (number == 12) WaitForPhase(barrier, 0);
    if (number == 13) return BulkCopy(block.a, global, 1024, barrier);
    if (number == 14) BulkTile(block.a + 128, args.map, 0, 0, barrier);
    if (number == 15) InitPhases(reinterpret_cast<uint64_t*>(block.a + 4), 1);
    if (number == 16) MatrixAt(block.a, 1 << 18, 1024, Swizzle::k128);
    if (number < 6 || number == 17) {
      BulkCopy(block.a, global, 512, barrier);
      BulkCopy(block.a + 512, global, 512, barrier);
    }
  }
  if (number != 13) WaitForPhase(block.barrier, 0);
  if (number == 17) WaitForPhase(block.barrier, 1);
}

void Kernel(const Args args) {
  const Block block;
  if (args.number < 20) {
    Copies(args, block);
  } else {
    Products(args.number, block);
  }
}

}  // namespace
}  // namespace cuda
}  // namespace dwsconv

int main(int, char** argv) {
  using namespace dwsconv::cuda;
  Args args{atoi(argv[1]), {}};
  MakeTensorMap(global, 16, 64, 64, &args.map);
  // The barrier is the last thing in shared memory, but for what lies before the first multiple of 1024.
  const int64_t before = (0u - 3 * 128u) % 1024u;
  printf("%s\n", LaunchKernel(Kernel, 1, kWarpgroup, before + (24 << 10) + 8, nullptr, args));
  return 0;
}
