// Every 16-bit float, and the float32 numbers around the ties between them, against arithmetic in double.
#include "cc/core/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace dwsconv {
namespace {

float FloatOf(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

// What IEEE 754 says of a 16-bit float: a sign, an exponent, and the fraction that is left.
template <typename T>
struct Format;
template <>
struct Format<BFloat16> {
  static constexpr int kFraction = 7, kBias = 127;
};
template <>
struct Format<Float16> {
  static constexpr int kFraction = 10, kBias = 15;
};

template <typename T>
class Half : public testing::Test {
 public:
  static constexpr int kFraction = Format<T>::kFraction, kBias = Format<T>::kBias;
  static constexpr int kLargestExponent = 2 * kBias + 1;  // of infinity and NaN
  static constexpr uint16_t kInfinity = kLargestExponent << kFraction;

  // The value of a number's bits; infinity counts as the power of two that would come next, as it does in rounding.
  static double Value(uint16_t bits) {
    const int exponent = (bits & 0x7fff) >> kFraction, fraction = bits & ((1 << kFraction) - 1);
    const double magnitude = exponent == 0 ? std::ldexp(fraction, 1 - kBias - kFraction)
                                           : std::ldexp((1 << kFraction) + fraction, exponent - kBias - kFraction);
    return bits & 0x8000 ? -magnitude : magnitude;
  }

  // The bits that v rounds to: the nearest number, of two the even one.
  static uint16_t Rounded(double v) {
    const uint16_t sign = std::signbit(v) ? 0x8000 : 0;
    const double magnitude = std::abs(v);
    int exponent;
    std::frexp(magnitude, &exponent);  // magnitude is below 2^exponent
    const int unit = std::max(exponent - 1 - kFraction, 1 - kBias - kFraction);
    const double units =
        std::nearbyint(std::ldexp(magnitude, -unit));  // halfway to even, as ever unless told otherwise
    const double rounded = std::ldexp(units, unit);
    if (rounded >= std::ldexp(1, kBias + 1)) return sign | kInfinity;
    if (rounded < std::ldexp(1, 1 - kBias)) return sign | static_cast<uint16_t>(units);
    std::frexp(rounded, &exponent);
    const int fraction = static_cast<int>(std::ldexp(rounded, kFraction + 1 - exponent)) - (1 << kFraction);
    return sign | static_cast<uint16_t>((exponent - 1 + kBias) << kFraction | fraction);
  }
};

using Types = testing::Types<BFloat16, Float16>;
TYPED_TEST_SUITE(Half, Types);

TYPED_TEST(Half, EveryNumberHasItsValue) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float found = ToFloat(TypeParam{static_cast<uint16_t>(bits)});
    if ((bits & 0x7fff) > this->kInfinity) {
      ASSERT_TRUE(std::isnan(found)) << std::hex << bits;
    } else if ((bits & 0x7fff) == this->kInfinity) {
      ASSERT_TRUE(std::isinf(found)) << std::hex << bits;
    } else {
      ASSERT_EQ(static_cast<double>(found), this->Value(static_cast<uint16_t>(bits))) << std::hex << bits;
    }
    ASSERT_EQ(std::signbit(found), bits >= 0x8000) << std::hex << bits;
  }
}

TYPED_TEST(Half, ThereAndBackIsTheSame) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t found = FromFloat<TypeParam>(ToFloat(TypeParam{static_cast<uint16_t>(bits)})).bits;
    if ((bits & 0x7fff) <= this->kInfinity) {
      ASSERT_EQ(found, bits);
    } else {  // a NaN, quiet now, with its sign and the rest of what it carried
      ASSERT_EQ(found, bits | 1 << (this->kFraction - 1));
    }
  }
}

TYPED_TEST(Half, TiesGoToTheEvenNeighbour) {
  for (uint32_t low = 0; low < this->kInfinity; ++low) {
    // Exact in float: one digit more than both have. The last tie is between the largest number and infinity.
    const double tie = (this->Value(static_cast<uint16_t>(low)) + this->Value(static_cast<uint16_t>(low + 1))) / 2;
    const float middle = static_cast<float>(tie);
    ASSERT_EQ(static_cast<double>(middle), tie);
    const uint32_t even = low + (low & 1), high = low + 1;
    for (const float sign : {1.0f, -1.0f}) {
      const uint32_t s = sign < 0 ? 0x8000 : 0;
      ASSERT_EQ(FromFloat<TypeParam>(sign * middle).bits, s | even) << std::hex << low;
      ASSERT_EQ(FromFloat<TypeParam>(sign * std::nextafter(middle, 0.0f)).bits, s | low) << std::hex << low;
      const float above = std::nextafter(middle, std::numeric_limits<float>::infinity());
      ASSERT_EQ(FromFloat<TypeParam>(sign * above).bits, s | high) << std::hex << low;
    }
  }
}

TYPED_TEST(Half, AnyFloatRoundsAsInDouble) {
  // A stride that is prime to all powers of two: every exponent, and no pattern in the fractions.
  for (uint64_t step = 0; step < (uint64_t{1} << 32); step += 4099) {
    const float f = FloatOf(static_cast<uint32_t>(step));
    if (std::isnan(f)) continue;
    const uint16_t expected = std::isinf(f) ? (f < 0 ? 0x8000 : 0) | this->kInfinity : this->Rounded(f);
    ASSERT_EQ(FromFloat<TypeParam>(f).bits, expected) << std::hexfloat << f;
  }
}

TYPED_TEST(Half, ANaNStaysOne) {
  // Those whose fraction is in bits that 16 bits do not have would become infinity by plain truncation.
  for (const uint32_t fraction : {0x1u, 0x1fffu, 0x2000u, 0xffffu, 0x10000u, 0x3fffffu, 0x400000u, 0x7fffffu}) {
    for (const uint32_t sign : {0u, 0x80000000u}) {
      const uint16_t found = FromFloat<TypeParam>(FloatOf(sign | 0x7f800000u | fraction)).bits;
      EXPECT_GT(found & 0x7fff, this->kInfinity) << std::hex << fraction;
      EXPECT_EQ(found >> 15, sign >> 31) << std::hex << fraction;
    }
  }
}

TEST(Float, PassesThrough) {
  for (const uint32_t bits : {0u, 0x80000000u, 1u, 0x3f800001u, 0x7f800000u}) {
    EXPECT_EQ(FromFloat<float>(ToFloat(FloatOf(bits))), FloatOf(bits));
  }
}

}  // namespace
}  // namespace dwsconv
