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

}  // namespace dwsconv

#endif  // DWSCONV_CPU_RUN_SCRATCH_POOL_H_
