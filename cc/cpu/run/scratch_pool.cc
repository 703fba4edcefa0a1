#include "cc/cpu/run/scratch_pool.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "cc/core/huge_pages.h"
#include "cc/core/whole.h"

namespace dwsconv {
namespace {

// Calls that overlap each hold one buffer; more than a few at once are rare, and larger ones are not worth keeping.
constexpr size_t kKept = 8;
constexpr int64_t kLargestKept = int64_t{256} << 20;  // bytes

struct Entry {
  AlignedBuffer<char> buffer;
  int64_t capacity;
};

struct Pool {
  std::mutex mutex;
  std::vector<Entry> free;
  std::vector<WorkerScratch::Memory> of_workers;  // what was given back last is at the end
};

Pool& ThePool() {
  static Pool* pool = new Pool;  // never destroyed: threads may outlive static destructors
  return *pool;
}

// What is kept lies on large pages; *bytes becomes what there is.
AlignedBuffer<char> Allocate(int64_t* bytes) {
  return *bytes > kLargestKept ? AllocateAligned<char>(*bytes) : AllocateHuge(bytes);
}

}  // namespace

Scratch::Scratch(int64_t bytes) {
  Pool& pool = ThePool();
  {
    std::lock_guard<std::mutex> lock(pool.mutex);
    size_t best = pool.free.size();
    for (size_t i = 0; i < pool.free.size(); ++i) {
      const int64_t capacity = pool.free[i].capacity;
      if (capacity >= bytes && (best == pool.free.size() || capacity < pool.free[best].capacity)) best = i;
    }
    if (best < pool.free.size()) {
      buffer_ = std::move(pool.free[best].buffer);
      capacity_ = pool.free[best].capacity;
      pool.free.erase(pool.free.begin() + static_cast<std::ptrdiff_t>(best));
      return;
    }
  }
  buffer_ = Allocate(&bytes);
  capacity_ = buffer_ ? bytes : 0;
}

Scratch::~Scratch() {
  if (!buffer_ || capacity_ > kLargestKept) return;
  Pool& pool = ThePool();
  std::lock_guard<std::mutex> lock(pool.mutex);
  if (pool.free.size() == kKept) {
    // Keep the larger ones: they serve every request.
    size_t least = 0;
    for (size_t i = 1; i < pool.free.size(); ++i) {
      if (pool.free[i].capacity < pool.free[least].capacity) least = i;
    }
    if (pool.free[least].capacity >= capacity_) return;
    pool.free.erase(pool.free.begin() + static_cast<std::ptrdiff_t>(least));
  }
  pool.free.push_back(Entry{std::move(buffer_), capacity_});
}

WorkerScratch::WorkerScratch(int workers, int64_t bytes) {
  Pool& pool = ThePool();
  {
    std::lock_guard<std::mutex> lock(pool.mutex);
    if (!pool.of_workers.empty()) {
      memory_ = std::move(pool.of_workers.back());
      pool.of_workers.pop_back();
    }
  }
  if (memory_.workers >= workers && memory_.stride >= bytes) return;
  // It grows in both directions, so that calls of different kinds end with one that serves them all.
  int64_t all = std::max<int64_t>(memory_.workers, workers);
  int64_t stride = RoundUp(std::max(memory_.stride, bytes), 64), capacity;
  memory_.buffer.reset();
  if (__builtin_mul_overflow(all, stride, &capacity) || capacity > kLargestKept) {
    all = workers;
    stride = RoundUp(bytes, 64);
    if (__builtin_mul_overflow(all, stride, &capacity)) return;
  }
  memory_ = {Allocate(&capacity), all, stride};
}

WorkerScratch::~WorkerScratch() {
  if (!memory_.buffer || memory_.workers * memory_.stride > kLargestKept) return;
  Pool& pool = ThePool();
  std::lock_guard<std::mutex> lock(pool.mutex);
  if (pool.of_workers.size() < kKept) pool.of_workers.push_back(std::move(memory_));
}

}  // namespace dwsconv
