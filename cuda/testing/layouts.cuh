// What the programs share that hold a card to the layouts of its instructions.
#ifndef DWSCONV_CUDA_TESTING_LAYOUTS_CUH_
#define DWSCONV_CUDA_TESTING_LAYOUTS_CUH_

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

// Factors of a product, small enough that every sum is exact.
inline int Left(int i, int k) { return (i * 7 + k * 3) % 11 - 5; }
inline int Right(int k, int j) { return (k * 5 + j * 2) % 7 - 3; }

// Memory of the card, or of the CPU that plays it.
template <typename T>
struct DeviceArray {
  T* data = nullptr;
  size_t bytes;
#if defined(DWSCONV_SHIM)
  explicit DeviceArray(const std::vector<T>& from) : bytes(from.size() * sizeof(T)) {
    data = static_cast<T*>(malloc(bytes));
    memcpy(data, from.data(), bytes);
  }
  ~DeviceArray() { free(data); }
  std::vector<T> Read() { return std::vector<T>(data, data + bytes / sizeof(T)); }
#else
  explicit DeviceArray(const std::vector<T>& from) : bytes(from.size() * sizeof(T)) {
    if (cudaMalloc(&data, bytes) != cudaSuccess) data = nullptr;
    cudaMemcpy(data, from.data(), bytes, cudaMemcpyHostToDevice);
  }
  ~DeviceArray() { cudaFree(data); }
  std::vector<T> Read() {
    std::vector<T> to(bytes / sizeof(T));
    const cudaError_t error = cudaMemcpy(to.data(), data, bytes, cudaMemcpyDeviceToHost);
    if (error != cudaSuccess) printf("cudaMemcpy: %s\n", cudaGetErrorString(error));
    return to;
  }
#endif
};

inline int Report(const char* what, int wrong, const char* error) {
  printf("%s: %s\n", what, *error != '\0' ? error : wrong == 0 ? "as expected" : "OFF");
  return wrong != 0 || *error != '\0' ? 1 : 0;
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_TESTING_LAYOUTS_CUH_
