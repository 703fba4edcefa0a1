// Backward plans of random layers on random machines: blocks and chunks cover all channels and pixels, whoever
// computes.
#include "cc/plan/backward_plan.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "cc/plan/testing_chains.h"

namespace dwsconv {
namespace {

TEST(BackwardPlan, BlocksAndChunksCoverEverythingOnce) {
  Draw draw(1);
  int64_t blocked = 0;
  for (int i = 0; i < 2000; ++i) {
    const Chain p = RandomChain(&draw);
    const Machine m = RandomMachine(&draw);
    const BackwardPlan plan = MakeBackwardPlan(p, m);
    SCOPED_TRACE(Told(p, m));
    const int64_t channels = p.C * plan.times;
    ASSERT_TRUE(plan.times == 1 || plan.times == p.M);
    ASSERT_GE(plan.blocks * plan.block_channels, channels);
    ASSERT_LT((plan.blocks - 1) * plan.block_channels, channels) << "the last block is empty";
    ASSERT_EQ(plan.block_channels % plan.times, 0) << "a channel's multipliers are in two blocks";
    ASSERT_GE(plan.block_rows, 1);
    ASSERT_LE(plan.block_rows, p.Ho);
    ASSERT_GE(plan.pieces, 1);
    ASSERT_LE(plan.pieces, p.Ho);
    if (plan.pieces > 1) {
      ASSERT_EQ(plan.chunks, p.N * plan.pieces);
    } else {
      ASSERT_LE(plan.chunks, p.N);
    }
    ASSERT_EQ(plan.tasks(), plan.chunks * plan.blocks);
    ASSERT_GE(plan.padded_channels, plan.block_channels);
    ASSERT_EQ(plan.padded_channels % kBackwardQuantum, 0);
    ASSERT_GE(plan.padded_K, p.K);
    ASSERT_GE(plan.scratch_floats, plan.x_floats + plan.z_floats + plan.dz_floats + plan.g_floats);
    // Strides between pixels are odd multiples of a cache line.
    for (int64_t stride : {plan.x_stride, plan.z_stride, plan.g_stride}) ASSERT_EQ(stride % 32, 16);
    blocked += plan.blocked;
  }
  EXPECT_GT(blocked, 1000);
}

TEST(BackwardPlan, DoesNotDependOnTheThreads) {
  Draw draw(2);
  for (int i = 0; i < 500; ++i) {
    const Chain p = RandomChain(&draw);
    Machine m = RandomMachine(&draw);
    const BackwardPlan plan = MakeBackwardPlan(p, m);
    m.threads = m.threads == 1 ? 7 : 1;
    const BackwardPlan other = MakeBackwardPlan(p, m);
    // A sum over pixels belongs to a chunk: other chunks would round in another order.
    ASSERT_EQ(plan.chunks, other.chunks) << Told(p, m);
    ASSERT_EQ(plan.pieces, other.pieces) << Told(p, m);
    ASSERT_EQ(plan.block_channels, other.block_channels) << Told(p, m);
    ASSERT_EQ(plan.block_rows, other.block_rows) << Told(p, m);
  }
}

TEST(BackwardPlan, AGeometryThatNoScratchHoldsGoesToPlainLoops) {
  Chain p = SameChain(1, 64, 64, 64, 64, 3);
  const Machine m;
  EXPECT_TRUE(MakeBackwardPlan(p, m).blocked);
  // Products of these do not fit into 64 bits: nothing may wrap around to a size that looks sane.
  for (const int64_t dilation : {int64_t{1} << 20, int64_t{1} << 32, int64_t{1} << 40, int64_t{1} << 60}) {
    p.dilation_h = p.dilation_w = dilation;
    p.pad_top = p.pad_left = dilation;
    const BackwardPlan plan = MakeBackwardPlan(p, m);
    EXPECT_FALSE(plan.blocked) << dilation;
    EXPECT_GT(plan.scratch_floats, 0) << dilation;
  }
}

TEST(FinishBackwardPlan, TakesTheBlocksThatItIsGiven) {
  const Chain p = SameChain(2, 20, 20, 100, 50, 3);
  const Machine m;
  for (const int64_t channels : {int64_t{1}, int64_t{16}, int64_t{40}, int64_t{100}, int64_t{1} << 60}) {
    for (const int64_t rows : {int64_t{1}, int64_t{7}, int64_t{20}, int64_t{1} << 60}) {
      const BackwardPlan plan = FinishBackwardPlan(p, m, channels, rows);
      EXPECT_EQ(plan.block_rows, std::min<int64_t>(rows, 20));
      EXPECT_GE(plan.blocks * plan.block_channels, 100);
      EXPECT_LE(plan.block_channels, 100);
      if (channels >= 100) {
        EXPECT_EQ(plan.blocks, 1);
      }
      if (channels <= 16) {
        EXPECT_EQ(plan.block_channels, 16);
      }
    }
  }
}

}  // namespace
}  // namespace dwsconv
