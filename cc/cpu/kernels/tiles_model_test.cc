// The model of AMX's tile registers: what tdpbf16ps is specified to compute, in which order, and how it rounds.
#include "cc/cpu/kernels/tiles_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

namespace dwsconv {
namespace {

// One tile of each kind in memory, as sums = sums + a b.
struct Memory {
  BFloat16 a[16][32] = {}, b[16][32] = {};  // [row][k], [k / 2][column * 2 + k % 2]
  float sums[16][16] = {};

  void SetA(int row, int k, float v) { a[row][k] = FromFloat<BFloat16>(v); }
  void SetB(int k, int column, float v) { b[k / 2][column * 2 + k % 2] = FromFloat<BFloat16>(v); }
  void Multiply(int rows = 16) {
    Tiles tiles(rows);
    tiles.Load<0>(sums, 64);
    tiles.Load<4>(a, 64);
    tiles.Load<6>(b, 64);
    tiles.MultiplyAdd<0, 4, 6>();
    tiles.Store<0>(sums, 64);
  }
};

// sums[0][0] of products a[i] b[i], i the place in the sum.
float DotOf(float start, std::initializer_list<float> a, std::initializer_list<float> b) {
  Memory m;
  m.sums[0][0] = start;
  int k = 0;
  for (float v : a) m.SetA(0, k++, v);
  k = 0;
  for (float v : b) m.SetB(k++, 0, v);
  m.Multiply();
  return m.sums[0][0];
}

TEST(TilesModel, RowsAndStrides) {
  uint8_t from[16 * 80], to[16 * 96];
  for (int i = 0; i < 16 * 80; ++i) from[i] = static_cast<uint8_t>(i * 7 + i / 80);
  for (int rows : {1, 7, 16}) {
    std::fill(std::begin(to), std::end(to), uint8_t{0xee});
    Tiles tiles(rows);
    tiles.Load<3>(from, 80);
    tiles.Store<3>(to, 96);
    for (int i = 0; i < 16 * 96; ++i) {
      const bool written = i / 96 < rows && i % 96 < 64;
      ASSERT_EQ(to[i], written ? from[i / 96 * 80 + i % 96] : 0xee) << i;
    }
    tiles.Zero<3>();
    tiles.Store<3>(to, 96);
    for (int i = 0; i < rows * 96; ++i) ASSERT_EQ(to[i], i % 96 < 64 ? 0 : 0xee) << i;
  }
}

// Whole numbers, which no order of the sum rounds.
TEST(TilesModel, MultipliesMatrices) {
  std::mt19937 random(1);
  std::uniform_int_distribution<int> number(-9, 9);
  for (int rows : {1, 5, 16}) {
    Memory m;
    double expected[16][16];
    for (int i = 0; i < 16; ++i)
      for (int k = 0; k < 32; ++k) m.SetA(i, k, static_cast<float>(number(random)));
    for (int k = 0; k < 32; ++k)
      for (int j = 0; j < 16; ++j) m.SetB(k, j, static_cast<float>(number(random)));
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 16; ++j) {
        expected[i][j] = m.sums[i][j] = static_cast<float>(number(random));
        for (int k = 0; k < 32 && i < rows; ++k)
          expected[i][j] += ToFloat(m.a[i][k]) * ToFloat(m.b[k / 2][2 * j + k % 2]);
      }
    }
    m.Multiply(rows);
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 16; ++j) ASSERT_EQ(m.sums[i][j], expected[i][j]) << i << " " << j;
  }
}

TEST(TilesModel, EvenAndOddTermsAreSummedApartAndThenAdded) {
  const float big = 0x1p24f;
  EXPECT_EQ(DotOf(1, {big, -big}, {1, 1}), 1);                    // into the sum one by one: 0
  EXPECT_EQ(DotOf(0, {1, 0, big, 0, -big}, {1, 0, 1, 0, 1}), 0);  // in the order of the channels
  EXPECT_EQ(DotOf(0, {big, 0, -big, 0, 1}, {1, 0, 1, 0, 1}), 1);
  EXPECT_EQ(DotOf(0, {big, 1, -big, 0}, {1, 1, 1, 0}), 1);
}

TEST(TilesModel, RoundsToNearestEvenAfterAFusedMultiplyAdd) {
  EXPECT_EQ(DotOf(1, {0x1p-12f}, {0x1p-12f}), 1);
  EXPECT_EQ(DotOf(1 + 0x1p-23f, {0x1p-12f}, {0x1p-12f}), 1 + 0x1p-22f);
  // 2^128 alone overflows.
  EXPECT_EQ(DotOf(0, {-0x1p100f, 0, 0x1p100f}, {0x1p27f, 0, 0x1p28f}), 0x1p127f);
  EXPECT_EQ(DotOf(0, {0x1p100f}, {0x1p28f}), std::numeric_limits<float>::infinity());
}

TEST(TilesModel, SubnormalsCountAsZero) {
  EXPECT_EQ(DotOf(0, {0x1p-127f}, {0x1p20f}), 0);                   // a factor
  EXPECT_EQ(DotOf(0, {0x1p-64f}, {0x1p-64f}), 0);                   // a product
  EXPECT_EQ(DotOf(0x1p-127f, {0x1p-20f}, {0x1p-106f}), 0x1p-126f);  // what was there
  EXPECT_EQ(DotOf(-0x1p-126f, {1.5f}, {0x1p-126f}), 0);             // the sum
}

TEST(TilesModel, NanAndInfinity) {
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(std::isnan(DotOf(0, {0}, {inf})));
  EXPECT_TRUE(std::isnan(DotOf(0, {std::nanf("")}, {0})));
  EXPECT_EQ(DotOf(0, {-1}, {inf}), -inf);
  EXPECT_TRUE(std::isnan(DotOf(inf, {-1}, {inf})));
}

}  // namespace
}  // namespace dwsconv
