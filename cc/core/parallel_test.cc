// Tasks that are shared out: each runs once, whoever comes to help and however late.
#include "cc/core/parallel.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cfenv>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cc/core/cpu_features.h"
#include "cc/core/testing_pools.h"

namespace dwsconv {
namespace {

// Each piece of work gets a thread of its own, until the pool ends.
class Threads : public ThreadPool {
 public:
  ~Threads() override { Join(); }
  void Schedule(std::function<void()> work) override { threads_.emplace_back(std::move(work)); }
  void Join() {
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  std::vector<std::thread> threads_;
};

// Runs tasks and holds what is promised of all of them, whatever the workers.
void CheckRun(const Workers& workers, int64_t tasks) {
  std::vector<int> runs(static_cast<size_t>(tasks), 0);  // plain: a race would be one for the sanitizer, too
  std::vector<std::atomic<int>> busy(static_cast<size_t>(workers.threads));
  std::atomic<int64_t> wrong{0}, ran{0};
  ParallelForAhead(workers, tasks, [&](int64_t task, int64_t next, int worker) {
    const bool known = task >= 0 && task < tasks && worker >= 0 && worker < workers.threads;
    const bool ahead = next == -1 || (next >= 0 && next < tasks && next != task);
    if (!known || !ahead || busy[static_cast<size_t>(worker)].fetch_add(1) != 0) {
      ++wrong;
      return;
    }
    ++runs[static_cast<size_t>(task)];
    ++ran;
    busy[static_cast<size_t>(worker)].fetch_sub(1);
  });
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(ran, tasks);
  for (int64_t task = 0; task < tasks; ++task) ASSERT_EQ(runs[static_cast<size_t>(task)], 1) << "task " << task;
}

TEST(ParallelFor, EachTaskRunsOnceOnOwnThreads) {
  for (const int threads : {1, 2, 3, 8, 64}) {
    for (const int64_t tasks : {0, 1, 2, 3, 7, 64, 1000, 100000}) {
      SCOPED_TRACE(std::to_string(threads) + " threads, " + std::to_string(tasks) + " tasks");
      CheckRun(threads, tasks);
    }
  }
}

TEST(ParallelFor, EachTaskRunsOnceOnAPool) {
  for (int again = 0; again < 200; ++again) {
    Threads pool;
    CheckRun({5, &pool}, 1 + 3 * again);
  }
}

TEST(ParallelFor, APoolThatRunsWorkAtOnce) {
  Now pool;
  CheckRun({4, &pool}, 1000);
}

TEST(ParallelFor, OneThreadGoesInOrder) {
  std::vector<int64_t> order, ahead;
  ParallelForAhead(1, 5, [&](int64_t task, int64_t next, int worker) {
    EXPECT_EQ(worker, 0);
    order.push_back(task);
    ahead.push_back(next);
  });
  EXPECT_EQ(order, (std::vector<int64_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(ahead, (std::vector<int64_t>{1, 2, 3, 4, -1}));
}

TEST(ParallelFor, ACallerWithoutHelpDoesAllAndLatecomersNothing) {
  Later pool;
  std::atomic<int> ran{0};
  {
    const AheadBody body = [&ran](int64_t, int64_t, int) { ++ran; };
    ParallelForAhead({4, &pool}, 100, body);
  }
  EXPECT_EQ(ran, 100);
  ASSERT_EQ(pool.kept.size(), 3u);
  // The body is gone by now: a helper that touched it would crash, or count.
  for (const auto& work : pool.kept) work();
  EXPECT_EQ(ran, 100);
}

TEST(ParallelFor, WhoIsHeldUpLosesItsTasksToOthers) {
  // Task 0 waits until all others are done, so its worker's other tasks have to be taken by somebody else.
  Threads pool;
  constexpr int64_t kTasks = 64;
  std::atomic<int64_t> done{0};
  std::atomic<bool> all{true};
  ParallelFor({2, &pool}, kTasks, [&](int64_t task, int) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (task == 0 && done < kTasks - 1) {
      std::this_thread::yield();
      if (std::chrono::steady_clock::now() > end) {
        all = false;
        break;
      }
    }
    ++done;
  });
  EXPECT_TRUE(all) << "the rest of its run was never taken";
  EXPECT_EQ(done, kTasks);
}

TEST(ParallelFor, AllHaveEndedWhenItReturns) {
  for (int again = 0; again < 50; ++again) {
    Threads pool;
    std::atomic<int> inside{0};
    ParallelFor({4, &pool}, 16, [&](int64_t, int) {
      ++inside;
      std::this_thread::sleep_for(std::chrono::microseconds(50));
      --inside;
    });
    ASSERT_EQ(inside, 0);
  }
}

TEST(ParallelFor, AWorkerRoundsAsTheCallerDoesAndThenAsBefore) {
  Later pool;
  std::thread helper;
  std::atomic<bool> helped{false};
  std::atomic<int> during{-1}, after{-1};
  std::fesetround(FE_DOWNWARD);
  ParallelFor({2, &pool}, 2, [&](int64_t, int worker) {
    if (worker == 1) {
      during = std::fegetround();
      helped = true;
      return;
    }
    // Only now comes help, from a thread that rounds in its own way. It finds the other task untouched.
    helper = std::thread([&] {
      std::fesetround(FE_TOWARDZERO);
      pool.kept[0]();
      after = std::fegetround();
    });
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!helped && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  });
  std::fesetround(FE_TONEAREST);
  helper.join();
  EXPECT_EQ(during, FE_DOWNWARD);
  EXPECT_EQ(after, FE_TOWARDZERO);
}

TEST(ParallelFor, ManyCallersAtATime) {
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 8; ++caller) {
    callers.emplace_back([] {
      for (int again = 0; again < 50; ++again) CheckRun(4, 100);
    });
  }
  for (std::thread& caller : callers) caller.join();
}

TEST(ParallelFor, InsideATask) {
  std::atomic<int64_t> ran{0};
  ParallelFor(3, 20, [&](int64_t, int) { ParallelFor(3, 20, [&](int64_t, int) { ++ran; }); });
  EXPECT_EQ(ran, 400);
}

TEST(ParallelFor, AChildOfAForkHasThreadsToo) {
  CheckRun(4, 1000);  // the parent has its threads by now
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(60);  // a child that waits for its parent's threads is killed
    std::atomic<int64_t> ran{0};
    for (int again = 0; again < 20; ++again) ParallelFor(4, 1000, [&](int64_t, int) { ++ran; });
    _exit(ran == 20000 ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(ResolveThreads, TheCallThenTheVariableThenTheCores) {
  const int cores = GetCpuFeatures().cores;
  unsetenv("DWSCONV_NUM_THREADS");
  EXPECT_EQ(ResolveThreads(0), cores);
  EXPECT_EQ(ResolveThreads(-3), cores);
  EXPECT_EQ(ResolveThreads(5), 5);
  for (const char* good : {"1", "7", "1024"}) {
    setenv("DWSCONV_NUM_THREADS", good, 1);
    EXPECT_EQ(ResolveThreads(0), std::stoi(good));
    EXPECT_EQ(ResolveThreads(5), 5);
  }
  for (const char* bad : {"", "0", "-2", "1025", "two", "2x", "99999999999999999999"}) {
    setenv("DWSCONV_NUM_THREADS", bad, 1);
    EXPECT_EQ(ResolveThreads(0), cores) << bad;
  }
  unsetenv("DWSCONV_NUM_THREADS");
}

}  // namespace
}  // namespace dwsconv
