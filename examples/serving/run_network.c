/* A network from C: reads its input's numbers (float32, little endian, one picture) from a file and prints the
   output's.

     gcc -Itf_dwsconv examples/serving/run_network.c tf_dwsconv/libtf_dwsconv.so -o run_network
     LD_LIBRARY_PATH=tf_dwsconv ./run_network mobilenet_v2.safetensors picture.raw 1 224 224 3

   For networks of one input and one output. */
#include <stdio.h>
#include <stdlib.h>

#include "tf_dwsconv.h"

enum { kMostSizes = 8 };

/* The numbers of a file, or NULL. */
static float* read_numbers(const char* path, int64_t count) {
  FILE* file = fopen(path, "rb");
  float* numbers = malloc((size_t)count * sizeof(float) + 1);
  size_t read = 0;
  if (file != NULL && numbers != NULL) read = fread(numbers, sizeof(float), (size_t)count, file);
  if (file != NULL) fclose(file);
  if (read == (size_t)count) return numbers;
  free(numbers);
  return NULL;
}

/* Runs the network and prints; 0 if all went well. */
static int run(const dwsconv_network* network, const float* numbers, const int64_t* shape, int rank) {
  const dwsconv_tensor input = {numbers, shape, rank};
  const int64_t count = dwsconv_output_elements(network, &input, 1, 0);
  float* output = count < 0 ? NULL : malloc((size_t)count * sizeof(float) + 1);
  void* outputs[1];
  int failed = output == NULL;
  outputs[0] = output;
  if (!failed) failed = dwsconv_run(network, &input, 1, outputs, 1, 0) != 0;
  if (failed) fprintf(stderr, "error: %s\n", dwsconv_last_error());
  for (int64_t i = 0; !failed && i < count; ++i) printf("%.9g\n", (double)output[i]);
  free(output);
  return failed;
}

int main(int argc, char** argv) {
  int64_t shape[kMostSizes], count = 1;
  const int rank = argc - 3;
  if (rank < 1 || rank > kMostSizes) {
    fprintf(stderr, "usage: run_network NETWORK INPUT SIZE...\n");
    return 2;
  }
  for (int i = 0; i < rank; ++i) {
    shape[i] = strtoll(argv[3 + i], NULL, 10);
    if (shape[i] < 1 || shape[i] > 1 << 20 || (count *= shape[i]) > 1 << 28) {
      fprintf(stderr, "error: a size must be 1 to 2^20, and their product at most 2^28\n");
      return 2;
    }
  }
  dwsconv_network* network = dwsconv_load(argv[1]);
  if (network == NULL) {
    fprintf(stderr, "error: %s\n", dwsconv_last_error());
    return 1;
  }
  float* numbers = read_numbers(argv[2], count);
  int failed = 1;
  if (dwsconv_dtype_of(network) != DWSCONV_FLOAT32) {
    fprintf(stderr, "error: the network must be of float32\n");
  } else if (numbers == NULL) {
    fprintf(stderr, "error: %s must have %lld numbers\n", argv[2], (long long)count);
  } else {
    failed = run(network, numbers, shape, rank);
  }
  free(numbers);
  dwsconv_free(network);
  return failed;
}
