#include "cc/core/parallel.h"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include "cc/core/cpu_features.h"
#include "cc/core/own_threads.h"
#include "cc/core/team.h"

namespace dwsconv {
namespace {

// Hands out tasks: a run of consecutive ones to each worker, and to who has done his, half of what another has left.
// When there come fewer workers than asked for (limits, a busy pool, taken cores), the same code still runs every task.
class Dealer {
 public:
  Dealer(int threads, int64_t tasks)
      : tasks_(tasks), unit_(tasks / kMostUnits + 1), runs_(static_cast<size_t>(threads)) {
    std::fegetenv(&floats_);
    const int64_t units = (tasks + unit_ - 1) / unit_;
    for (int w = 0; w < threads; ++w) {
      runs_[w].left.store(Pack(units * w / threads, units * (w + 1) / threads), std::memory_order_relaxed);
    }
  }

  bool Empty() const {
    return std::all_of(runs_.begin(), runs_.end(), [](const Run& run) { return Length(run.left.load()) == 0; });
  }

  void Work(const AheadBody& body, int worker) {
    // Rounding and the flushing of subnormals are the caller's on every worker: TensorFlow flushes in its threads, and
    // a worker keeps what the thread that started it had, so results would depend on who takes which task.
    std::fenv_t own;
    std::fegetenv(&own);
    std::fesetenv(&floats_);
    int64_t unit, next;
    while (Take(&runs_[worker], &unit, &next) || Steal(worker, &unit, &next)) {
      const int64_t begin = unit * unit_, end = std::min(tasks_, begin + unit_);
      for (int64_t task = begin; task < end; ++task) {
        body(task, task + 1 < end ? task + 1 : next < 0 ? -1 : next * unit_, worker);
      }
    }
    std::fesetenv(&own);
  }

 private:
  // [first, end) of units, in one word that changes in one step.
  using Packed = uint64_t;
  static Packed Pack(int64_t first, int64_t end) { return static_cast<Packed>(first) << 32 | static_cast<Packed>(end); }
  static int64_t First(Packed run) { return static_cast<int64_t>(run >> 32); }
  static int64_t End(Packed run) { return static_cast<int64_t>(run & 0xffffffffu); }
  static int64_t Length(Packed run) { return End(run) - First(run); }
  static constexpr int64_t kMostUnits = 1 << 30;

  struct alignas(64) Run {
    std::atomic<Packed> left{0};
  };

  // The first of the worker's own run.
  static bool Take(Run* run, int64_t* unit, int64_t* next) {
    Packed left = run->left.load();
    while (Length(left) > 0) {
      if (!run->left.compare_exchange_weak(left, Pack(First(left) + 1, End(left)))) continue;
      *unit = First(left);
      *next = Length(left) > 1 ? *unit + 1 : -1;
      return true;
    }
    return false;
  }

  // The later half of the longest run becomes the worker's own. A word never has the same value twice, as the first
  // unit of a run is never given out again: so a change in between is always seen.
  bool Steal(int worker, int64_t* unit, int64_t* next) {
    for (;;) {
      Run* longest = nullptr;
      Packed left = 0;
      for (Run& run : runs_) {
        const Packed seen = run.left.load();
        if (Length(seen) > Length(left)) longest = &run, left = seen;
      }
      if (longest == nullptr) return false;
      const int64_t middle = First(left) + Length(left) / 2;
      if (!longest->left.compare_exchange_strong(left, Pack(First(left), middle))) continue;
      runs_[worker].left.store(Pack(middle, End(left)));
      if (Take(&runs_[worker], unit, next)) return true;  // not if others have taken it all meanwhile
    }
  }

  const int64_t tasks_, unit_;
  std::vector<Run> runs_;
  std::fenv_t floats_;
};

// What the caller and its helpers on a pool share. A helper that the pool starts only after all the work is gone must
// find it still there, and leave; so it is owned by whoever is last.
struct Shared {
  Shared(int threads, int64_t tasks, const AheadBody* body) : dealer(threads, tasks), body(body) {}
  Dealer dealer;
  const AheadBody* body;  // the caller's: valid while a helper that counts as active has work
  std::atomic<int> active{0};
};

void RunOnPool(ThreadPool* pool, int threads, int64_t tasks, const AheadBody& body) {
  if (Team* const team = pool->team()) {
    Dealer dealer(threads, tasks);
    team->Run(threads, [&](int worker) { dealer.Work(body, worker); });
    return;
  }
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

void ParallelForAhead(const Workers& workers, int64_t tasks, const AheadBody& body) {
  if (tasks <= 0) return;
  const int threads = static_cast<int>(std::min<int64_t>(workers.threads, tasks));
  if (threads <= 1) {
    for (int64_t task = 0; task < tasks; ++task) body(task, task + 1 < tasks ? task + 1 : -1, 0);
  } else {
    RunOnPool(workers.pool != nullptr ? workers.pool : OwnThreads(threads - 1), threads, tasks, body);
  }
}

void ParallelFor(const Workers& workers, int64_t tasks, const TaskBody& body) {
  ParallelForAhead(workers, tasks, [&](int64_t task, int64_t, int worker) { body(task, worker); });
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
