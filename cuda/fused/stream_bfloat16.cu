#include "cuda/fused/stream_launch.cuh"

namespace dwsconv {
namespace cuda {

template const char* LaunchStream<TensorCores16<BFloat16>>(const Chain&, const Launch&, const StreamArgs&);

}  // namespace cuda
}  // namespace dwsconv
