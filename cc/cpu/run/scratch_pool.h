// Scratch memory that outlives a call, so that a layer does not pay for fresh pages each time.
#ifndef DWSCONV_CPU_RUN_SCRATCH_POOL_H_
#define DWSCONV_CPU_RUN_SCRATCH_POOL_H_

#include <cstdint>

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

// A lease on `bytes` bytes for each of so many workers. A worker finds the memory that it had last, however many bytes
// that were: where a step of a network writes, the step before has left lines in the same core's cache. Cut from a
// buffer of the right size, they would lie elsewhere in each step, and often be another core's.
class WorkerScratch {
 public:
  WorkerScratch(int workers, int64_t bytes);
  ~WorkerScratch();
  WorkerScratch(const WorkerScratch&) = delete;
  WorkerScratch& operator=(const WorkerScratch&) = delete;
  bool ok() const { return memory_.buffer != nullptr; }  // false when memory is out
  char* of(int64_t worker) const { return memory_.buffer.get() + worker * memory_.stride; }

  struct Memory {
    AlignedBuffer<char> buffer;
    int64_t workers = 0, stride = 0;  // bytes from a worker to the next
  };

 private:
  Memory memory_;
};

}  // namespace dwsconv

#endif  // DWSCONV_CPU_RUN_SCRATCH_POOL_H_
