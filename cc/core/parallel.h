// The only place that knows threads. Work is handed out dynamically; a task must not depend on which worker runs it, so
// results are the same bits for any number of threads.
#ifndef DWSCONV_CORE_PARALLEL_H_
#define DWSCONV_CORE_PARALLEL_H_

#include <cstdint>
#include <functional>

namespace dwsconv {

class Team;  // team.h

// Threads that work can be given to. TensorFlow's own, say: work on them does not contend with its next op.
class ThreadPool {
 public:
  virtual ~ThreadPool() = default;
  // Runs `work` on some other thread, soon (or at once on this one, if it has no room left).
  virtual void Schedule(std::function<void()> work) = 0;
  // Itself where it is one: its threads are there already.
  virtual Team* team() { return nullptr; }
};

// Who may work: the caller and up to threads - 1 more, of `pool`, or this library's own threads where it is null.
struct Workers {
  Workers(int threads, ThreadPool* pool = nullptr) : threads(threads), pool(pool) {}  // NOLINT: a count will do
  int threads;
  ThreadPool* pool;
};

// body(task, next, worker): worker in [0, threads) and unique among those running at once. `next` is the task this
// worker takes afterwards, unless another gets ahead of it, or -1: to fetch what it reads.
using AheadBody = std::function<void(int64_t task, int64_t next, int worker)>;

// Runs all tasks and returns when the last has ended. Each worker has a run of consecutive tasks, and takes half of the
// longest that is left when its own is done: so one that gets no core costs no more than its task under way, and each
// works on the same part of the data from call to call. One thread (or one task) runs in the caller.
void ParallelForAhead(const Workers& workers, int64_t tasks, const AheadBody& body);

// The same without looking ahead.
using TaskBody = std::function<void(int64_t task, int worker)>;
void ParallelFor(const Workers& workers, int64_t tasks, const TaskBody& body);

// How many threads to use: `requested` if positive, else DWSCONV_NUM_THREADS, else the cores this process may run on.
int ResolveThreads(int requested);

}  // namespace dwsconv

#endif  // DWSCONV_CORE_PARALLEL_H_
