// What activation_tables.h says of its errors, by the arithmetic of a kernel, in float, against the activations in
// double.
#include "cc/cpu/kernels/activation_tables.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace dwsconv {
namespace {

double Silu(double x) { return x / (1 + std::exp(-x)); }
double Gelu(double x) { return x * 0.5 * std::erfc(-x * std::sqrt(0.5)); }
double GeluTanh(double x) { return x / (1 + std::exp(-1.5957691216057308 * (x + 0.044715 * x * x * x))); }

float ByTable(const BumpTable& table, float x) {
  const float t = std::min(std::fabs(x), table.last);
  const int segment = static_cast<int>(std::nearbyint(t * table.per_unit));
  const float slope = std::fma(table.c[2][segment], t, table.c[1][segment]);
  return std::max(x, 0.0f) - std::fma(slope, t, table.c[0][segment]);
}

// The largest error relative to f, or absolute, over [low, high] in steps of a hundred thousandth.
struct Errors {
  double relative = 0, absolute = 0;
};
Errors ErrorsOf(const BumpTable& table, double (*f)(double), double low, double high) {
  Errors errors;
  const double ratio = std::pow(high / low, 1e-5);
  for (double at = low; std::fabs(std::log(at / low)) < std::fabs(std::log(high / low)); at *= ratio) {
    const float x = static_cast<float>(at);
    const double exact = f(x), error = std::fabs(ByTable(table, x) - exact);
    errors.relative = std::max(errors.relative, error / std::fabs(exact));
    errors.absolute = std::max(errors.absolute, error);
  }
  return errors;
}

TEST(BumpTable, SiluHasItsBits) {
  EXPECT_LT(ErrorsOf(kSiluBump, Silu, 1e-30, 1e30).relative, std::exp2(-11.1));
  EXPECT_LT(ErrorsOf(kSiluBump, Silu, -1e-30, -12.19).relative, std::exp2(-11.1));
  EXPECT_LT(ErrorsOf(kSiluBump, Silu, -12.19, -1e30).absolute, 6.2e-5);
}

void ExpectGelu(const BumpTable& table, double (*f)(double)) {
  EXPECT_LT(ErrorsOf(table, f, 1e-30, 1e30).relative, std::exp2(-13.3));
  EXPECT_LT(ErrorsOf(table, f, -1e-30, -3).relative, std::exp2(-11));
  EXPECT_LT(ErrorsOf(table, f, -3, -1e30).absolute, 3e-6);
}
TEST(BumpTable, GeluHasItsBits) { ExpectGelu(kGeluBump, Gelu); }
TEST(BumpTable, GeluByTanhHasItsBits) { ExpectGelu(kGeluTanhBump, GeluTanh); }

TEST(NormalTail, HasItsBits) {
  double absolute = 0, relative = 0;
  for (float t = 0; t < 20; t = t * 1.0001f + 1e-4f) {
    const float at = std::min(t, kNormalTail.last);
    const int segment = static_cast<int>(std::nearbyint(at * kNormalTail.per_unit));
    const float rest = std::fma(-kNormalTail.width, static_cast<float>(segment), at);
    float sum = 0;
    for (int power = 4; power >= 0; --power) sum = std::fma(sum, rest, kNormalTail.c[power][segment]);
    const double exact = 0.5 * std::erfc(t * std::sqrt(0.5)), error = std::fabs(sum - exact);
    absolute = std::max(absolute, error);
    if (t < 5) relative = std::max(relative, error / exact);
  }
  EXPECT_LT(absolute, 1e-7);
  EXPECT_LT(relative, 7e-6);
}

TEST(BumpTable, NothingIsLeftOfInfinity) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const BumpTable* table : {&kSiluBump, &kGeluBump, &kGeluTanhBump}) {
    EXPECT_EQ(ByTable(*table, inf), inf);
    EXPECT_EQ(ByTable(*table, -inf), 0.0f);
    EXPECT_EQ(ByTable(*table, 0.0f), 0.0f);
  }
}

}  // namespace
}  // namespace dwsconv
