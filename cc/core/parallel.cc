#include "cc/core/parallel.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <cstdlib>
#include <memory>
#include <thread>

#include "cc/core/cpu_features.h"

namespace dwsconv {
namespace {

// Hands out runs of tasks. A counter of our own instead of OpenMP's schedules: when the runtime gives fewer threads
// than asked for (nested regions, limits, a busy pool), the same code still runs every task.
class Dealer {
 public:
  Dealer(int threads, int64_t tasks) : threads_(threads), tasks_(tasks) { std::fegetenv(&floats_); }

  bool Empty() const { return next_.load() >= tasks_; }

  void Work(const RunBody& body, int worker) {
    // Rounding and the flushing of subnormals are the caller's on every worker: TensorFlow flushes in its threads, and
    // a worker keeps what the thread that started it had, so results would depend on who takes which task.
    std::fenv_t own;
    std::fegetenv(&own);
    std::fesetenv(&floats_);
    int64_t begin = next_.load();
    while (begin < tasks_) {
      const int64_t run = std::max<int64_t>(1, (tasks_ - begin) / (2 * threads_));
      if (next_.compare_exchange_weak(begin, begin + run)) {
        body(begin, begin + run, worker);
        begin = next_.load();
      }
    }
    std::fesetenv(&own);
  }

 private:
  const int threads_;
  const int64_t tasks_;
  std::atomic<int64_t> next_{0};
  std::fenv_t floats_;
};

void RunOnOpenMp(int threads, int64_t tasks, const RunBody& body) {
  Dealer dealer(threads, tasks);
#pragma omp parallel num_threads(threads)
  dealer.Work(body, omp_get_thread_num());
}

// What the caller and its helpers on a pool share. A helper that the pool starts only after all the work is gone must
// find it still there, and leave; so it is owned by whoever is last.
struct Shared {
  Shared(int threads, int64_t tasks, const RunBody* body) : dealer(threads, tasks), body(body) {}
  Dealer dealer;
  const RunBody* body;  // the caller's: valid while a helper that counts as active has work
  std::atomic<int> active{0};
};

void RunOnPool(ThreadPool* pool, int threads, int64_t tasks, const RunBody& body) {
  const auto shared = std::make_shared<Shared>(threads, tasks, &body);
  for (int worker = 1; worker < threads; ++worker) {
    pool->Schedule([shared, worker] {
      // In this order: once the caller has seen the dealer empty and nobody active, no helper touches the body.
      shared->active.fetch_add(1);
      if (!shared->dealer.Empty()) shared->dealer.Work(*shared->body, worker);
      shared->active.fetch_sub(1);
    });
  }
  shared->dealer.Work(body, 0);
  // The others are within a task of their end: not worth a sleep, unless their cores are taken.
  for (int spins = 0; shared->active.load() > 0; ++spins) {
    if (spins > 1000) std::this_thread::yield();
  }
}

}  // namespace

void ParallelForRuns(const Workers& workers, int64_t tasks, const RunBody& body) {
  if (tasks <= 0) return;
  const int threads = static_cast<int>(std::min<int64_t>(workers.threads, tasks));
  if (threads <= 1) {
    body(0, tasks, 0);
  } else if (workers.pool != nullptr) {
    RunOnPool(workers.pool, threads, tasks, body);
  } else {
    RunOnOpenMp(threads, tasks, body);
  }
}

void ParallelFor(const Workers& workers, int64_t tasks, const TaskBody& body) {
  ParallelForRuns(workers, tasks, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t t = begin; t < end; ++t) body(t, worker);
  });
}

int ResolveThreads(int requested) {
  if (requested > 0) return requested;
  if (const char* word = std::getenv("DWSCONV_NUM_THREADS")) {
    char* end = nullptr;
    const long value = std::strtol(word, &end, 10);
    if (end != word && *end == '\0' && value > 0 && value <= 1024) return static_cast<int>(value);
  }
  return GetCpuFeatures().cores;
}

}  // namespace dwsconv
