#include "cuda/product/block_product_kernel.cuh"
#include "cuda/run/block_launch.h"

namespace dwsconv {
namespace cuda {

const char* LaunchBlockDense(DType dtype, CudaMath math, void* stream, const BlockProductArgs& args) {
  switch (dtype) {
    case DType::kFloat16:
      return LaunchBlockProduct<TensorCores16<Float16>, WindowRows>(stream, args);
    case DType::kBFloat16:
      return LaunchBlockProduct<TensorCores16<BFloat16>, WindowRows>(stream, args);
    case DType::kFloat32:
      break;
  }
  return math == CudaMath::kTf32 ? LaunchBlockProduct<TensorCoresTf32, WindowRows>(stream, args)
                                 : LaunchBlockProduct<ExactFloat, WindowRows>(stream, args);
}

}  // namespace cuda
}  // namespace dwsconv
