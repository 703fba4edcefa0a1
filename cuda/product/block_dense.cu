#include "cuda/product/block_product_launch.cuh"

namespace dwsconv {
namespace cuda {

const char* RunDenseProduct(const Call& call, const CudaStep& step) { return RunBlockProduct<WindowRows>(call, step); }

}  // namespace cuda
}  // namespace dwsconv
