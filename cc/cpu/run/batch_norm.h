// Batch norm in training, with an activation behind it: what the TensorFlow ops of it call.
#ifndef DWSCONV_CPU_RUN_BATCH_NORM_H_
#define DWSCONV_CPU_RUN_BATCH_NORM_H_

#include <cstdint>
#include <string>

#include "cc/core/chain.h"
#include "cc/core/cpu_features.h"
#include "cc/core/parallel.h"

namespace dwsconv {

// y = activation((x - mean) / sqrt(variance + epsilon) * gamma + beta) of x [rows, channels]. Mean and variance of each
// channel are those over all rows, or given: a batch norm that is frozen, or that does not train.
struct BatchNorm {
  int64_t rows = 0, channels = 0;
  DType dtype = DType::kFloat32;  // of x, y and their gradients
  Activation activation;
  float epsilon = 0;
  const void* x = nullptr;
  const float *gamma = nullptr, *beta = nullptr;  // [channels]
  bool of_batch = true;                           // whether the statistics are those of x
};

struct BatchNormOptions {
  Isa isa = Isa::kGeneric;
  int num_threads = 1;
  // Whose threads; null: this library's own. TensorFlow's where ops run side by side, as they do in a backward pass:
  // threads that look for more work take the cores of other ops.
  ThreadPool* pool = nullptr;
};

// Writes y, and mean and variance where they are those of x, else reads them. Statistics are summed in double and are
// the same bits for any number of threads; the variance is the sample's, over n. Without rows both are NaN. Each
// returns "" or what went wrong (memory), and never throws.
std::string BatchNormForward(const BatchNorm& norm, void* y, float* mean, float* variance,
                             const BatchNormOptions& options);

// The gradients of the loss by x, gamma and beta, from that by y and the forward pass's statistics. d_gamma and d_beta
// may be null where the statistics were given.
std::string BatchNormBackward(const BatchNorm& norm, const float* mean, const float* variance, const void* grad,
                              void* d_x, float* d_gamma, float* d_beta, const BatchNormOptions& options);

// How often this process ran either on an ISA's kernels: for tests that assert which path ran.
int64_t BatchNormCalls(Isa isa);

}  // namespace dwsconv

#endif  // DWSCONV_CPU_RUN_BATCH_NORM_H_
