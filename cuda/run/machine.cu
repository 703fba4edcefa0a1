// What the driver says of a card. Not compiled for the CPU: cuda/testing/shim.cc has a card of its own.
#include <cuda_runtime.h>

#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "cuda/run/execute.h"

namespace dwsconv {
namespace cuda {

std::string CurrentMachine(CudaMachine* machine) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  static std::mutex mutex;
  static auto* const known = new std::vector<std::optional<CudaMachine>>;
  const std::lock_guard<std::mutex> lock(mutex);
  if (device >= static_cast<int>(known->size())) known->resize(device + 1);
  std::optional<CudaMachine>& found = (*known)[device];
  if (!found.has_value()) {
    const auto ask = [&error, device](cudaDeviceAttr attribute) {
      int value = 0;
      if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, attribute, device);
      return value;
    };
    CudaMachine asked;
    const int major = ask(cudaDevAttrComputeCapabilityMajor), minor = ask(cudaDevAttrComputeCapabilityMinor);
    asked.capability = 10 * major + minor;
    asked.multiprocessors = ask(cudaDevAttrMultiProcessorCount);
    asked.block_shared_bytes = ask(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    asked.multiprocessor_shared_bytes = ask(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
    asked.l2_bytes = ask(cudaDevAttrL2CacheSize);
    const int clock_khz = ask(cudaDevAttrClockRate), memory_clock_khz = ask(cudaDevAttrMemoryClockRate);
    SetClocks(clock_khz, memory_clock_khz, ask(cudaDevAttrGlobalMemoryBusWidth), &asked);
    asked.group_products = error == cudaSuccess && asked.capability == 90 && HasGroupProducts();
    if (error != cudaSuccess) {
      cudaGetLastError();  // or the next launch would return it
      return cudaGetErrorString(error);
    }
    found = asked;
  }
  *machine = *found;
  return "";
}

}  // namespace cuda
}  // namespace dwsconv
