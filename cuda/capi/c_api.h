/* The GPU kernels for other languages: a shared library of C functions. python_tests/cuda/cuda_library.py calls it. */
#ifndef DWSCONV_CUDA_CAPI_C_API_H_
#define DWSCONV_CUDA_CAPI_C_API_H_

#include <stdint.h>

#define DWSCONV_CUDA_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* A call's tensors. The first nine have shapes; the last six are the gradients of x, of the depthwise and the pointwise
 * filter, of their biases, and of the residual. */
enum {
  DWSCONV_CUDA_X,
  DWSCONV_CUDA_EXPAND_FILTER,
  DWSCONV_CUDA_EXPAND_BIAS,
  DWSCONV_CUDA_DEPTHWISE_FILTER,
  DWSCONV_CUDA_DEPTHWISE_BIAS,
  DWSCONV_CUDA_POINTWISE_FILTER,
  DWSCONV_CUDA_BIAS,
  DWSCONV_CUDA_SCALE,
  DWSCONV_CUDA_RESIDUAL,
  DWSCONV_CUDA_Y,
  DWSCONV_CUDA_GRAD, /* of the loss by y */
  DWSCONV_CUDA_FIRST_GRADIENT,
  DWSCONV_CUDA_TENSORS = DWSCONV_CUDA_FIRST_GRADIENT + 6
};

/* One call of a layer, a block, or a layer's gradients. Shapes and attributes are as of the TensorFlow ops, and checked
 * as there. */
typedef struct {
  int64_t shapes[DWSCONV_CUDA_Y][4]; /* a tensor whose shape begins with -1 is not there */
  int64_t strides[2], dilations[2];
  int64_t explicit_paddings[8]; /* read with padding "EXPLICIT" */
  const char *padding, *data_format, *expand_activation, *depthwise_activation, *activation;
  float expand_alpha, depthwise_alpha, alpha;
  float epsilon;     /* of the norm */
  int32_t normalize; /* 1: there is a norm */
  int32_t dtype;     /* 0 float32, 1 bfloat16, 2 float16 */
  int32_t gradients; /* which are wanted, bit 0 that of x, and so on; -1: y is */
  int32_t path;      /* 0 the planner's choice, 1 direct, 2 two_step, 3 stream, 4 general, 5 steps, 6 fused,
                        7 tensor_stream, 8 deep, 9 two_step_wgmma */
  int32_t math;      /* of float32: 0 exact, 1 tf32 */
  int32_t fusion;    /* of expansion and depthwise convolution: 0 the planner's choice, 1 always, 2 never */
  int32_t unaligned; /* 1: tensors may be no multiples of 16 bytes, which path fused wants */
  int32_t groups;    /* of a block's threads; 0: the planner's choice, as of what follows */
  int64_t tile_rows, tile_columns, segments;
  /* Device pointers; null where there is no such tensor. The residual may be y, and its gradient grad. */
  void* tensors[DWSCONV_CUDA_TENSORS];
  void* workspace; /* of dwsconv_cuda_plan's workspace_bytes, aligned to 256 */
  int64_t workspace_bytes;
  void* stream; /* a cudaStream_t */
} DwsconvCudaCall;

typedef struct {
  int64_t output[4]; /* the shape of y */
  int64_t workspace_bytes;
  double modelled_us;
  char text[256];
} DwsconvCudaPlan;

/* Both return "" or what is wrong; the text lives until the thread's next call. The second one only enqueues. */
DWSCONV_CUDA_API const char* dwsconv_cuda_plan(const DwsconvCudaCall* call, DwsconvCudaPlan* plan);
DWSCONV_CUDA_API const char* dwsconv_cuda_run(const DwsconvCudaCall* call);

/* Plans by these rates from now on, in the order of CudaRates (cc/plan/cuda/rates.h); null: by the planner's own. "" or
 * what is wrong. */
enum { DWSCONV_CUDA_RATES = 8 };
DWSCONV_CUDA_API const char* dwsconv_cuda_set_rates(const double* rates);

/* Calls of dwsconv_cuda_run so far that ran on a path; 0: all that launched anything. -1 for a number that is none. */
DWSCONV_CUDA_API int64_t dwsconv_cuda_calls(int32_t path);

/* Plans that were searched for so far: a call like an earlier one has its plan from there. */
DWSCONV_CUDA_API int64_t dwsconv_cuda_plans_made(void);

#ifdef __cplusplus
}
#endif

#endif /* DWSCONV_CUDA_CAPI_C_API_H_ */
