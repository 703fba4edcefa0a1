#include "cuda/fused/tensor_stream_launch.cuh"

namespace dwsconv {
namespace cuda {

template const char* LaunchTensorStream<Float16>(const Chain&, const Launch&, const StreamArgs&);

}  // namespace cuda
}  // namespace dwsconv
