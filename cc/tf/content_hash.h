// A 64-bit hash of a filter's bytes, to tell whether they changed.
#ifndef DWSCONV_TF_CONTENT_HASH_H_
#define DWSCONV_TF_CONTENT_HASH_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace dwsconv {

// A step of the hash: one-to-one in the state for a given word and in the word for a given state, so two inputs that
// differ in a single word never collide; others do by chance, once in 2^64.
inline uint64_t HashStep(uint64_t state, uint64_t word) {
  state ^= word;
  state = (state << 29) | (state >> 35);
  return state * 0x9E3779B97F4A7C15u;
}

// Eight lanes, so that multiplications overlap: 8 bytes a cycle.
inline uint64_t HashBytes(const void* data, size_t size, uint64_t seed) {
  constexpr int kLanes = 8;
  uint64_t lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = HashStep(seed, static_cast<uint64_t>(i));
  const char* bytes = static_cast<const char*>(data);
  uint64_t words[kLanes];
  size_t left = size;
  for (; left >= sizeof(words); left -= sizeof(words), bytes += sizeof(words)) {
    std::memcpy(words, bytes, sizeof(words));
    for (int i = 0; i < kLanes; ++i) lanes[i] = HashStep(lanes[i], words[i]);
  }
  std::memset(words, 0, sizeof(words));
  std::memcpy(words, bytes, left);
  uint64_t hash = HashStep(seed, size);
  for (int i = 0; i < kLanes; ++i) {
    const uint64_t lane = HashStep(lanes[i], words[i]);
    hash = HashStep(hash, lane ^ (lane >> 32));
  }
  return hash;
}

}  // namespace dwsconv

#endif  // DWSCONV_TF_CONTENT_HASH_H_
