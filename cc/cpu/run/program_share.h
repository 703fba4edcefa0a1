// How the steps of a program share their work among threads.
#ifndef DWSCONV_CPU_RUN_PROGRAM_SHARE_H_
#define DWSCONV_CPU_RUN_PROGRAM_SHARE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

#include "cc/core/parallel.h"
#include "cc/core/whole.h"
#include "cc/cpu/run/program_ops.h"

namespace dwsconv {

// Fewer elements than this are not worth a second thread, nor a task of their own: some microseconds.
constexpr int64_t kElementsPerTask = 16 << 10;

inline int64_t Product(const std::vector<int64_t>& sizes, size_t begin, size_t end) {
  return std::accumulate(sizes.begin() + static_cast<std::ptrdiff_t>(begin),
                         sizes.begin() + static_cast<std::ptrdiff_t>(end), int64_t{1}, std::multiplies<int64_t>());
}

// run(begin, end) over [0, count), where each of them is `elements` of work.
template <typename Run>
void Share(const StepCall& call, int64_t count, int64_t elements, const Run& run) {
  const int64_t each = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(elements, 1));
  const int64_t tasks = CeilDiv(count, each);
  const Workers workers(static_cast<int>(std::min<int64_t>(call.workers.threads, tasks)), call.workers.pool);
  ParallelFor(workers, tasks, [&](int64_t task, int) { run(task * each, std::min(count, (task + 1) * each)); });
}

}  // namespace dwsconv

#endif  // DWSCONV_CPU_RUN_PROGRAM_SHARE_H_
