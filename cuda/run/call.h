// What runs one step of a plan: a function for each kernel, or for kernels that are alternatives. Each is in the file
// that compiles its kernels, fills their arguments and launches them.
#ifndef DWSCONV_CUDA_RUN_CALL_H_
#define DWSCONV_CUDA_RUN_CALL_H_

#include <cstdint>

#include "cc/core/chain.h"
#include "cc/plan/cuda/plan.h"
#include "cuda/run/execute.h"

namespace dwsconv {
namespace cuda {

// One call: what the steps share.
struct Call {
  const Chain& chain;
  const CudaPlan& plan;
  const CudaTensors& given;
  char* const workspace;
  void* const stream;
  const Chain& p = chain;

  // A tensor as kernels see it: what the caller gave, or in the workspace; null where it is not there.
  void* At(CudaTensor tensor) const {
    const int64_t at = plan.at_bytes[static_cast<int>(tensor)];
    return at < 0 ? given[tensor] : workspace + at;
  }
  float* SumsAt(CudaTensor tensor) const { return static_cast<float*>(At(tensor)); }

  bool Aligned(const void* pointer, int64_t bytes) const { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

  // Whether rows of `size` elements are whole vectors of 16 bytes; null has any alignment.
  bool Vectors(int64_t size, const void* pointer) const {
    return size * SizeOf(p.dtype) % 16 == 0 && Aligned(pointer, 16);
  }

  int64_t pixels() const { return p.N * p.output_pixels(); }
};

// How a kernel is launched.
struct Launch {
  int64_t grid;
  int threads;
  int64_t shared_bytes;
  void* stream;
};

// "" or what CUDA says.
using Run = const char*(const Call& call, const CudaStep& step);

Run RunTranspose;

Run RunDepthwise;  // kDepthwise, kDepthwiseWindow, kDepthwiseTensor
Run RunToeplitz;
// dX of stride 1, which is a depthwise convolution of dZ with the window by half a turn, on tensor cores. Null where
// that cannot be.
const char* RunTurnedDepthwise(const Call& call, const void* dz, void* dx);
Run RunWindow;
Run RunPixels;
Run RunConvolution;

Run RunProduct;
Run RunWarpgroupProduct;
Run RunGatedProduct;
Run RunDenseProduct;

Run RunDirect;
Run RunStream;
Run RunTensorStream;
Run RunDeep;
Run RunStrip;

Run RunGradientStream;
Run RunColumns;
Run RunBetweenFactors;
Run RunOutputGradient;
Run RunBetweenGradient;
Run RunFilterProduct;
Run RunWarpgroupBetween;
Run RunWarpgroupFilterProduct;
Run RunDepthwiseGradient;
Run RunReduce;  // kReduce, kZero

// What the above do where there is no faster kernel.
Run RunGeneralProduct;
Run RunGeneralFilterProduct;
Run RunGeneralDepthwiseGradient;

// What dZ is multiplied with: mid' itself, or Z, which tells it, or null.
const void* FactorsOf(const Call& call);

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_RUN_CALL_H_
