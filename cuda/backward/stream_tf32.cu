#include "cuda/backward/stream_launch.cuh"

namespace dwsconv {
namespace cuda {

template const char* LaunchBackwardStream<TensorCoresTf32>(const Chain&, const Launch&, const BackwardStreamArgs&);

}  // namespace cuda
}  // namespace dwsconv
