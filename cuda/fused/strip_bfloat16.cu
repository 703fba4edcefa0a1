#include "cuda/fused/strip_launch.cuh"

namespace dwsconv {
namespace cuda {

template const char* LaunchStrip<TensorCores16<BFloat16>>(const Chain&, const Launch&, const BlockStripArgs&);

}  // namespace cuda
}  // namespace dwsconv
