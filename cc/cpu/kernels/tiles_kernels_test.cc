// The pointwise half by tiles: against sums in double, with what lies around its arrays guarded, and the model against
// the hardware where there is one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "cc/core/cpu_features.h"
#include "cc/core/half.h"
#include "cc/core/whole.h"
#include "cc/cpu/kernels/bf16_products.h"
#include "cc/cpu/kernels/tiles_table.h"

namespace dwsconv {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t kGuard = 64;  // elements before and after Y

// A call with arrays of its own, of random sizes and numbers.
struct Call {
  int64_t pixels, cm, K, k_begin, k_end, z_stride, y_step;
  bool padded, residual, relu;
  DType dtype;
  std::vector<BFloat16> z, panels;
  std::vector<float> bias, residual_floats;
  std::vector<char> y, residual_bytes, ahead;

  explicit Call(std::mt19937* random) {
    const auto draw = [&](int64_t low, int64_t high) {
      return std::uniform_int_distribution<int64_t>(low, high)(*random);
    };
    const auto number = [&] { return std::normal_distribution<float>()(*random); };
    // Small and large, so that rows shorter than a tile and runs of tails occur, and both orders of the loops.
    pixels = draw(0, 9) == 0 ? draw(513, 700) : draw(0, 1) ? draw(1, 20) : draw(1, 110);
    cm = draw(0, 9) == 0 ? draw(500, 600) : draw(1, 130);
    K = draw(1, 100);
    k_begin = draw(0, 2) == 0 ? draw(0, (K - 1) / 32) * 32 : 0;
    k_end = draw(0, 2) == 0 ? draw(k_begin + 1, K) : K;
    padded = draw(0, 1);
    z_stride = padded ? RoundUp(cm, 32) + 32 * draw(0, 1) : cm + draw(0, 40);
    residual = draw(0, 1);
    relu = draw(0, 1);
    y_step = K + (draw(0, 1) ? draw(0, 40) : 0);
    dtype = draw(0, 3) == 0 ? DType::kFloat32 : DType::kBFloat16;
    z.assign(static_cast<size_t>((pixels - 1) * z_stride + (padded ? RoundUp(cm, 32) : cm)), FromFloat<BFloat16>(kNan));
    for (int64_t i = 0; i < pixels; ++i) {
      for (int64_t c = 0; c < cm; ++c) Z(i, c) = FromFloat<BFloat16>(number());
      for (int64_t c = cm; padded && c < RoundUp(cm, 32); ++c) Z(i, c) = BFloat16{0};
    }
    panels.resize(static_cast<size_t>(RoundUp(K, 32) * RoundUp(cm, 32)));
    for (int64_t c = 0; c < cm; ++c) {
      for (int64_t k = 0; k < K; ++k) P(c, k) = FromFloat<BFloat16>(number());
    }
    bias.assign(static_cast<size_t>(RoundUp(K, 32)), 0.0f);
    for (int64_t k = 0; k < K; ++k) bias[static_cast<size_t>(k)] = number();
    const int64_t bytes = SizeOf(dtype) * pixels * K;
    residual_bytes.resize(static_cast<size_t>(bytes));
    for (int64_t i = 0; i < pixels * K; ++i) {
      if (dtype == DType::kFloat32) reinterpret_cast<float*>(residual_bytes.data())[i] = number();
      if (dtype == DType::kBFloat16) {
        reinterpret_cast<BFloat16*>(residual_bytes.data())[i] = FromFloat<BFloat16>(number());
      }
    }
    ahead.resize(static_cast<size_t>(draw(0, 1) * draw(1, 9000)));
  }

  BFloat16& Z(int64_t i, int64_t c) { return z[static_cast<size_t>(i * z_stride + c)]; }
  BFloat16& P(int64_t c, int64_t k) {
    return panels[static_cast<size_t>(k / 32 * 32 * RoundUp(cm, 32) + c / 2 * 64 + k % 32 * 2 + c % 2)];
  }

