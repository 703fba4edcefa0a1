#include "cuda/product/block_product_kernel.cuh"
#include "cuda/run/block_launch.h"

namespace dwsconv {
namespace cuda {

const char* LaunchBlockGated(DType dtype, CudaMath math, void* stream, const BlockProductArgs& args) {
  switch (dtype) {
    case DType::kFloat16:
      return LaunchBlockProduct<TensorCores16<Float16>, GatedRows>(stream, args);
    case DType::kBFloat16:
      return LaunchBlockProduct<TensorCores16<BFloat16>, GatedRows>(stream, args);
    case DType::kFloat32:
      break;
  }
  return math == CudaMath::kTf32 ? LaunchBlockProduct<TensorCoresTf32, GatedRows>(stream, args)
                                 : LaunchBlockProduct<ExactFloat, GatedRows>(stream, args);
}

}  // namespace cuda
}  // namespace dwsconv
