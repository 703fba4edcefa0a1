// Channels-first tensors to channels-last and back.
#ifndef DWSCONV_CPU_RUN_LAYOUT_H_
#define DWSCONV_CPU_RUN_LAYOUT_H_

#include <cstdint>

#include "cc/core/parallel.h"

namespace dwsconv {

// from [N][rows][columns] to [N][columns][rows], elements of 2 or 4 bytes.
void TransposeMatrices(const void* from, void* to, int64_t N, int64_t rows, int64_t columns, int64_t element_bytes,
                       const Workers& workers);

}  // namespace dwsconv

#endif  // DWSCONV_CPU_RUN_LAYOUT_H_
