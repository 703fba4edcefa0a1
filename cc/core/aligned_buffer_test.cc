// Memory on cache lines, and null where a size does not fit into 64 bits or into memory.
#include "cc/core/aligned_buffer.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <limits>

namespace dwsconv {
namespace {

constexpr int64_t kMost = std::numeric_limits<int64_t>::max();

TEST(AlignedBuffer, BeginsOnACacheLine) {
  for (int64_t count : {0, 1, 3, 16, 17, 1000, 65536}) {
    const AlignedBuffer<float> buffer = AllocateAligned<float>(count);
    ASSERT_NE(buffer, nullptr) << count;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.get()) % 64, 0u) << count;
    std::memset(buffer.get(), 0xff, static_cast<size_t>(count) * sizeof(float));
  }
}

TEST(AlignedBuffer, SizesThatOverflowAreNull) {
  // 2^62 floats are 2^64 bytes, which wrap around to none; the others wrap around to little or to less than nothing.
  for (int64_t count : {kMost, kMost / 2, int64_t{1} << 62, (int64_t{1} << 62) + 1, (kMost - 60) / 4}) {
    EXPECT_EQ(AllocateAligned<float>(count), nullptr) << count;
  }
  // Here the bytes fit, and no longer once they are rounded up to whole lines.
  EXPECT_EQ(AllocateAligned<char>(kMost - 62), nullptr);
  EXPECT_EQ(AllocateAligned<char>(kMost), nullptr);
}

TEST(AlignedBuffer, LessThanNothingIsNull) {
  for (int64_t count : {int64_t{-1}, -kMost, std::numeric_limits<int64_t>::min()}) {
    EXPECT_EQ(AllocateAligned<char>(count), nullptr) << count;
    EXPECT_EQ(AllocateAligned<double>(count), nullptr) << count;
  }
}

TEST(AlignedBuffer, MoreThanThereIsIsNull) { EXPECT_EQ(AllocateAligned<char>(int64_t{1} << 60), nullptr); }

}  // namespace
}  // namespace dwsconv
