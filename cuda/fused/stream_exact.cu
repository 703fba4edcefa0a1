#include "cuda/fused/stream_launch.cuh"

namespace dwsconv {
namespace cuda {

template const char* LaunchStream<ExactFloat>(const Chain&, const Launch&, const StreamArgs&);

}  // namespace cuda
}  // namespace dwsconv
