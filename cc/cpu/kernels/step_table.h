// What one instruction set offers for the steps of a program that are no convolutions (cc/core/program.h): a part of
// one step on one thread. The rules of kernel_table.h hold here, too.
#ifndef DWSCONV_CPU_KERNELS_STEP_TABLE_H_
#define DWSCONV_CPU_KERNELS_STEP_TABLE_H_

#include <cstdint>

#include "cc/core/chain.h"

namespace dwsconv {

enum class CombineKind : int { kAdd, kSubtract, kMultiply, kMaximum, kMinimum };

// to[i] = activation(x[i] op y[i]), i < n. With x_same (y_same) its one element stands for all. `to` may be x or y.
struct CombineArgs {
  CombineKind kind;
  const void *x, *y;
  bool x_same, y_same;
  int64_t n;
  void* to;
  Activation activation;  // not PReLU
};

// to[i] = activation(x[i]), by slopes[i] where that is PReLU. `to` may be x.
struct StepActivateArgs {
  const void* x;
  const void* slopes;  // of the tensors' type; null unless it is read
  int64_t n;
  void* to;
  Activation activation;
};

// to[i][c] = the largest of x[r][i * stride + s][c] over a window, or their sum by `count`, for `pixels` windows in a
// row. Sums add up a row first, and then the rows.
struct PoolArgs {
  const void* x;
  int64_t row_step, pixel_step;  // elements
  int64_t rows, columns;         // of a window
  int64_t pixels, stride;
  int64_t channels;  // where there is more than one pixel, all of them
  bool largest;
  int64_t count;
  void* to;
  int64_t to_step;  // elements from one pixel's result to the next
};

// Rows of n to their softmax; `to` may be x.
struct SoftmaxArgs {
  const void* x;
  int64_t n, rows;
  void* to;
};

// A row to mean 0 and variance 1, times gamma and plus beta, which may be null. `to` may be x.
struct NormalizeArgs {
  const void *x, *gamma, *beta;
  int64_t n;
  float epsilon;
  void* to;
};

// A row of pixels between two rows of others. Pixel i lies `right[i]` of the way from column low[i] to high[i], both
// non-decreasing, and `down` of the way from top to bottom.
struct BlendArgs {
  const void *top, *bottom;
  int64_t x_step;  // elements from one column to the next
  const int64_t *low, *high;
  const float* right;
  float down;
  int64_t pixels, channels;
  void* to;
  int64_t to_step;  // elements from one pixel to the next
};

// Each by the DType of the tensors. Sums are kept in float.
struct StepTable {
  void (*combine[3])(const CombineArgs& args);
  void (*activate[3])(const StepActivateArgs& args);
  void (*pool[3])(const PoolArgs& args);
  void (*sum[3])(const PoolArgs& args);        // to floats
  void (*from_sums[3])(const PoolArgs& args);  // from floats
  void (*softmax[3])(const SoftmaxArgs& args);
  void (*normalize[3])(const NormalizeArgs& args);
  void (*blend[3])(const BlendArgs& args);
};

}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_STEP_TABLE_H_
