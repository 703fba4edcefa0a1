// The only place that knows threads. Work is handed out dynamically; a task must not depend on which worker runs it, so
// results are the same bits for any number of threads.
#ifndef DWSCONV_CORE_PARALLEL_H_
#define DWSCONV_CORE_PARALLEL_H_

#include <cstdint>
#include <functional>

namespace dwsconv {

// Threads that somebody else keeps, TensorFlow say. Work given to its own pool does not contend with its next op, as
// OpenMP's threads do, which spin for a while after their work.
class ThreadPool {
 public:
  virtual ~ThreadPool() = default;
  // Runs `work` on some other thread, soon (or at once on this one, if it has no room left).
  virtual void Schedule(std::function<void()> work) = 0;
};

// Who may work: the caller and up to threads - 1 more, of `pool`, or OpenMP's where it is null.
struct Workers {
  Workers(int threads, ThreadPool* pool = nullptr) : threads(threads), pool(pool) {}  // NOLINT: a count will do
  int threads;
  ThreadPool* pool;
};

// body(begin, end, worker): tasks [begin, end), worker in [0, threads) and unique among those running at once.
using RunBody = std::function<void(int64_t begin, int64_t end, int worker)>;

// Runs all tasks and returns when the last has ended. Runs of consecutive tasks are long at first, so that a worker can
// look ahead to its next task, and single tasks at last, so that all end together. One thread (or one task) runs in the
// caller.
void ParallelForRuns(const Workers& workers, int64_t tasks, const RunBody& body);

// The same, task by task.
using TaskBody = std::function<void(int64_t task, int worker)>;
void ParallelFor(const Workers& workers, int64_t tasks, const TaskBody& body);

// How many threads to use: `requested` if positive, else DWSCONV_NUM_THREADS, else the cores this process may run on.
int ResolveThreads(int requested);

}  // namespace dwsconv

#endif  // DWSCONV_CORE_PARALLEL_H_
