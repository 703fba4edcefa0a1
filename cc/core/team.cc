#include "cc/core/team.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "cc/core/own_threads.h"

namespace dwsconv {

// Another job every time `epoch` changes; `job` is null between jobs. A helper counts as active before it looks at
// `job`, and the owner looks at `active` after it has taken the job away: so either the helper finds none, or the owner
// waits for it.
struct TeamState {
  struct Job {
    const std::function<void(int)>* work;
    int threads;
  };
  alignas(64) std::atomic<uint64_t> epoch{0};
  std::atomic<const Job*> job{nullptr};
  std::atomic<bool> over{false};
  const std::thread::id owner = std::this_thread::get_id();
  alignas(64) std::atomic<int> active{0};
  alignas(64) std::atomic<int> sleeping{0};
  std::mutex mutex;
  std::condition_variable wake;
};

namespace {

// A step of a network takes some 50 us: within that a helper need not let go of its core.
constexpr std::chrono::microseconds kSpin{30}, kPatience{1000};

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Until there is another job than that of `seen`, or no more.
void Await(TeamState* state, uint64_t seen) {
  const auto other = [&] { return state->epoch.load(std::memory_order_acquire) != seen; };
  for (int looks = 0; looks < 200; ++looks) {
    if (other()) return;
    Pause();
  }
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    if (other()) return;
    const auto waited = std::chrono::steady_clock::now() - start;
    if (waited > kPatience) break;
    if (waited > kSpin) {
      std::this_thread::yield();
    } else {
      for (int i = 0; i < 16; ++i) Pause();
    }
  }
  std::unique_lock<std::mutex> lock(state->mutex);
  state->sleeping.fetch_add(1);
  // Not wait(): see own_threads.cc.
  while (state->epoch.load() == seen) state->wake.wait_for(lock, std::chrono::hours(1));
  state->sleeping.fetch_sub(1);
}

void Help(TeamState* state, int worker) {
  // A pool without room runs what it is given at once.
  if (std::this_thread::get_id() == state->owner) return;
  uint64_t seen = 0;
  while (!state->over.load()) {
    Await(state, seen);
    seen = state->epoch.load();
    state->active.fetch_add(1);
    const TeamState::Job* const job = state->job.load();
    if (job != nullptr && worker < job->threads) (*job->work)(worker);
    state->active.fetch_sub(1);
  }
}

// Changes the epoch, and wakes who sleeps: a helper that goes to sleep looks at the epoch after it has counted itself.
void Announce(TeamState* state) {
  state->epoch.fetch_add(1);
  if (state->sleeping.load() == 0) return;
  {
    std::lock_guard<std::mutex> lock(state->mutex);
  }
  state->wake.notify_all();
}

}  // namespace

Team::Team(const Workers& workers) : threads_(workers.threads) {
  if (threads_ <= 1) return;
  state_ = std::make_shared<TeamState>();
  ThreadPool* const pool = workers.pool != nullptr ? workers.pool : OwnThreads(threads_ - 1);
  for (int worker = 1; worker < threads_; ++worker) {
    pool->Schedule([state = state_, worker] { Help(state.get(), worker); });
  }
}

Team::~Team() {
  if (state_ == nullptr) return;
  state_->over.store(true);
  Announce(state_.get());
}

void Team::Run(int threads, const std::function<void(int worker)>& work) {
  if (state_ == nullptr || threads <= 1) {
    work(0);
    return;
  }
  const TeamState::Job job = {&work, threads};
  state_->job.store(&job);
  Announce(state_.get());
  work(0);
  state_->job.store(nullptr);
  // The others are within a task of their end: not worth a sleep, unless their cores are taken.
  for (int spins = 0; state_->active.load() > 0; ++spins) {
    spins > 1000 ? std::this_thread::yield() : Pause();
  }
}

}  // namespace dwsconv
