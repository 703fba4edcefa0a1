#include "cc/core/own_threads.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

namespace dwsconv {
namespace {

// How long a thread without work looks for more before it sleeps, for waking takes 50 us and more: longer than between
// two calls of a model. Meanwhile it lets whoever else wants its core have it, every few microseconds.
constexpr std::chrono::microseconds kPatience{1000};
constexpr int kLooksBetweenYields = 4;  // of 16 pauses, which take Intel's CPUs 0.8 us

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

class Pool : public ThreadPool {
 public:
  void Schedule(std::function<void()> work) override {
    bool wake;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      queue_.push_back(std::move(work));
      waiting_.fetch_add(1);
      wake = sleeping_ > 0;
    }
    if (wake) wake_.notify_one();
  }

  void Grow(int threads) {
    if (threads_.load() >= threads) return;
    std::lock_guard<std::mutex> lock(mutex_);
    // Signals are for the threads of the process that expect them, Python's main thread say.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      for (; threads_.load() < threads; threads_.fetch_add(1)) std::thread(&Pool::Run, this).detach();
    } catch (const std::exception&) {  // no more threads to be had: those there are will do
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

 private:
  void Run() {
    for (;;) {
      int looks = 0;
      const auto until = std::chrono::steady_clock::now() + kPatience;
      while (waiting_.load(std::memory_order_relaxed) == 0 && std::chrono::steady_clock::now() < until) {
        for (int i = 0; i < 16; ++i) Pause();
        if (++looks % kLooksBetweenYields == 0) std::this_thread::yield();
      }
      std::unique_lock<std::mutex> lock(mutex_);
      ++sleeping_;
      // A wait without an end is a symbol of g++ 12's libstdc++ (GLIBCXX_3.4.30), which RHEL 9 and others lack.
      while (queue_.empty()) wake_.wait_for(lock, std::chrono::hours(1));
      --sleeping_;
      const std::function<void()> work = std::move(queue_.front());
      queue_.pop_front();
      waiting_.fetch_sub(1);
      lock.unlock();
      work();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  int sleeping_ = 0;
  std::atomic<int> waiting_{0};  // queue_'s size, to be read without the lock
  std::atomic<int> threads_{0};
};

std::atomic<Pool*> the_pool{nullptr};

}  // namespace

ThreadPool* OwnThreads(int threads) {
  Pool* pool = the_pool.load();
  if (pool == nullptr) {
    // The child of a fork has none of its parent's threads: it gets a pool of its own.
    static const int registered = pthread_atfork(nullptr, nullptr, [] { the_pool.store(nullptr); });
    (void)registered;
    Pool* const made = new Pool;
    if (the_pool.compare_exchange_strong(pool, made)) {
      pool = made;
    } else {
      delete made;
    }
  }
  pool->Grow(threads);
  return pool;
}

}  // namespace dwsconv
