/* The block's GPU kernels for other languages, beside c_api.h. python_tests/cuda_block_library.py calls it. */
#ifndef DWSCONV_CUDA_CAPI_C_API_BLOCK_H_
#define DWSCONV_CUDA_CAPI_C_API_BLOCK_H_

#include <stdint.h>

#include "cuda/capi/c_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One call. Shapes and attributes are as of the TensorFlow op ConvBlock, and checked as there. A tensor whose shape
 * begins with -1, or whose size is -1, is not there. */
typedef struct {
  int64_t input[4], expand_filter[4], depthwise_filter[4], pointwise_filter[4];
  int64_t scale[2], residual[4];
  int64_t expand_bias_size, depthwise_bias_size, bias_size;
  int64_t strides[2], dilations[2];
  int64_t explicit_paddings[8]; /* read with padding "EXPLICIT" */
  const char *padding, *data_format, *expand_activation, *depthwise_activation, *activation;
  float expand_alpha, depthwise_alpha, alpha, epsilon;
  int32_t normalize;
  int32_t dtype;   /* 0 float32, 1 bfloat16, 2 float16 */
  int32_t path;    /* of depthwise and pointwise convolution alone, as in c_api.h */
  int32_t math;    /* of float32: 0 exact, 1 tf32 */
  int32_t general; /* 1: kernels that take anything alone */
  int32_t fusion;  /* of expansion and depthwise convolution: 0 the planner's choice, 1 always, 2 never */
  /* Device pointers; null where there is no such tensor. The residual may be y. */
  const void *x, *expand, *expand_b, *d, *db, *p, *b, *s, *r;
  void* y;
  void* workspace; /* of dwsconv_cuda_block_plan's workspace_bytes, aligned to 256 */
  int64_t workspace_bytes;
  void* stream; /* a cudaStream_t */
} DwsconvCudaBlockCall;

typedef struct {
  int64_t output[4];
  int64_t workspace_bytes;
  double modelled_us; /* of an expansion with a depthwise convolution; else 0 */
  char text[256];
} DwsconvCudaBlockPlan;

/* Both return "" or what is wrong; the text lives until the thread's next call. The second only enqueues. */
DWSCONV_CUDA_API const char* dwsconv_cuda_block_plan(const DwsconvCudaBlockCall* call, DwsconvCudaBlockPlan* plan);
DWSCONV_CUDA_API const char* dwsconv_cuda_block_forward(const DwsconvCudaBlockCall* call);

/* Calls so far that launched anything. */
DWSCONV_CUDA_API int64_t dwsconv_cuda_block_calls(void);

#ifdef __cplusplus
}
#endif

#endif /* DWSCONV_CUDA_CAPI_C_API_BLOCK_H_ */
