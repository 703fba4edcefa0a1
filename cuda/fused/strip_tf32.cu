#include "cuda/fused/strip_launch.cuh"

namespace dwsconv {
namespace cuda {

template const char* LaunchStrip<TensorCoresTf32>(const Chain&, const Launch&, const BlockStripArgs&);

}  // namespace cuda
}  // namespace dwsconv
