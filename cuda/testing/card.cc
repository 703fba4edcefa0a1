// The card that the shim is taken for, and an L2 of any size that counts what copies take of DRAM.
#include <cstdint>
#include <list>
#include <string>
#include <unordered_map>

#include "cuda/run/execute.h"
#include "cuda/testing/shim.h"

namespace dwsconv {
namespace cuda {
namespace {

constexpr int64_t kLineBytes = 128;

CudaMachine card;

// The lines that were read last.
struct Cache {
  int64_t most_lines = 0, missed_lines = 0;
  std::list<uintptr_t> lines;  // the last one first
  std::unordered_map<uintptr_t, std::list<uintptr_t>::iterator> at;

  void Read(uintptr_t line) {
    const auto found = at.find(line);
    if (found != at.end()) {
      lines.splice(lines.begin(), lines, found->second);
      return;
    }
    ++missed_lines;
    lines.push_front(line);
    at[line] = lines.begin();
    if (static_cast<int64_t>(lines.size()) <= most_lines) return;
    at.erase(lines.back());
    lines.pop_back();
  }
} cache;

}  // namespace

namespace shim {

int Capability() { return card.capability; }

int64_t BlockSharedBytes() { return card.block_shared_bytes; }

void CountRead(const void* global) {
  if (cache.most_lines > 0) cache.Read(reinterpret_cast<uintptr_t>(global) / kLineBytes);
}

}  // namespace shim

std::string CurrentMachine(CudaMachine* machine) {
  *machine = card;
  return "";
}

}  // namespace cuda
}  // namespace dwsconv

extern "C" {

// What the card says of itself: 10 * major + minor, bytes, kHz and bits. All 0: the H200 that it is at first.
void dwsconv_shim_card(int capability, int multiprocessors, int64_t block_shared_bytes,
                       int64_t multiprocessor_shared_bytes, int64_t l2_bytes, int clock_khz, int memory_clock_khz,
                       int memory_bits) {
  dwsconv::CudaMachine& card = dwsconv::cuda::card;
  card = dwsconv::CudaMachine();
  if (capability == 0) return;
  card.capability = capability;
  card.multiprocessors = multiprocessors;
  card.block_shared_bytes = block_shared_bytes;
  card.multiprocessor_shared_bytes = multiprocessor_shared_bytes;
  card.l2_bytes = l2_bytes;
  dwsconv::SetClocks(clock_khz, memory_clock_khz, memory_bits, &card);
}

// Whether the planner takes the product for 9.0a without being asked, as on a card with such code.
void dwsconv_shim_group_products(int there) { dwsconv::cuda::card.group_products = there != 0; }

// From now on an L2 of that many bytes, empty at first, stands before global memory; 0: none.
void dwsconv_shim_l2(int64_t bytes) {
  dwsconv::cuda::cache = {};
  dwsconv::cuda::cache.most_lines = bytes / dwsconv::cuda::kLineBytes;
}

// The bytes that copies have taken of what is behind it.
int64_t dwsconv_shim_dram_bytes() { return dwsconv::cuda::cache.missed_lines * dwsconv::cuda::kLineBytes; }

}  // extern "C"
