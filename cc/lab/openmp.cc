#include "cc/lab/openmp.h"

#include <omp.h>

#include <cfenv>
#include <stdexcept>

#include "cc/lab/openmp_runtime.h"

namespace dwsconv {

void ForByOpenMp(int threads, int64_t tasks, const TaskBody& body) {
  if (threads <= 1) {
    for (int64_t task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  const std::string missing = LoadOpenMp();
  if (!missing.empty()) throw std::runtime_error(missing);
  std::fenv_t floats;
  std::fegetenv(&floats);
#pragma omp parallel num_threads(threads)
  {
    // Rounding and the flushing of subnormals are the caller's on every thread, as in ParallelFor.
    std::fenv_t own;
    std::fegetenv(&own);
    std::fesetenv(&floats);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < tasks; ++task) body(task, omp_get_thread_num());
    std::fesetenv(&own);
  }
}

}  // namespace dwsconv
