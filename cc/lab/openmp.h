// The ladder's threads: OpenMP's, as the report that the ladder follows has them.
#ifndef DWSCONV_LAB_OPENMP_H_
#define DWSCONV_LAB_OPENMP_H_

#include <cstdint>

#include "cc/core/parallel.h"

namespace dwsconv {

// As ParallelFor, on OpenMP's threads, which spin for milliseconds after their work.
void ForByOpenMp(int threads, int64_t tasks, const TaskBody& body);

}  // namespace dwsconv

#endif  // DWSCONV_LAB_OPENMP_H_
