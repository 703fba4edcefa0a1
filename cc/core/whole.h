// Arithmetic of whole numbers.
#ifndef DWSCONV_CORE_WHOLE_H_
#define DWSCONV_CORE_WHOLE_H_

#include <cstdint>

namespace dwsconv {

// Of internal linkage, as kernels want it (kernel_table.h). a >= 0, b > 0.
static inline constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

}  // namespace dwsconv

#endif  // DWSCONV_CORE_WHOLE_H_
