// What the files of the shim share: the thread that runs, what its warp shows it, and how it waits.
#ifndef DWSCONV_CUDA_TESTING_SHIM_STATE_H_
#define DWSCONV_CUDA_TESTING_SHIM_STATE_H_

#include <cstdint>
#include <functional>
#include <string>

#include "cuda/testing/shim.h"

namespace dwsconv {
namespace cuda {
namespace shim {

constexpr int kWarp = 32;

// What a lane shows the others of its warp in one instruction.
struct Deposit {
  const char* instruction;
  uint32_t words[8];
  const void* address;
};

// Shows `mine` to the warp, waits for the others', and gives them.
const Deposit* Exchange(const Deposit& mine);

// The launch is over: by the fault of the thread that runs, or of none.
void Fail(const std::string& what);
void Report(const std::string& what);

// The thread that runs goes on when that is so.
void WaitUntil(const std::function<bool()>& ready);

int Current();         // the thread that runs
int Threads();         // of the block
uint32_t OrderSeed();  // see dwsconv_shim_order
bool IsShared(const void* from, int64_t bytes);

float WidenHalf(uint32_t word, int half, Product product);

// shim_hopper.cc: a block begins; a copy of its own accord arrives, if one is under way; a block ends.
void BeginHopper();
bool DeliverCopy();
void EndHopper();

}  // namespace shim
}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_TESTING_SHIM_STATE_H_
