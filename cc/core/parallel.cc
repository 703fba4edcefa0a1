#include "cc/core/parallel.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "cc/core/cpu_features.h"

namespace dwsconv {

void ParallelFor(int threads, int64_t tasks, const TaskBody& body) {
  if (tasks <= 0) return;
  threads = static_cast<int>(std::min<int64_t>(threads, tasks));
  if (threads <= 1) {
    for (int64_t t = 0; t < tasks; ++t) body(t, 0);
    return;
  }
  // A counter of our own instead of schedule(dynamic): when the runtime gives fewer threads than asked for (nested
  // regions, limits), the same code still runs every task.
  std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(threads)
  {
    const int worker = omp_get_thread_num();
    for (int64_t t = next.fetch_add(1, std::memory_order_relaxed); t < tasks;
         t = next.fetch_add(1, std::memory_order_relaxed)) {
      body(t, worker);
    }
  }
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
