// Whole chains and their gradients with products by tiles, on the model: blocks with every stage, all activations,
// tails of everything, against the plain loops in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "cc/core/cpu_features.h"
#include "cc/core/half.h"
#include "cc/cpu/run/backward.h"
#include "cc/cpu/run/forward.h"
#include "cc/ref/backward_reference.h"
#include "cc/ref/reference.h"

namespace dwsconv {
namespace {

using Numbers = std::vector<BFloat16>;

// Before anything asks what this CPU has.
[[maybe_unused]] const int told = setenv("DWSCONV_TEST_MACHINE", "tiles=model", 1);

constexpr ActivationKind kKinds[] = {
    ActivationKind::kNone,  ActivationKind::kRelu,       ActivationKind::kRelu6,    ActivationKind::kHardSwish,
    ActivationKind::kSilu,  ActivationKind::kGelu,       ActivationKind::kSigmoid,  ActivationKind::kTanh,
    ActivationKind::kElu,   ActivationKind::kMish,       ActivationKind::kGeluTanh, ActivationKind::kLeakyRelu,
    ActivationKind::kPRelu, ActivationKind::kBoundedRelu};

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  int64_t In(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine_); }
  bool Coin() { return In(0, 1) == 1; }
  // `count` numbers around zero of a size that keeps sums over `terms` near one.
  Numbers Draw(int64_t count, int64_t terms = 1) {
    std::normal_distribution<float> number(0, 1 / std::sqrt(static_cast<float>(terms)));
    Numbers v(static_cast<size_t>(count));
    for (BFloat16& x : v) x = FromFloat<BFloat16>(number(engine_));
    return v;
  }

 private:
  std::mt19937 engine_;
};

// Sizes and a window with SAME padding; the stages are up to the caller.
Chain RandomSizes(Random* random) {
  Chain c;
  c.dtype = DType::kBFloat16;
  c.N = random->In(1, 3);
  c.H = random->In(1, 12);
  c.W = random->In(1, 14);
  c.C = random->In(1, 90);
  c.M = random->In(0, 4) == 0 ? 2 : 1;
  c.K = random->In(1, 80);
  c.R = random->In(1, 5);
  c.S = random->In(1, 5);
  c.stride_h = c.stride_w = random->In(1, 2);
  c.dilation_h = c.dilation_w = c.stride_h == 1 ? random->In(1, 2) : 1;
  c.Ho = (c.H + c.stride_h - 1) / c.stride_h;
  c.Wo = (c.W + c.stride_w - 1) / c.stride_w;
  c.pad_top = std::max<int64_t>(0, (c.Ho - 1) * c.stride_h + (c.R - 1) * c.dilation_h + 1 - c.H) / 2;
  c.pad_left = std::max<int64_t>(0, (c.Wo - 1) * c.stride_w + (c.S - 1) * c.dilation_w + 1 - c.W) / 2;
  return c;
}

// The largest difference, by the largest number of what is expected or one.
double Error(const Numbers& got, const Numbers& expected) {
  double largest = 1, error = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double e = ToFloat(expected[i]), g = ToFloat(got[i]);
    largest = std::max(largest, std::fabs(e));
    error = std::isnan(g) ? INFINITY : std::max(error, std::fabs(g - e));
  }
  return error / largest;
}

