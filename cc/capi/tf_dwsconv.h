/* Networks of tf_dwsconv from C: a file of a program (docs/program.md) is loaded once and run on arrays, without Python
   or TensorFlow. The library is libtf_dwsconv.so.

     dwsconv_network* network = dwsconv_load("mobilenet_v2.safetensors");
     if (network == NULL) fail(dwsconv_last_error());
     const int64_t shape[] = {1, 224, 224, 3};
     const dwsconv_tensor image = {pixels, shape, 4};
     int64_t size = dwsconv_output_elements(network, &image, 1, 0);   // in elements of the network's dtype
     void* outputs[] = {probabilities};
     if (dwsconv_run(network, &image, 1, outputs, 1, 0) != 0) fail(dwsconv_last_error());
     dwsconv_free(network);

   Any number of threads may run one network at once. No function ends the process; each says what is wrong by its
   result, and dwsconv_last_error tells more. */
#ifndef TF_DWSCONV_H_
#define TF_DWSCONV_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dwsconv_network dwsconv_network;

/* An input: dense, channels last, aligned to its elements. */
typedef struct dwsconv_tensor {
  const void* data;
  const int64_t* shape;
  int rank;
} dwsconv_tensor;

typedef enum dwsconv_dtype { DWSCONV_FLOAT32 = 0, DWSCONV_BFLOAT16 = 1, DWSCONV_FLOAT16 = 2 } dwsconv_dtype;

/* The network of a file, or NULL. */
dwsconv_network* dwsconv_load(const char* path);

/* Of inputs, outputs and weights alike; -1 for NULL, as the counts below. */
int dwsconv_dtype_of(const dwsconv_network* network);
int dwsconv_input_count(const dwsconv_network* network);
int dwsconv_output_count(const dwsconv_network* network);

/* Of input or output `index`; NULL where there is none. It lives as long as the network. */
const char* dwsconv_input_name(const dwsconv_network* network, int index);
const char* dwsconv_output_name(const dwsconv_network* network, int index);

/* The shape of output `index` for these inputs, in the network's order: writes at most `rank` sizes and returns how
   many there are, or -1. */
int dwsconv_output_shape(const dwsconv_network* network, const dwsconv_tensor* inputs, int input_count, int index,
                         int64_t* shape, int rank);

/* Their product, or -1. */
int64_t dwsconv_output_elements(const dwsconv_network* network, const dwsconv_tensor* inputs, int input_count,
                                int index);

/* Computes all outputs. Each is memory of as many elements as dwsconv_output_elements says, aligned to them, and shares
   none with an input or another output. num_threads: 0 for DWSCONV_NUM_THREADS, or else all cores that this process may
   run on. Returns 0, or -1. */
int dwsconv_run(const dwsconv_network* network, const dwsconv_tensor* inputs, int input_count, void* const* outputs,
                int output_count, int num_threads);

/* NULL is fine. Nobody may be running it. */
void dwsconv_free(dwsconv_network* network);

/* What went wrong last in the calling thread; "" if nothing did. It is overwritten by the thread's next failure. */
const char* dwsconv_last_error(void);

#ifdef __cplusplus
}
#endif

#endif /* TF_DWSCONV_H_ */
