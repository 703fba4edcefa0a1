#include "cuda/fused/deep_launch.cuh"

namespace dwsconv {
namespace cuda {

template const char* LaunchDeep<TensorCores16<Float16>>(const Chain&, const Launch&, bool, const DeepArgs&);

}  // namespace cuda
}  // namespace dwsconv