TEST(TileChains, BlocksAgreeWithThePlainLoops) {
  Random random(8);
  int expanded = 0, rounded = 0;
  for (int n = 0; n < 150; ++n) {
    Chain c = RandomSizes(&random);
    const auto kind = [&] { return kKinds[random.In(0, std::size(kKinds) - 1)]; };
    if (random.Coin()) {
      c.E = random.In(1, 70);
      c.expand.kind = kind();
      if (c.C >= 64) c.M = 1;
    }
    c.mid.kind = kind();
    c.out.kind = kind();
    c.has_expand_bias = c.E > 0 && random.Coin();
    c.has_depthwise_bias = random.Coin();
    c.has_bias = random.Coin();
    c.normalize = random.In(0, 3) == 0;
    c.epsilon = 0.01f;
    c.has_gate = random.In(0, 3) == 0;
    c.has_residual = random.Coin();
    for (Activation* a : {&c.expand, &c.mid, &c.out}) {
      if (a->kind == ActivationKind::kBoundedRelu)
        a->alpha = 0.1f, a->max_value = 1.5f;  // no jump, whose sides rounding would choose
    }
    expanded += c.E > 0;
    rounded += c.float_between() || !IsClamp(c.mid.kind);
    const int64_t pixels = c.N * c.output_pixels();
    Numbers x = random.Draw(c.N * c.H * c.W * c.x_channels()), expand = random.Draw(c.E * c.C, c.E + 1);
    Numbers depthwise = random.Draw(c.R * c.S * c.CM(), c.R * c.S), pointwise = random.Draw(c.CM() * c.K, c.CM());
    Numbers c_bias = random.Draw(c.C), c_slopes = random.Draw(c.C), cm_bias = random.Draw(c.CM());
    Numbers cm_slopes = random.Draw(c.CM()), gate = random.Draw(c.N * c.CM()), k_bias = random.Draw(c.K);
    Numbers k_slopes = random.Draw(c.K), residual = random.Draw(pixels * c.K);
    Numbers got(static_cast<size_t>(pixels * c.K)), again = got, expected = got;
    const auto prelu = [](const Activation& a, Numbers& slopes) {
      return a.kind == ActivationKind::kPRelu ? slopes.data() : nullptr;
    };
    Buffers b;
    b.input = x.data();
    b.expand_filter = c.E > 0 ? expand.data() : nullptr;
    b.expand_bias = c.has_expand_bias ? c_bias.data() : nullptr;
    b.expand_slopes = prelu(c.expand, c_slopes);
    b.depthwise_filter = depthwise.data();
    b.depthwise_bias = c.has_depthwise_bias ? cm_bias.data() : nullptr;
    b.depthwise_slopes = prelu(c.mid, cm_slopes);
    b.gate = c.has_gate ? gate.data() : nullptr;
    b.pointwise_filter = pointwise.data();
    b.bias = c.has_bias ? k_bias.data() : nullptr;
    b.slopes = prelu(c.out, k_slopes);
    b.residual = c.has_residual ? residual.data() : nullptr;
    b.output = expected.data();
    ForwardReference(c, b, 1);
    const int64_t before = ForwardCalls(Isa::kAmx);
    ForwardOptions options;
    options.isa = Isa::kAmx;
    b.output = got.data();
    ASSERT_EQ(Forward(c, b, nullptr, options), "");
    options.num_threads = 3;
    b.output = again.data();
    ASSERT_EQ(Forward(c, b, nullptr, options), "");
    ASSERT_EQ(ForwardCalls(Isa::kAmx), before + 2);
    // A rounding to 8 bits of X times the expansion, of Z and of Y, each of the size of the largest. A norm divides by
    // what may be small: its Z may be as far off as the largest before it.
    ASSERT_LE(Error(got, expected), (c.normalize ? 6 : 3) * 0x1p-8)
        << "chain " << n << ": E " << c.E << " C " << c.C << " M " << c.M << " K " << c.K << " mid "
        << static_cast<int>(c.mid.kind) << " out " << static_cast<int>(c.out.kind) << " norm " << c.normalize
        << " gate " << c.has_gate;
    for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i].bits, again[i].bits) << "chain " << n << ", threads";
  }
  EXPECT_GT(expanded, 40);
  EXPECT_GT(rounded, 40);
}

TEST(TileChains, GradientsAgreeWithThePlainLoops) {
  Random random(9);
  constexpr ActivationKind kSmooth[] = {ActivationKind::kNone, ActivationKind::kSilu, ActivationKind::kTanh};
  for (int n = 0; n < 40; ++n) {
    Chain c = RandomSizes(&random);
    c.mid.kind = kSmooth[random.In(0, 2)];
    c.out.kind = kSmooth[random.In(0, 2)];
    c.has_depthwise_bias = c.has_bias = random.Coin();
    const int64_t pixels = c.N * c.output_pixels(), x_count = c.N * c.H * c.W * c.C;
    Numbers x = random.Draw(x_count), depthwise = random.Draw(c.R * c.S * c.CM(), c.R * c.S);
    Numbers pointwise = random.Draw(c.CM() * c.K, c.CM()), cm_bias = random.Draw(c.CM()), k_bias = random.Draw(c.K);
    Numbers grad = random.Draw(pixels * c.K), y(static_cast<size_t>(pixels * c.K));
    Buffers f;
    f.input = x.data();
    f.depthwise_filter = depthwise.data();
    f.pointwise_filter = pointwise.data();
    f.depthwise_bias = c.has_depthwise_bias ? cm_bias.data() : nullptr;
    f.bias = c.has_bias ? k_bias.data() : nullptr;
    f.output = y.data();
    ForwardReference(c, f, 1);
    BackwardBuffers b;
    b.input = f.input;
    b.depthwise_filter = f.depthwise_filter;
    b.pointwise_filter = f.pointwise_filter;
    b.depthwise_bias = f.depthwise_bias;
    b.bias = f.bias;
    b.output = y.data();
    b.grad = grad.data();
    Numbers found[2][3];
    for (int by_tiles = 0; by_tiles < 2; ++by_tiles) {
      found[by_tiles][0].resize(x.size());
      found[by_tiles][1].resize(depthwise.size());
      found[by_tiles][2].resize(pointwise.size());
      b.d_input = found[by_tiles][0].data();
      b.d_depthwise_filter = found[by_tiles][1].data();
      b.d_pointwise_filter = found[by_tiles][2].data();
      BackwardOptions options;
      options.isa = Isa::kAmx;
      options.num_threads = 2;
      const int64_t before = BackwardCalls(Isa::kAmx);
      if (by_tiles == 1) {
        ASSERT_EQ(Backward(c, b, options), "");
        ASSERT_EQ(BackwardCalls(Isa::kAmx), before + 1);
      } else {
        ASSERT_TRUE(BackwardReference(c, b, 1));
      }
    }
    // As python_tests/gradient: both factors of each product are rounded, and so is the result.
    for (int i = 0; i < 3; ++i) ASSERT_LE(Error(found[1][i], found[0][i]), 0.03) << "chain " << n << " gradient " << i;
  }
}

}  // namespace
}  // namespace dwsconv
