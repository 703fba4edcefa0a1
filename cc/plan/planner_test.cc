// Plans of random layers on random machines: what every executor takes for granted of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "cc/plan/plan.h"
#include "cc/plan/testing_chains.h"
#include "cc/plan/tuned_plans.h"

namespace dwsconv {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

TEST(MakePlan, BlocksCoverTheOutputAndFit) {
  Draw draw(1);
  for (int i = 0; i < 3000; ++i) {
    const Chain p = RandomChain(&draw);
    const Machine m = RandomMachine(&draw);
    const Plan plan = MakePlan(p, m);
    SCOPED_TRACE(Told(p, m));
    ASSERT_GT(plan.block_pixels, 0);
    ASSERT_LE(plan.block_pixels, p.output_pixels());
    ASSERT_GT(plan.block_channels, 0);
    ASSERT_LE(plan.block_channels, p.K);
    ASSERT_TRUE(plan.block_channels == p.K || plan.block_channels % m.tile_channels == 0) << plan;
    // A task for each block of each image, none too many: the last of each is not empty.
    const int64_t blocks = CeilDiv(p.output_pixels(), plan.block_pixels), shares = CeilDiv(p.K, plan.block_channels);
    ASSERT_EQ(plan.tasks, p.N * blocks * shares) << plan;
    ASSERT_GE(plan.threads, 1);
    ASSERT_LE(plan.threads, std::min<int64_t>(m.threads, plan.tasks)) << plan;
    // Scratch holds a whole row of Z for each pixel of a block, and what is copied of X.
    ASSERT_GE(plan.z_stride, p.CM());
    ASSERT_GE(plan.scratch_bytes, plan.block_pixels * plan.z_stride * m.z_bytes + plan.repeat_bytes) << plan;
    ASSERT_EQ(plan.repeat_bytes > 0, RepeatsInput(p, m.vector_floats)) << plan;
    ASSERT_FALSE(plan.tuned);
    ASSERT_EQ(MakePlan(p, m), plan) << "the second time";
  }
}

TEST(MakePlan, DenseConvolutionsReadWindowsOfWholeRowsOrOfOneRow) {
  Draw draw(4);
  int64_t windows = 0, parts = 0;
  for (int i = 0; i < 6000; ++i) {
    Chain p = RandomChain(&draw);
    p.has_depthwise = false, p.M = 1;
    Machine m = RandomMachine(&draw);
    m.product_depth = draw.Coin() ? 1 : 2;
    const Plan plan = MakePlan(p, m);
    SCOPED_TRACE(Told(p, m));
    ASSERT_EQ(plan.windows, ReadsWindows(p, m));
    if (!plan.windows) continue;
    ASSERT_EQ(p.dilation_w, 1);
    ASSERT_EQ(p.S * p.C % m.product_depth, 0);
    ASSERT_FALSE(IsPointwise(p));
    ASSERT_TRUE(plan.block_pixels < p.Wo || plan.block_pixels % p.Wo == 0) << plan;
    ASSERT_TRUE(plan.block_channels == p.K || plan.block_channels % m.tile_channels == 0) << plan;
    // What lies below a block's windows: of all rows between the first and the last.
    const int64_t rows = std::max<int64_t>(1, plan.block_pixels / p.Wo), columns = std::min(plan.block_pixels, p.Wo);
    const int64_t high = (rows - 1) * p.stride_h + (p.R - 1) * p.dilation_h + 1;
    ASSERT_EQ(plan.scratch_bytes, high * ((columns - 1) * p.stride_w + p.S) * p.C * m.z_bytes) << plan;
    // Beyond that the smallest block there is: a row, or the columns of a register tile.
    ASSERT_TRUE(plan.scratch_bytes <= std::min<int64_t>(1 << 20, m.l2_bytes / 2) ||
                plan.block_pixels <= std::min<int64_t>(m.tile_pixels, p.Wo))
        << plan;
    ++windows;
    parts += plan.block_pixels < p.Wo;
  }
  EXPECT_GT(windows, 300);
  EXPECT_GT(parts, 30);
}

TEST(GroupsAsImages, TakesNarrowGroupsTogether) {
  const auto of = [](int64_t groups, int64_t C, int64_t K) {
    Chain c;
    c.N = 2;
    c.groups = groups;
    c.C = groups * C;
    c.K = groups * K;
    const Chain one = GroupsAsImages(c, 16);
    EXPECT_EQ(one.N, 2 * one.groups);
    EXPECT_EQ(one.groups * one.C, c.C);
    EXPECT_EQ(one.groups * one.K, c.K);
    return c.groups / one.groups;
  };
  EXPECT_EQ(of(1, 8, 8), 1);
  EXPECT_EQ(of(3, 64, 64), 1);
  EXPECT_EQ(of(2, 16, 16), 1);
  EXPECT_EQ(of(4, 8, 8), 2);
  EXPECT_EQ(of(13, 8, 8), 1);  // nothing divides them
  EXPECT_EQ(of(32, 4, 4), 4);
  EXPECT_EQ(of(6, 5, 3), 3);  // six would have 18 channels, two vectors
  EXPECT_EQ(of(4, 8, 12), 1);
}

TEST(MakePlan, IsOneThatTheTunersFileMayAskFor) {
  Draw draw(2);
  for (int i = 0; i < 3000; ++i) {
    const Chain p = i % 2 == 0 ? RandomChain(&draw) : RandomExpanded(&draw);
    const Machine m = RandomMachine(&draw);
    const Plan plan = MakePlan(p, m);
    Plan again;
    ASSERT_EQ(ApplyPlanChoice(p, m, ChoiceOf(plan), &again), "") << Told(p, m) << ": " << plan;
    ASSERT_EQ(again, plan) << Told(p, m);
  }
}

TEST(MakePlan, ScratchStaysSmallWhateverTheL2) {
  Draw draw(3);
  int64_t held = 0;
  for (int i = 0; i < 3000; ++i) {
    const Chain p = RandomChain(&draw);
    const Machine m = RandomMachine(&draw);
    const Plan plan = MakePlan(p, m);
    const int64_t most = std::min<int64_t>(1 << 20, m.l2_bytes / 2);
    // Two register tiles may be more than that; then there is nothing to choose.
    Plan pixel;
    pixel.block_pixels = pixel.block_channels = pixel.threads = 1;
    FinishPlan(p, m, &pixel);
    if (p.M > 1 || 2 * pixel.scratch_bytes * m.tile_pixels > most) continue;
    ASSERT_LE(plan.scratch_bytes, most) << Told(p, m) << ": " << plan;
    ++held;
  }
  EXPECT_GT(held, 500);
}

TEST(MakePlan, FewPixelsOfVeryManyChannels) {
  Machine m;
  m.tile_pixels = 14;
  for (int64_t width = 1; width <= 14; ++width) {
    for (int64_t channels : {10000, 20000, 50000, 300000}) {
      const Chain p = SameChain(1, 1, width, channels, 8, 1);
      const Plan plan = MakePlan(p, m);
      ASSERT_TRUE(0 < plan.block_pixels && plan.block_pixels <= width) << Told(p, m) << ": " << plan;
    }
  }
}

TEST(MakePlan, ThreadsFollowTheWork) {
  Machine m;
  m.threads = 8;
  EXPECT_EQ(MakePlan(SameChain(1, 8, 8, 8, 8, 3), m).threads, 1);
  EXPECT_EQ(MakePlan(SameChain(8, 56, 56, 128, 128, 3), m).threads, 8);
  // Never more threads than tasks, whatever there is to do.
  const Plan one_pixel = MakePlan(SameChain(1, 1, 1, 100000, 8, 1), m);
  EXPECT_LE(one_pixel.threads, one_pixel.tasks);
}

TEST(MakePlan, StoresAroundTheCachesWhereTheyHoldNotHalf) {
  const Chain p = SameChain(1, 64, 64, 32, 32, 3);  // X and Y are 512 KiB each
  Machine m;
  m.l3_bytes = 2 << 20;
  EXPECT_FALSE(MakePlan(p, m).stream);
  m.l3_bytes -= 2;
  EXPECT_TRUE(MakePlan(p, m).stream);
  m.stream_share = std::numeric_limits<double>::infinity();  // where it would not pay
  EXPECT_FALSE(MakePlan(p, m).stream);
}

TEST(MakePlan, SizesNearTheEndOf64Bits) {
  // Sizes that Infer lets through: every product of them fits, their double need not.
  Machine m;
  m.threads = 64;
  for (const Chain& p : {SameChain(int64_t{1} << 52, 8, 8, 4, 4, 3), SameChain(1, 1 << 26, 1 << 26, 64, 64, 3),
                         SameChain(1, 4, 4, int64_t{1} << 54, 8, 3), SameChain(1, 4, 4, 8, int64_t{1} << 54, 3)}) {
    SCOPED_TRACE(Told(p, m));
    const Plan plan = MakePlan(p, m);
    EXPECT_TRUE(0 < plan.block_pixels && plan.block_pixels <= p.output_pixels());
    EXPECT_TRUE(0 < plan.block_channels && plan.block_channels <= p.K);
    EXPECT_EQ(plan.tasks, p.N * CeilDiv(p.output_pixels(), plan.block_pixels) * CeilDiv(p.K, plan.block_channels));
    EXPECT_GE(plan.scratch_bytes, plan.block_pixels * plan.z_stride * m.z_bytes);
    EXPECT_GT(ModelledBytes(p, m, plan), 0);
  }
}

TEST(ModelledBytes, IsAtLeastWhatHasToMove) {
  Draw draw(4);
  for (int i = 0; i < 1000; ++i) {
    const Chain p = RandomChain(&draw);
    const Machine m = RandomMachine(&draw);
    const double once =
        static_cast<double>(SizeOf(p.dtype)) * static_cast<double>(p.N * (p.H * p.W * p.C + p.output_pixels() * p.K));
    ASSERT_GE(ModelledBytes(p, m, MakePlan(p, m)), once) << Told(p, m);
  }
}

TEST(RepeatsInput, LeavesOutWhatGainsNothing) {
  Chain p = SameChain(1, 8, 8, 16, 4, 3);
  EXPECT_FALSE(RepeatsInput(p, 16));  // one multiplier: there is nothing to repeat
  p.M = 4;
  EXPECT_FALSE(RepeatsInput(p, 16));  // channels fill their vectors
  p.C = 3;
  EXPECT_TRUE(RepeatsInput(p, 16));  // 12 of 16 lanes in the place of 3
  // A window whose product with the channels does not fit into 64 bits is no reason to crash.
  p.dilation_h = p.dilation_w = int64_t{1} << 40;
  EXPECT_FALSE(RepeatsInput(p, 16));
}

TEST(PackedPixels, FillWholeVectors) {
  for (int64_t channels = 1; channels <= 40; ++channels) {
    for (const int vector : {4, 8, 16}) {
      const int64_t pixels = PackedPixels(SameChain(1, 8, 8, channels, 4, 3), vector);
      ASSERT_EQ(pixels > 0, 2 * channels <= vector) << channels << " " << vector;
      if (pixels > 0) {
        ASSERT_EQ(pixels * channels % vector, 0) << channels << " " << vector;
      }
    }
  }
  EXPECT_EQ(PackedPixels(SameChain(1, 8, 8, 3, 4, 3, 2), 16), 0);  // neighbours in X are none in Y
}

}  // namespace
}  // namespace dwsconv