  // Y between guards.
  std::vector<char> Run(const TileKernels& kernels) {
    const int64_t item = SizeOf(dtype);
    std::vector<char> y(static_cast<size_t>((pixels * y_step + 2 * kGuard) * item), char{0x5a});
    PointwiseArgs args = {};
    args.z = z.data();
    args.z_stride = z_stride;
    args.z_padded = padded;
    args.pixels = pixels;
    args.cm = cm;
    args.panels = panels.data();
    args.bias = bias.data();
    args.k_begin = k_begin;
    args.k_end = k_end;
    args.residual_step = K;
    args.y_step = y_step;
    args.residual = residual ? residual_bytes.data() : nullptr;
    args.y = y.data() + kGuard * item;
    args.dtype = dtype;
    args.activation.kind = relu ? ActivationKind::kRelu : ActivationKind::kNone;
    args.ahead = ahead.data();
    args.ahead_bytes = static_cast<int64_t>(ahead.size());
    // Bias by its channel: k_begin's is the first that is read.
    kernels.pointwise(args);
    return y;
  }

  double Item(const char* from, int64_t i) const {
    return dtype == DType::kFloat32 ? reinterpret_cast<const float*>(from)[i]
                                    : ToFloat(reinterpret_cast<const BFloat16*>(from)[i]);
  }
};

TEST(TilesPointwise, ThreeHundredRandomCalls) {
  std::mt19937 random(2);
  for (int n = 0; n < 300; ++n) {
    Call call(&random);
    const std::vector<char> y = call.Run(TilesModel());
    const int64_t item = SizeOf(call.dtype);
    for (int64_t i = 0; i < call.pixels; ++i) {
      for (int64_t k = 0; k < call.y_step; ++k) {
        const char* const at = y.data() + kGuard * item;
        if (k < call.k_begin || k >= call.k_end) {
          for (int64_t b = 0; b < item; ++b) ASSERT_EQ(at[(i * call.y_step + k) * item + b], 0x5a) << "call " << n;
          continue;
        }
        double sum = call.bias[static_cast<size_t>(k)], size = std::fabs(sum);
        if (call.residual) {
          const double r = call.Item(call.residual_bytes.data(), i * call.K + k);
          sum += r;
          size += std::fabs(r);
        }
        for (int64_t c = 0; c < call.cm; ++c) {
          const double term = static_cast<double>(ToFloat(call.Z(i, c))) * ToFloat(call.P(c, k));
          sum += term;
          size += std::fabs(term);
        }
        if (call.relu) sum = std::max(sum, 0.0);
        // Each term passes 16 additions of its chain, one of even to odd, those of the steps, bias and residual; half
        // an epsilon each. Then one rounding to the result's type.
        const double additions = 16 + 1 + static_cast<double>(CeilDiv(call.cm, 32)) + 2;
        double allowed = additions * 0x1p-24 * size;
        if (call.dtype == DType::kBFloat16) allowed += 0x1p-8 * (std::fabs(sum) + allowed);
        ASSERT_NEAR(call.Item(at, i * call.y_step + k), sum, allowed)
            << "call " << n << " pixel " << i << " of " << call.pixels << " channel " << k << " of " << call.K
            << " sum of " << call.cm;
      }
    }
    for (int64_t b = 0; b < kGuard * item; ++b) {
      ASSERT_EQ(y[static_cast<size_t>(b)], 0x5a) << "before, call " << n;
      ASSERT_EQ(y[y.size() - 1 - static_cast<size_t>(b)], 0x5a) << "after, call " << n;
    }
  }
}

// A pixel's bits do not depend on the call that it is part of.
TEST(TilesPointwise, ThePixelsOfACallAreSeparate) {
  std::mt19937 random(3);
  for (int n = 0; n < 40; ++n) {
    Call whole(&random);
    const std::vector<char> y = whole.Run(TilesModel());
    const int64_t item = SizeOf(whole.dtype), row = whole.y_step * item, guard = kGuard * item;
    for (int64_t first : {int64_t{0}, whole.pixels / 3, whole.pixels - 1}) {
      Call part = whole;
      part.pixels = std::min(whole.pixels - first, 1 + whole.pixels / 2);
      part.z.erase(part.z.begin(), part.z.begin() + first * whole.z_stride);
      part.residual_bytes.erase(part.residual_bytes.begin(), part.residual_bytes.begin() + first * whole.K * item);
      const std::vector<char> few = part.Run(TilesModel());
      ASSERT_EQ(std::memcmp(few.data() + guard, y.data() + guard + first * row, static_cast<size_t>(part.pixels * row)),
                0)
          << "call " << n << " from pixel " << first << " of " << whole.pixels;
    }
  }
}

TEST(TilesRound, InPlaceWithZerosAfterTheChannels) {
  std::mt19937 random(4);
  for (int n = 0; n < 60; ++n) {
    const int64_t channels = std::uniform_int_distribution<int64_t>(1, 90)(random);
    const int64_t stride = channels + std::uniform_int_distribution<int64_t>(0, 30)(random), rows = 5;
    std::vector<float> z(static_cast<size_t>(rows * stride));
    for (float& v : z) v = std::normal_distribution<float>()(random);
    const std::vector<float> before = z;
    TilesModel().round({z.data(), stride, rows, channels});
    const BFloat16* const got = reinterpret_cast<const BFloat16*>(z.data());
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t c = 0; c < std::min(RoundUp(channels, 32), 2 * stride); ++c) {
        const float expected = c < channels ? before[static_cast<size_t>(i * stride + c)] : 0.0f;
        ASSERT_EQ(got[i * 2 * stride + c].bits, FromFloat<BFloat16>(expected).bits) << n << " " << i << " " << c;
      }
    }
  }
}

