/* The backward pass for other languages: c_api.h's functions for gradients. python_tests/cuda_backward_library.py calls
 * them. */
#ifndef DWSCONV_CUDA_CAPI_C_API_BACKWARD_H_
#define DWSCONV_CUDA_CAPI_C_API_BACKWARD_H_

#include "cuda/capi/c_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One call. Of `layer` shapes, attributes, dtype, math, x, d, p, db, b, r, workspace and stream are read,
 * and the tile, for the fused path; y is the
 * forward pass' output, where the activation's derivative takes it, else null. */
typedef struct {
  DwsconvCudaCall layer;
  int32_t path; /* 0 the planner's choice, 1 general, 2 steps, 3 fused */
  /* Which gradients are wanted: bit 0 of x, 1 of d, 2 of p, 3 of db, 4 of b, 5 of r. */
  int32_t wanted;
  int32_t unaligned; /* not 0: x, grad, y, dx and dr may be no multiples of 16 bytes, which the fused path wants */
  int32_t reserved;
  const void* grad; /* of the loss by y */
  void *dx, *dd, *dp, *ddb, *dbias, *dr;
} DwsconvCudaBackwardCall;

/* Both return "" or what is wrong; the text lives until the thread's next call. Backward only enqueues. The plan's
 * `output` is the shape of y. */
DWSCONV_CUDA_API const char* dwsconv_cuda_backward_plan(const DwsconvCudaBackwardCall* call, DwsconvCudaPlan* plan);
DWSCONV_CUDA_API const char* dwsconv_cuda_backward(const DwsconvCudaBackwardCall* call);

/* Calls of dwsconv_cuda_backward so far that ran on a path, or -1 for a number that is none. */
DWSCONV_CUDA_API int64_t dwsconv_cuda_backward_calls(int32_t path);

#ifdef __cplusplus
}
#endif

#endif /* DWSCONV_CUDA_CAPI_C_API_BACKWARD_H_ */
