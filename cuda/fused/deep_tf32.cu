#include "cuda/fused/deep_launch.cuh"

namespace dwsconv {
namespace cuda {

template const char* LaunchDeep<TensorCoresTf32>(const Chain&, const Launch&, bool, const DeepArgs&);

}  // namespace cuda
}  // namespace dwsconv