// Products of the backward pass: columns, sums and pixels of all sizes, rows of dZ with zeros of an image's edge
// between.
TEST(TilesBackward, AgreeWithSumsInDouble) {
  std::mt19937 random(6);
  const auto draw = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  const auto numbers = [&](int64_t count) {
    std::vector<BFloat16> v(static_cast<size_t>(count));
    for (BFloat16& x : v) x = FromFloat<BFloat16>(std::normal_distribution<float>()(random));
    return v;
  };
  for (int n = 0; n < 60; ++n) {
    const int64_t row_pixels = draw(1, 24), rows = draw(1, 6), pixels = rows * row_pixels, K = draw(1, 90);
    const int64_t columns = 16 * draw(1, 4), padded_K = RoundUp(K, 32), g_pixel = padded_K + 16 * draw(0, 2);
    std::vector<BFloat16> g = numbers(pixels * g_pixel), panels = numbers(RoundUp(columns, 32) * padded_K);
    for (int64_t i = 0; i < pixels; ++i) std::fill_n(g.begin() + i * g_pixel + K, padded_K - K, BFloat16{0});
    for (int64_t c = 0; c < RoundUp(columns, 32); ++c) {
      for (int64_t k = K; k < padded_K; ++k) {
        panels[static_cast<size_t>(c / 32 * 32 * padded_K + k / 2 * 64 + c % 32 * 2 + k % 2)] = BFloat16{0};
      }
    }
    const int64_t to_pixel = columns + 16, to_row = (row_pixels + 2) * to_pixel;
    std::vector<float> to(static_cast<size_t>(rows * to_row), 7.0f);
    TilesModel().multiply(
        {g.data(), g_pixel, pixels, K, panels.data(), columns, to.data(), to_pixel, to_row, row_pixels, AheadArgs{}});
    for (int64_t i = 0; i < rows * (row_pixels + 2) * to_pixel; ++i) {
      const int64_t row = i / to_row, x = i % to_row / to_pixel, c = i % to_pixel, pixel = row * row_pixels + x;
      if (x >= row_pixels || c >= columns) {
        ASSERT_EQ(to[static_cast<size_t>(i)], 7.0f) << n;
        continue;
      }
      double sum = 0, size = 0;
      for (int64_t k = 0; k < K; ++k) {
        const double p = ToFloat(panels[static_cast<size_t>(c / 32 * 32 * padded_K + k / 2 * 64 + c % 32 * 2 + k % 2)]);
        const double term = ToFloat(g[static_cast<size_t>(pixel * g_pixel + k)]) * p;
        sum += term;
        size += std::fabs(term);
      }
      ASSERT_NEAR(to[static_cast<size_t>(i)], sum, static_cast<double>(17 + padded_K / 32) * 0x1p-24 * size) << n;
    }

    // Two calls into the same sums, the second of which adds.
    const int64_t pairs = CeilDiv(pixels, 2), z_step = 2 * columns, g_step = 2 * padded_K;
    std::vector<BFloat16> z_pairs = numbers(pairs * z_step), g_pairs = numbers(pairs * g_step);
    for (int64_t c = 0; pixels % 2 == 1 && c < columns; ++c) z_pairs[(pairs - 1) * z_step + 2 * c + 1] = BFloat16{0};
    std::vector<float> sums(static_cast<size_t>(columns * padded_K), kNan);
    for (bool first : {true, false}) {
      TilesModel().outer(
          {z_pairs.data(), z_step, columns, g_pairs.data(), g_step, padded_K, pixels, sums.data(), first, AheadArgs{}});
    }
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t k = 0; k < padded_K; ++k) {
        double sum = 0, size = 0;
        for (int64_t i = 0; i < pixels; ++i) {
          const double term = ToFloat(z_pairs[static_cast<size_t>(i / 2 * z_step + 2 * c + i % 2)]) *
                              ToFloat(g_pairs[static_cast<size_t>(i / 2 * g_step + 2 * k + i % 2)]);
          sum += 2 * term;
          size += 2 * std::fabs(term);
        }
        const double got = sums[static_cast<size_t>(k / 32 * 32 * columns + c * 32 + k % 32)];
        ASSERT_NEAR(got, sum, static_cast<double>(17 + 2 * CeilDiv(pairs, 16)) * 0x1p-24 * size) << n;
      }
    }
  }
}

