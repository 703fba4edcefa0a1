// Tensor maps by the driver. Not compiled for the CPU: cuda/testing/shim_hopper.cc has maps of its own.
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstring>

#include "cuda/device/tensor_map.h"

namespace dwsconv {
namespace cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's function, which libcuda has and the runtime does not, or why it is not there.
struct Found {
  Encode encode;
  const char* error;
};

Found FindEncode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
#else
  const cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
  if (error != cudaSuccess) {
    cudaGetLastError();  // or the next launch would return it
    return {nullptr, cudaGetErrorString(error)};
  }
  if (found != cudaDriverEntryPointSuccess) return {nullptr, "path two_step_wgmma needs a driver of CUDA 12 or newer"};
  return {reinterpret_cast<Encode>(function), ""};
}

}  // namespace

const char* MakeTensorMap(const void* matrix, int64_t rows, int64_t columns, int tile_rows, TensorMap* map,
                          int element_bytes) {
  static const Found found = FindEncode();
  if (found.encode == nullptr) return found.error;
  static_assert(sizeof(TensorMap) == sizeof(CUtensorMap) && alignof(TensorMap) >= alignof(CUtensorMap), "the driver's");
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t row_bytes[1] = {static_cast<cuuint64_t>(element_bytes) * sizes[0]};
  const cuuint32_t tile[2] = {static_cast<cuuint32_t>(kMapRowBytes / element_bytes),
                              static_cast<cuuint32_t>(tile_rows)};
  const cuuint32_t steps[2] = {1, 1};
  CUtensorMap made;
  // Elements are copied, never computed with: any bits will do.
  const CUtensorMapDataType type = element_bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_UINT16 : CU_TENSOR_MAP_DATA_TYPE_UINT32;
  const CUresult result = found.encode(&made, type, 2, const_cast<void*>(matrix), sizes, row_bytes, tile, steps,
                                       CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                       CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) return "cuTensorMapEncodeTiled refuses a matrix";
  memcpy(map, &made, sizeof(made));
  return "";
}

}  // namespace cuda
}  // namespace dwsconv
