/* The GPU kernels for other languages: a shared library of C functions. python_tests/cuda_library.py calls it. */
#ifndef DWSCONV_CUDA_CAPI_C_API_H_
#define DWSCONV_CUDA_CAPI_C_API_H_

#include <stdint.h>

#define DWSCONV_CUDA_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* One call. Shapes and attributes are as of the TensorFlow op, and checked as there. */
typedef struct {
  int64_t input[4], depthwise_filter[4], pointwise_filter[4];
  int64_t depthwise_bias_size, bias_size; /* -1: none */
  int64_t residual[4];                    /* the first is -1: none */
  int64_t strides[2], dilations[2];
  int64_t explicit_paddings[8]; /* read with padding "EXPLICIT" */
  const char *padding, *data_format, *depthwise_activation, *activation;
  float depthwise_alpha, alpha;
  int32_t dtype;  /* 0 float32, 1 bfloat16, 2 float16 */
  int32_t path;   /* 0 the planner's choice, 1 direct, 2 two_step, 3 stream */
  int32_t math;   /* of float32: 0 exact, 1 tf32 */
  int32_t groups; /* of a block's threads; 0: the planner's choice, as of what follows */
  int64_t tile_rows, tile_columns, segments;
  /* Device pointers; null where there is no such tensor. The residual may be y. */
  const void *x, *d, *p, *db, *b, *r;
  void* y;
  void* workspace; /* of dwsconv_cuda_plan's workspace_bytes, aligned to 256 */
  int64_t workspace_bytes;
  void* stream; /* a cudaStream_t */
} DwsconvCudaCall;

typedef struct {
  int64_t output[4];
  int64_t workspace_bytes;
  double modelled_us;
  char text[256];
} DwsconvCudaPlan;

/* Both return "" or what is wrong; the text lives until the thread's next call. Forward only enqueues. */
DWSCONV_CUDA_API const char* dwsconv_cuda_plan(const DwsconvCudaCall* call, DwsconvCudaPlan* plan);
DWSCONV_CUDA_API const char* dwsconv_cuda_forward(const DwsconvCudaCall* call);

/* Calls of dwsconv_cuda_forward so far that ran on a path. */
DWSCONV_CUDA_API int64_t dwsconv_cuda_calls(int32_t path);

#ifdef __cplusplus
}
#endif

#endif /* DWSCONV_CUDA_CAPI_C_API_H_ */
