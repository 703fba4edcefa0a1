#include "cc/cpu/run/layout.h"

#include <algorithm>

#include "cc/core/parallel.h"

namespace dwsconv {
namespace {

// A tile's rows and columns are whole cache lines on both sides, and few enough to stay in L1.
constexpr int64_t kTile = 32;

template <typename T>
void Transpose(const T* from, T* to, int64_t N, int64_t rows, int64_t columns, const Workers& workers) {
  const int64_t bands = (columns + kTile - 1) / kTile;
  ParallelFor(workers, N * bands, [&](int64_t task, int) {
    const int64_t n = task / bands, c0 = task % bands * kTile, c1 = std::min(columns, c0 + kTile);
    const T* source = from + n * rows * columns;
    T* target = to + n * rows * columns;
    for (int64_t r0 = 0; r0 < rows; r0 += kTile) {
      const int64_t r1 = std::min(rows, r0 + kTile);
      for (int64_t c = c0; c < c1; ++c) {
        for (int64_t r = r0; r < r1; ++r) target[c * rows + r] = source[r * columns + c];
      }
    }
  });
}

}  // namespace

void TransposeMatrices(const void* from, void* to, int64_t N, int64_t rows, int64_t columns, int64_t element_bytes,
                       const Workers& workers) {
  if (element_bytes == 4) {
    Transpose(static_cast<const uint32_t*>(from), static_cast<uint32_t*>(to), N, rows, columns, workers);
  } else {
    Transpose(static_cast<const uint16_t*>(from), static_cast<uint16_t*>(to), N, rows, columns, workers);
  }
}

}  // namespace dwsconv
