// The only place that knows threads. Tasks are handed out dynamically; a task must not depend on which worker runs it,
// so results are the same bits for any number of threads.
#ifndef DWSCONV_CORE_PARALLEL_H_
#define DWSCONV_CORE_PARALLEL_H_

#include <cstdint>
#include <functional>

namespace dwsconv {

// body(task, worker): task in [0, tasks), worker in [0, threads) and unique among those running at once.
using TaskBody = std::function<void(int64_t task, int worker)>;

// Runs all tasks and returns when the last has ended. threads >= 1; one thread (or one task) runs in the caller.
void ParallelFor(int threads, int64_t tasks, const TaskBody& body);

// The same, a run of consecutive tasks [begin, end) at a time: long runs first, so that a worker can look ahead to its
// next task, single tasks last, so that all end together.
using RunBody = std::function<void(int64_t begin, int64_t end, int worker)>;
void ParallelForRuns(int threads, int64_t tasks, const RunBody& body);

// How many threads to use: `requested` if positive, else DWSCONV_NUM_THREADS, else the cores this process may run on.
int ResolveThreads(int requested);

}  // namespace dwsconv

#endif  // DWSCONV_CORE_PARALLEL_H_
