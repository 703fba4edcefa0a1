#include "cuda/testing/shim.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cuda/testing/shim_state.h"

#if !defined(__x86_64__)
#error "the switch between fibres below is written for x86-64"
#endif

extern "C" void dwsconv_shim_switch(void** save_stack, void* load_stack);
// What a call must keep, and the stack pointer.
// clang-format off
asm(R"(
.text
.globl dwsconv_shim_switch
.type dwsconv_shim_switch, @function
dwsconv_shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size dwsconv_shim_switch, .-dwsconv_shim_switch
)");
// clang-format on

namespace dwsconv {
namespace cuda {
namespace shim {

Index thread_index, block_index, block_size, grid_size;

namespace {

constexpr int kStackBytes = 256 << 10;
constexpr int kBarriers = 16;

enum class State { kReady, kAtBarrier, kAtWarp, kWaiting, kDone };

struct Copy {
  void* shared;
  const void* global;
  bool valid;
};

struct Fibre {
  void* stack = nullptr;
  std::unique_ptr<char[]> memory{new char[kStackBytes]};
  State state = State::kDone;
  int barrier = 0, barrier_threads = 0;  // what it waits at
  const std::function<bool()>* until = nullptr;
  std::vector<std::vector<Copy>> groups;  // committed, not waited for
  std::vector<Copy> open;
  int warp_instructions = 0;
  int turns = 0;  // BarrierOr's so far
};

struct Shared {
  char* region = nullptr;
  int64_t region_bytes = 0;
  char* begin = nullptr;
};

std::vector<Fibre> fibres;
std::vector<Deposit> deposits;  // [2][threads]
int current = 0, threads_of_block = 0;
void* scheduler = nullptr;
const std::function<void()>* body = nullptr;
std::string error;
Shared shared;
int64_t shared_bytes_of_block = 0;
uint32_t order_seed = 0;
int64_t most_blocks = 0;
bool any_of_block[2] = {false, false};

void YieldAs(State state) {
  fibres[current].state = state;
  dwsconv_shim_switch(&fibres[current].stack, scheduler);
}

void Enter() {
  (*body)();
  YieldAs(State::kDone);
}

void Start(Fibre* fibre) {
  char* top = fibre->memory.get() + kStackBytes;
  top -= reinterpret_cast<uintptr_t>(top) % 16;
  void** stack = reinterpret_cast<void**>(top);
  *--stack = nullptr;  // where Enter would return to, which it does not
  *--stack = reinterpret_cast<void*>(&Enter);
  for (int i = 0; i < 6; ++i) *--stack = nullptr;
  fibre->stack = stack;
  fibre->state = State::kReady;
  fibre->groups.clear();
  fibre->open.clear();
  fibre->warp_instructions = 0;
  fibre->turns = 0;
}

void PrepareShared(int64_t bytes) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  const int64_t whole = (bytes + page - 1) / page * page;
  if (shared.region_bytes != whole + page) {
    if (shared.region != nullptr) munmap(shared.region, shared.region_bytes);
    shared.region_bytes = whole + page;
    shared.region = static_cast<char*>(
        mmap(nullptr, shared.region_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (shared.region == MAP_FAILED) abort();
    mprotect(shared.region + whole, page, PROT_NONE);
  }
  // It ends where the page that nobody may touch begins, as far as its alignment lets it.
  shared.begin = shared.region + (whole - bytes) / 128 * 128;
  shared_bytes_of_block = bytes;
}

// Lets the threads at a barrier go on where all that it takes are there.
bool ReleaseBarrier(int barrier) {
  const auto waits = [barrier](const Fibre& f) { return f.state == State::kAtBarrier && f.barrier == barrier; };
  const auto begin = fibres.begin(), end = fibres.begin() + threads_of_block;
  const auto first = std::find_if(begin, end, waits);
  if (first == end || std::count_if(begin, end, waits) != first->barrier_threads) return false;
  for (auto fibre = begin; fibre != end; ++fibre) {
    if (waits(*fibre)) fibre->state = State::kReady;
  }
  return true;
}

// Lets a thread go on that waits for something that is so now.
bool GoesOn(Fibre* fibre) {
  if (fibre->state != State::kWaiting || !(*fibre->until)()) return false;
  fibre->state = State::kReady;
  return true;
}

// Whoever can go on again goes on. False where nobody can, and not all are done.
bool Release() {
  bool released = false;
  for (int barrier = 0; barrier < kBarriers; ++barrier) released = ReleaseBarrier(barrier) || released;
  for (int warp = 0; warp < threads_of_block; warp += kWarp) {
    const auto first = fibres.begin() + warp;
    if (!std::all_of(first, first + kWarp, [](const Fibre& f) { return f.state == State::kAtWarp; })) continue;
    for (int i = 0; i < kWarp; ++i) fibres[warp + i].state = State::kReady;
    released = true;
  }
  for (int i = 0; i < threads_of_block; ++i) released = GoesOn(&fibres[i]) || released;
  return released;
}

// Lets the warp of a thread go on: all lanes are at an instruction of it, or all threads at its barrier.
bool ReleaseWarp(int thread) {
  if (fibres[thread].state == State::kAtBarrier) return ReleaseBarrier(fibres[thread].barrier);
  if (GoesOn(&fibres[thread])) return true;
  const auto first = fibres.begin() + thread / kWarp * kWarp;
  if (!std::all_of(first, first + kWarp, [](const Fibre& f) { return f.state == State::kAtWarp; })) return false;
  for (int i = 0; i < kWarp; ++i) first[i].state = State::kReady;
  return true;
}

void Run(int thread) {
  if (fibres[thread].state != State::kReady) return;
  current = thread;
  thread_index.x = static_cast<unsigned>(thread);
  dwsconv_shim_switch(&scheduler, fibres[thread].stack);
}

void RunBlock(int threads) {
  threads_of_block = threads;
  any_of_block[0] = any_of_block[1] = false;
  BeginHopper();
  memset(shared.begin, 0xff, static_cast<size_t>(shared_bytes_of_block));
  for (int i = 0; i < threads; ++i) Start(&fibres[i]);
  std::vector<int> order(threads);
  for (int i = 0; i < threads; ++i) order[i] = order_seed == 1 ? threads - 1 - i : i;
  std::mt19937 random(order_seed);
  while (error.empty()) {
    if (order_seed > 1) std::shuffle(order.begin(), order.end(), random);
    for (int i : order) {
      Run(i);
      // By odd seeds a warp goes on at once, before others have begun, up to a barrier that some have yet to reach:
      // what keeps its lanes together, or its group, is no barrier for others.
      while (order_seed > 2 && order_seed % 2 == 1 && error.empty() && ReleaseWarp(i)) {
        for (int lane = 0; lane < kWarp; ++lane) Run(i / kWarp * kWarp + lane);
      }
      if (!error.empty()) return;
    }
    const auto any = [threads](State state) {
      return std::any_of(fibres.begin(), fibres.begin() + threads, [=](const Fibre& f) { return f.state == state; });
    };
    if (any(State::kReady) || Release()) continue;
    const bool at_barrier = any(State::kAtBarrier) || any(State::kAtWarp);
    if (!at_barrier && !any(State::kWaiting)) return EndHopper();
    if (DeliverCopy()) continue;
    Report(any(State::kWaiting) ? "a wait for a phase that never ends"
                                : "a barrier or a warp's instruction that not all of its threads reach");
  }
}

}  // namespace

void Report(const std::string& what) {
  if (error.empty()) error = what;
}

void Fail(const std::string& what) {
  Report(what + " (thread " + std::to_string(current) + ")");
  YieldAs(State::kDone);  // and never comes back: the launch is over
}

void WaitUntil(const std::function<bool()>& ready) {
  fibres[current].until = &ready;
  while (!ready()) YieldAs(State::kWaiting);
}

int Current() { return current; }
int Threads() { return threads_of_block; }
uint32_t OrderSeed() { return order_seed; }

const Deposit* Exchange(const Deposit& mine) {
  Fibre& fibre = fibres[current];
  Deposit* const all = &deposits[(fibre.warp_instructions++ % 2) * threads_of_block];
  all[current] = mine;
  YieldAs(State::kAtWarp);
  const Deposit* const warp = all + current / kWarp * kWarp;
  for (int i = 0; i < kWarp; ++i) {
    if (strcmp(warp[i].instruction, mine.instruction) != 0) {
      Fail(std::string("lanes of a warp are at different instructions: ") + mine.instruction + ", " +
           warp[i].instruction);
    }
  }
  return warp;
}

bool IsShared(const void* from, int64_t bytes) {
  const char* const at = static_cast<const char*>(from);
  return at >= shared.begin && at + bytes <= shared.begin + shared_bytes_of_block;
}

char* Shared() { return shared.begin; }

void Barrier(int barrier, int threads) {
  if (barrier < 0 || barrier >= kBarriers || threads < 1 || threads % kWarp != 0) Fail("a barrier that no card has");
  fibres[current].barrier = barrier;
  fibres[current].barrier_threads = threads;
  YieldAs(State::kAtBarrier);
}

bool BarrierOr(bool value) {
  // They take turns at two flags: past the barrier all have read the other one, of the time before.
  const int turn = fibres[current].turns++ % 2;
  any_of_block[turn] = any_of_block[turn] || value;
  Barrier(0, threads_of_block);
  any_of_block[1 - turn] = false;
  return any_of_block[turn];
}

uint32_t Shuffle(uint32_t value, int mask) {
  const Deposit* const warp = Exchange({"shuffle", {value}, nullptr});
  return warp[(current % kWarp) ^ mask].words[0];
}

void StartCopy(void* to, const void* from, bool valid) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || !IsShared(to, 16)) Fail("a copy to outside shared memory, or askew");
  if (valid && reinterpret_cast<uintptr_t>(from) % 16 != 0) Fail("a copy from an address that is not a multiple of 16");
  if (valid) CountRead(from);
  memset(to, 0xff, 16);
  fibres[current].open.push_back({to, from, valid});
}

void Commit() {
  fibres[current].groups.push_back(std::move(fibres[current].open));
  fibres[current].open.clear();
}

void Wait(int pending) {
  auto& groups = fibres[current].groups;
  while (static_cast<int>(groups.size()) > pending) {
    for (const Copy& copy : groups.front()) {
      if (copy.valid) {
        memcpy(copy.shared, copy.global, 16);
      } else {
        memset(copy.shared, 0, 16);
      }
    }
    groups.erase(groups.begin());
  }
}

const void* SharedWords(const void* from, int bytes) {
  if (reinterpret_cast<uintptr_t>(from) % bytes != 0 || !IsShared(from, bytes)) {
    Fail("words that are outside shared memory, or askew");
  }
  return from;
}

const char* Launch(const std::function<void()>& kernel, int64_t grid, int threads, int64_t shared_bytes) {
  static std::string message;
  error.clear();
  if (grid < 1 || grid > INT32_MAX || threads < 1 || threads > 1024 || threads % kWarp != 0 ||
      shared_bytes > BlockSharedBytes()) {
    message = "a launch that no card takes: grid " + std::to_string(grid) + ", threads " + std::to_string(threads) +
              ", shared memory " + std::to_string(shared_bytes);
    return message.c_str();
  }
  if (most_blocks > 0) grid = std::min(grid, most_blocks);
  if (static_cast<int>(fibres.size()) < threads) fibres.resize(threads);
  deposits.resize(2 * threads);
  PrepareShared(shared_bytes);
  body = &kernel;
  block_size.x = static_cast<unsigned>(threads);
  grid_size.x = static_cast<unsigned>(grid);
  for (int64_t block = 0; block < grid && error.empty(); ++block) {
    block_index.x = static_cast<unsigned>(block);
    RunBlock(threads);
  }
  message = error;
  return message.c_str();
}

}  // namespace shim

}  // namespace cuda
}  // namespace dwsconv

extern "C" {

// The order in which the threads of a block run between barriers: 0 upwards, 1 downwards, else at random by that seed,
// with odd ones such that a warp may be far ahead of others.
void dwsconv_shim_order(uint32_t seed) { dwsconv::cuda::shim::order_seed = seed; }

// Launches no more blocks than that, or 0 for as many as asked for: kernels must get by with any number.
void dwsconv_shim_most_blocks(int64_t blocks) { dwsconv::cuda::shim::most_blocks = blocks; }

}  // extern "C"
