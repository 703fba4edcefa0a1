// The remembered plans: of the right chain, for any thread, and never more of them than it says.
#include "cc/plan/plan_cache.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <set>
#include <thread>
#include <vector>

#include "cc/plan/plan_key.h"
#include "cc/plan/testing_chains.h"

namespace {
// Blocks of memory that are in use now: what the cache keeps, one a plan.
std::atomic<int64_t> in_use{0};
}  // namespace

void* operator new(std::size_t size) {
  void* const memory = std::malloc(size > 0 ? size : 1);
  if (memory == nullptr) throw std::bad_alloc();
  ++in_use;
  return memory;
}
void operator delete(void* memory) noexcept {
  if (memory != nullptr) --in_use;
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept { operator delete(memory); }

namespace dwsconv {
namespace {

TEST(CachedPlan, IsThePlannersPlan) {
  Draw draw(1);
  std::vector<Chain> chains;
  std::vector<Machine> machines;
  for (int i = 0; i < 500; ++i) {
    chains.push_back(RandomChain(&draw));
    machines.push_back(RandomMachine(&draw));
  }
  for (int again = 0; again < 2; ++again) {
    for (size_t i = 0; i < chains.size(); ++i) {
      ASSERT_EQ(CachedPlan(chains[i], machines[i]), MakePlan(chains[i], machines[i])) << Told(chains[i], machines[i]);
    }
  }
}

TEST(CachedPlan, TellsApartWhateverThePlannerLooksAt) {
  const Chain p = SameChain(2, 30, 28, 96, 160, 3, 2);
  Machine m;
  m.threads = 4;
  m.l3_bytes = 2 << 20;  // X and Y fill less than half of it, with a residual more
  CachedPlan(p, m);
  const auto check = [](const Chain& chain, const Machine& machine) {
    EXPECT_EQ(CachedPlan(chain, machine), MakePlan(chain, machine)) << Told(chain, machine);
  };
  Chain q = p;
  for (int64_t* field : {&q.N, &q.H, &q.W, &q.C, &q.M, &q.K, &q.R, &q.S, &q.Ho, &q.Wo, &q.stride_h, &q.stride_w,
                         &q.dilation_h, &q.dilation_w, &q.pad_top, &q.pad_left}) {
    const int64_t before = *field;
    for (int64_t value : {before + 1, 5 * before + 7}) {
      *field = value;
      check(q, m);
    }
    *field = before;
  }
  q.dtype = DType::kFloat16, check(q, m);
  q = p, q.has_residual = true, check(q, m);
  q = p, q.E = 20, check(q, m);
  q.E = 500, check(q, m);
  q = p, q.has_project = false, check(q, m);
  q = p, q.has_depthwise = false, check(q, m);
  Machine n = m;
  for (int64_t* field : {&n.l1d_bytes, &n.l2_bytes, &n.l3_bytes}) {
    const int64_t before = *field;
    for (int64_t bytes : {before / 64, before * 64}) {
      *field = bytes;
      check(p, n);
    }
    *field = before;
  }
  n.threads = 1, check(p, n);
  n = m, n.tile_pixels = 14, check(p, n);
  n = m, n.tile_channels = 32, check(p, n);
  n = m, n.vector_floats = 16, check(p, n);
  n = m, n.z_bytes = 2, check(p, n);
  n = m, n.product_rate = 13, check(p, n);
  n = m, n.stream_share = 0.25, check(p, n);
}

TEST(CachedPlan, KeepsABoundedNumber) {
  constexpr int64_t kMost = 4096;
  Machine m;
  CachedPlan(SameChain(1, 4, 4, 4, 4, 3), m);
  const int64_t before = in_use;
  int64_t highest = 0;
  for (int64_t i = 0; i < 5 * kMost; ++i) {
    const Chain p = SameChain(1, 4 + i % 128, 4 + i / 128, 4, 4, 3);
    const Plan plan = CachedPlan(p, m);
    highest = std::max(highest, in_use - before);
    if (i % 97 == 0) {
      ASSERT_EQ(plan, MakePlan(p, m)) << Told(p, m);
    }
  }
  EXPECT_GT(highest, kMost / 2) << "nothing is remembered, or this test does not see it";
  EXPECT_LE(highest, kMost + 64);
  // What was forgotten is planned again.
  for (int64_t i = 0; i < 100; ++i) {
    const Chain p = SameChain(1, 4 + i, 4, 4, 4, 3);
    ASSERT_EQ(CachedPlan(p, m), MakePlan(p, m));
  }
}

TEST(CachedPlan, ASecondCallTakesNoMemory) {
  const Chain p = SameChain(3, 17, 19, 20, 40, 5);
  const Machine m;
  const int64_t before = in_use;
  CachedPlan(p, m);
  const int64_t first = in_use - before;
  for (int again = 0; again < 10; ++again) CachedPlan(p, m);
  EXPECT_LE(first, 2);  // a node, and a larger table now and then
  EXPECT_EQ(in_use - before, first);
}

TEST(CachedPlan, FromManyThreadsWhileItFillsAndForgets) {
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (uint32_t thread = 0; thread < 8; ++thread) {
    threads.emplace_back([thread, &wrong] {
      Machine m;
      for (int64_t i = 0; i < 3000; ++i) {
        // Half of them are asked for by all threads, half by one alone.
        const int64_t own = i % 2 == 0 ? 0 : 1 + thread;
        const Chain p = SameChain(1, 200 + i, 200 + own, 4, 4, 3);
        if (!(CachedPlan(p, m) == MakePlan(p, m))) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(NumbersHash, SpreadsKeysThatDifferInOneNumber) {
  std::set<size_t> found;
  std::array<int64_t, 4> key = {1, 56, 56, 128};
  for (size_t at = 0; at < key.size(); ++at) {
    for (int64_t value = 0; value < 1000; ++value) {
      std::array<int64_t, 4> other = key;
      other[at] = 1000 + value;
      found.insert(NumbersHash()(other));
    }
  }
  EXPECT_GE(found.size(), 3998u);  // of 64 bits, hardly two are alike
}

}  // namespace
}  // namespace dwsconv
