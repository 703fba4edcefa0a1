#include "cuda/backward/stream_launch.cuh"

namespace dwsconv {
namespace cuda {

template const char* LaunchBackwardStream<TensorCores16<BFloat16>>(const Chain&, const Launch&,
                                                                   const BackwardStreamArgs&);

}  // namespace cuda
}  // namespace dwsconv