TEST(TilesAmx, TheHardwareGivesTheBitsOfTheModel) {
#if defined(__x86_64__)
  if (GetCpuFeatures().tiles != TileUnit::kAmx) GTEST_SKIP() << GetCpuFeatures().no_tiles;
  std::mt19937 random(5);
  for (int n = 0; n < 300; ++n) {
    Call call(&random);
    ASSERT_EQ(call.Run(TilesAmx()), call.Run(TilesModel())) << "call " << n;
  }
#else
  GTEST_SKIP() << "another architecture";
#endif
}

TEST(Bf16Products, TheFastestIsChosen) {
  EXPECT_EQ(Fastest({232, 112, 3000}), Bf16Products::kTiles);  // an Intel Xeon with AMX
  EXPECT_EQ(Fastest({232, 112, 0}), Bf16Products::kFloat32);   // that refuses them
  EXPECT_EQ(Fastest({112, 224, 0}), Bf16Products::kDots);      // Zen 4
  EXPECT_EQ(Fastest({112, 224, 10}), Bf16Products::kDots);     // tiles that something emulates
  EXPECT_EQ(Fastest({0, 0, 0}), Bf16Products::kFloat32);
}

TEST(Bf16Products, AreWhatTheInstructionSetHas) {
  for (Isa isa : {Isa::kGeneric, Isa::kAvx2}) EXPECT_EQ(Bf16ChoiceOf(isa).products, Bf16Products::kFloat32);
  EXPECT_EQ(Bf16ChoiceOf(Isa::kAmx).products, Bf16Products::kTiles);
  const Bf16Choice choice = Bf16ChoiceOf(Isa::kAvx512);
  EXPECT_EQ(choice.products == Bf16Products::kDots, Bf16Dots());
  EXPECT_NE(choice.why, "");
}

}  // namespace
}  // namespace dwsconv
