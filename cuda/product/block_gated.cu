#include "cuda/product/block_product_launch.cuh"

namespace dwsconv {
namespace cuda {

const char* RunGatedProduct(const Call& call, const CudaStep& step) { return RunBlockProduct<GatedRows>(call, step); }

}  // namespace cuda
}  // namespace dwsconv
