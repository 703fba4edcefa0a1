#include "cc/cpu/run/scratch_pool.h"

#include <algorithm>
#include <mutex>
#include <utility>

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
  std::vector<std::vector<Entry>> of_workers;  // by worker; what was given back last is at the end
};

Pool& ThePool() {
  static Pool* pool = new Pool;  // never destroyed: threads may outlive static destructors
  return *pool;
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
  buffer_ = AllocateAligned<char>(bytes);
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

WorkerScratch::WorkerScratch(int workers, int64_t bytes)
    : buffers_(static_cast<size_t>(workers)), capacities_(static_cast<size_t>(workers), 0) {
  Pool& pool = ThePool();
  {
    std::lock_guard<std::mutex> lock(pool.mutex);
    for (size_t i = 0; i < std::min(buffers_.size(), pool.of_workers.size()); ++i) {
      std::vector<Entry>& free = pool.of_workers[i];
      if (free.empty()) continue;
      buffers_[i] = std::move(free.back().buffer);
      capacities_[i] = free.back().capacity;
      free.pop_back();
    }
  }
  for (size_t i = 0; i < buffers_.size(); ++i) {
    if (buffers_[i] && capacities_[i] >= bytes) continue;
    buffers_[i].reset();  // a worker has one buffer, which grows
    buffers_[i] = AllocateAligned<char>(bytes);
    capacities_[i] = buffers_[i] ? bytes : 0;
    ok_ = ok_ && buffers_[i];
  }
}

WorkerScratch::~WorkerScratch() {
  Pool& pool = ThePool();
  std::lock_guard<std::mutex> lock(pool.mutex);
  if (pool.of_workers.size() < buffers_.size()) pool.of_workers.resize(buffers_.size());
  for (size_t i = 0; i < buffers_.size(); ++i) {
    std::vector<Entry>& free = pool.of_workers[i];
    if (!buffers_[i] || capacities_[i] > kLargestKept || free.size() == kKept) continue;
    free.push_back(Entry{std::move(buffers_[i]), capacities_[i]});
  }
}

}  // namespace dwsconv
