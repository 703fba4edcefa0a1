// Memory aligned to a cache line; null instead of an exception when there is none.
#ifndef DWSCONV_CORE_ALIGNED_BUFFER_H_
#define DWSCONV_CORE_ALIGNED_BUFFER_H_

#include <cstdint>
#include <cstdlib>
#include <memory>

namespace dwsconv {

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};

template <typename T>
using AlignedBuffer = std::unique_ptr<T[], FreeDeleter>;

// `count` elements, not initialised. Null when count * sizeof(T) overflows or memory is out.
template <typename T>
AlignedBuffer<T> AllocateAligned(int64_t count) {
  int64_t bytes;
  if (count < 0 || __builtin_mul_overflow(count, static_cast<int64_t>(sizeof(T)), &bytes) ||
      __builtin_add_overflow(bytes, int64_t{63}, &bytes)) {
    return nullptr;
  }
  return AlignedBuffer<T>(static_cast<T*>(std::aligned_alloc(64, static_cast<size_t>(bytes / 64 * 64 + 64))));
}

}  // namespace dwsconv

#endif  // DWSCONV_CORE_ALIGNED_BUFFER_H_
