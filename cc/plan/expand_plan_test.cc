// Plans of chains that begin with an expansion: strips cover the output, and find their rows inside the image.
#include "cc/plan/expand_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>

#include "cc/plan/testing_chains.h"

namespace dwsconv {
namespace {

TEST(ExpandPlan, RowsAndChannelsAreWithinTheChain) {
  Draw draw(1);
  int64_t pieces = 0, by_channels = 0, strips = 0;
  for (int i = 0; i < 3000; ++i) {
    const Chain p = RandomExpanded(&draw);
    const Machine m = RandomMachine(&draw);
    const Plan plan = MakePlan(p, m);
    SCOPED_TRACE(Told(p, m));
    ASSERT_GE(plan.rows, 1);
    ASSERT_LE(plan.rows, p.Ho);
    ASSERT_GE(plan.channels, 1);
    ASSERT_LE(plan.channels, p.C);
    ASSERT_TRUE(plan.channels == p.C || plan.channels % m.tile_channels == 0) << plan.channels;
    ASSERT_GE(plan.threads, 1);
    ASSERT_LE(plan.threads, m.threads);
    ASSERT_GE(plan.z_stride, p.CM());
    if (plan.by_channels) {
      ASSERT_EQ(plan.rows, p.Ho) << "a task is whole images";
      ASSERT_GE(plan.z_bytes, p.N * p.output_pixels() * plan.z_stride * m.z_bytes);
    } else {
      ASSERT_GE(plan.z_bytes, plan.rows * p.Wo * plan.z_stride * m.z_bytes);
      ASSERT_GE(plan.scratch_bytes, plan.a_bytes + plan.z_bytes);
    }
    // Channels by pieces are of whole images: a strip keeps all channels of the rows that the next one reads again.
    if (plan.channels < p.C) {
      ASSERT_EQ(plan.rows, p.Ho);
    }
    // A holds the rows that a strip reads, at least of the pieces of their channels.
    ASSERT_GE(plan.strips, 1);
    ASSERT_LE(plan.strips, p.Ho);
    for (int64_t strip = 0; strip < plan.strips; ++strip) {
      const int64_t first = strip * p.Ho / plan.strips, last = (strip + 1) * p.Ho / plan.strips;
      ASSERT_LE(last - first, plan.rows);
      int64_t begin, end;
      RowsRead(p, first, last, &begin, &end);
      ASSERT_GE(plan.a_bytes, (end - begin) * p.W * plan.channels * m.z_bytes);
    }
    pieces += plan.channels < p.C, by_channels += plan.by_channels, strips += plan.strips > 1;
  }
  EXPECT_TRUE(pieces > 20 && by_channels > 20 && strips > 100) << pieces << " " << by_channels << " " << strips;
}

// A block of MobileNetV2 at batch 1, on a machine with 512 KB of L2.
Chain Block(int64_t side, int64_t expansion, int64_t channels) {
  Chain p;
  p.N = p.M = p.stride_h = p.stride_w = p.dilation_h = p.dilation_w = 1;
  p.H = p.W = p.Ho = p.Wo = side;
  p.E = expansion;
  p.C = channels;
  p.K = expansion;
  p.R = p.S = 3;
  p.pad_top = p.pad_left = 1;
  p.has_depthwise = p.has_project = true;
  return p;
}

Machine TwoThreads() {
  Machine m;
  m.threads = 2;
  m.l2_bytes = 512 << 10;
  m.vector_floats = 8;
  m.tile_channels = 16;
  m.costs = {2.2, 1.5, 3.3, 3, 4, 0.25, 500, 8000, 1.25};
  return m;
}

TEST(ExpandPlan, ThreadsGetEqualShares) {
  // 7 rows would be 4 + 3, and A's rows between them twice.
  const Plan channels = MakePlan(Block(7, 160, 960), TwoThreads());
  EXPECT_TRUE(channels.by_channels);
  EXPECT_EQ(channels.tasks % 2, 0);
  EXPECT_EQ(960 % channels.channels, 0);
  // Nine panels of channels would be 5 + 4; rows are 14 + 14. Of 14 rows 8 are read for 7, which costs less than Z of
  // two cores.
  for (const Chain& p : {Block(28, 24, 144), Block(14, 64, 384)}) {
    const Plan strips = MakePlan(p, TwoThreads());
    EXPECT_FALSE(strips.by_channels);
    EXPECT_EQ(strips.strips % 2, 0);
  }
  EXPECT_GT(MakePlan(Block(28, 24, 144), TwoThreads()).strips, 2);
}

TEST(RowsRead, AreThoseUnderTheTaps) {
  Draw draw(2);
  for (int i = 0; i < 3000; ++i) {
    const Chain p = RandomChain(&draw);
    const int64_t first = draw(0, p.Ho - 1), last = draw(first + 1, p.Ho);
    int64_t begin, end, least = p.H, most = -1;
    RowsRead(p, first, last, &begin, &end);
    ASSERT_TRUE(0 <= begin && begin <= end && end <= p.H) << begin << " " << end;
    for (int64_t row = first; row < last; ++row) {
      for (int64_t r = 0; r < p.R; ++r) {
        const int64_t at = row * p.stride_h - p.pad_top + r * p.dilation_h;
        if (at < 0 || at >= p.H) continue;
        least = std::min(least, at), most = std::max(most, at);
      }
    }
    if (most < 0) continue;  // all taps are in the padding
    EXPECT_LE(begin, least) << Told(p, Machine());
    EXPECT_GE(end, most + 1) << Told(p, Machine());
    // Not a row too many at either end, unless the window's holes are there.
    if (p.dilation_h == 1) {
      EXPECT_EQ(begin, least) << Told(p, Machine());
      EXPECT_EQ(end, most + 1) << Told(p, Machine());
    }
  }
}

}  // namespace
}  // namespace dwsconv
