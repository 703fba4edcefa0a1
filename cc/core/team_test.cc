// A team runs each task of each job once, whether its helpers come early, late or never.
#include "cc/core/team.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "cc/core/testing_pools.h"

namespace dwsconv {
namespace {

// One job: each task once, results where the caller sees them.
void CheckJob(Team* team, int threads, int64_t tasks) {
  std::vector<int> runs(static_cast<size_t>(tasks), 0);  // plain: a race would be one for the sanitizer, too
  std::atomic<int64_t> wrong{0};
  ParallelForAhead({threads, team}, tasks, [&](int64_t task, int64_t, int worker) {
    if (worker < 0 || worker >= threads) ++wrong;
    ++runs[static_cast<size_t>(task)];
  });
  EXPECT_EQ(wrong, 0);
  for (int64_t task = 0; task < tasks; ++task) ASSERT_EQ(runs[static_cast<size_t>(task)], 1) << "task " << task;
}

TEST(Team, ManyJobs) {
  for (const int threads : {1, 2, 5}) {
    Team team(threads);
    for (int64_t job = 0; job < 2000; ++job) CheckJob(&team, 1 + static_cast<int>(job % threads), job % 37);
  }
}

TEST(Team, HelpersThatSleptWakeUp) {
  Team team(3);
  for (int i = 0; i < 3; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    CheckJob(&team, 3, 100);
  }
}

TEST(Team, HelpersThatNeverComeOrComeTooLate) {
  Later later;
  {
    Team team({4, &later});
    CheckJob(&team, 4, 100);
  }
  ASSERT_EQ(later.kept.size(), 3u);
  for (const auto& work : later.kept) work();  // returns: the team is gone
}

TEST(Team, APoolThatRunsWorkAtOnce) {
  Now now;
  Team team({4, &now});
  CheckJob(&team, 4, 100);
}

TEST(Team, SeveralAtOnce) {
  std::vector<std::thread> owners;
  for (int owner = 0; owner < 4; ++owner) {
    owners.emplace_back([] {
      for (int call = 0; call < 20; ++call) {
        Team team(3);
        for (int64_t job = 0; job < 50; ++job) CheckJob(&team, 3, 10);
      }
    });
  }
  for (std::thread& owner : owners) owner.join();
}

}  // namespace
}  // namespace dwsconv
