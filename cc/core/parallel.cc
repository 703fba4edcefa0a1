#include "cc/core/parallel.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "cc/core/cpu_features.h"

namespace dwsconv {

void ParallelForRuns(int threads, int64_t tasks, const RunBody& body) {
  if (tasks <= 0) return;
  threads = static_cast<int>(std::min<int64_t>(threads, tasks));
  if (threads <= 1) {
    body(0, tasks, 0);
    return;
  }
  // A counter of our own instead of schedule(guided): when the runtime gives fewer threads than asked for (nested
  // regions, limits), the same code still runs every task.
  std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(threads)
  {
    const int worker = omp_get_thread_num();
    int64_t begin = next.load(std::memory_order_relaxed);
    while (begin < tasks) {
      const int64_t run = std::max<int64_t>(1, (tasks - begin) / (2 * threads));
      if (next.compare_exchange_weak(begin, begin + run, std::memory_order_relaxed)) {
        body(begin, begin + run, worker);
        begin = next.load(std::memory_order_relaxed);
      }
    }
  }
}

void ParallelFor(int threads, int64_t tasks, const TaskBody& body) {
  ParallelForRuns(threads, tasks, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t t = begin; t < end; ++t) body(t, worker);
  });
}

int ResolveThreads(int requested) {
  if (requested > 0) return requested;
  if (const char* word = std::getenv("DWSCONV_NUM_THREADS")) {
    char* end = nullptr;
    const long value = std::strtol(word, &end, 10);
    if (end != word && *end == '\0' && value > 0 && value <= 4096) return static_cast<int>(value);
  }
  return GetCpuFeatures().cores;
}

}  // namespace dwsconv
