// Scratch memory that outlives a call, so that a layer does not pay for fresh pages each time.
#ifndef DWSCONV_CPU_RUN_SCRATCH_POOL_H_
#define DWSCONV_CPU_RUN_SCRATCH_POOL_H_

#include <cstdint>
#include <vector>

#include "cc/core/aligned_buffer.h"

namespace dwsconv {

// A lease on `bytes` bytes, given back to a process-wide pool on destruction. data() is null when memory is out.
class Scratch {
 public:
  explicit Scratch(int64_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  char* data() { return buffer_.get(); }

 private:
  AlignedBuffer<char> buffer_;
  int64_t capacity_ = 0;
};

// Likewise `bytes` bytes for each of so many workers. A worker gets the memory that it had last, however many bytes
// that were: what a step of a network leaves behind in a core's cache is where the next one writes. Cut from one buffer
// they would lie elsewhere in each step, and a core would fetch lines that another has written.
class WorkerScratch {
 public:
  WorkerScratch(int workers, int64_t bytes);
  ~WorkerScratch();
  WorkerScratch(const WorkerScratch&) = delete;
  WorkerScratch& operator=(const WorkerScratch&) = delete;
  bool ok() const { return ok_; }  // false when memory is out
  char* of(int64_t worker) const { return buffers_[static_cast<size_t>(worker)].get(); }

 private:
  std::vector<AlignedBuffer<char>> buffers_;
  std::vector<int64_t> capacities_;
  bool ok_ = true;
};

}  // namespace dwsconv

#endif  // DWSCONV_CPU_RUN_SCRATCH_POOL_H_
