#include <algorithm>

#include "cuda/depthwise/depthwise_kernel.cuh"
#include "cuda/run/launch.h"

namespace dwsconv {
namespace cuda {
namespace {

template <typename T>
const char* LaunchWindow(int64_t window, int64_t stride, const Launch& launch, const DepthwiseArgs& args) {
  void (*kernel)(DepthwiseArgs) = nullptr;
  if (window == 3 && stride == 1) kernel = DepthwiseKernel<T, Window<3, 1>>;
  if (window == 3 && stride == 2) kernel = DepthwiseKernel<T, Window<3, 2>>;
  if (window == 5 && stride == 1) kernel = DepthwiseKernel<T, Window<5, 1>>;
  if (window == 5 && stride == 2) kernel = DepthwiseKernel<T, Window<5, 2>>;
  if (window == 7 && stride == 1) kernel = DepthwiseKernel<T, Window<7, 1>>;
  if (kernel == nullptr) return "there is no depthwise kernel for this window";
  return LaunchKernel(kernel, launch.grid, kDepthwiseThreads, 0, launch.stream, args);
}

template <typename T>
const char* LaunchGeneral(void* stream, const DepthwiseArgs& args) {
  const int64_t outputs = args.N * args.Ho * args.Wo * args.C * args.M;
  const int64_t grid = std::min<int64_t>((outputs + kDepthwiseThreads - 1) / kDepthwiseThreads, int64_t{1} << 16);
  return LaunchKernel(DepthwiseGeneralKernel<T>, grid, kDepthwiseThreads, 0, stream, args);
}

}  // namespace

const char* LaunchDepthwise(DType dtype, int64_t window, int64_t stride, const Launch& launch,
                            const DepthwiseArgs& args) {
  switch (dtype) {
    case DType::kFloat16:
      return LaunchWindow<Float16>(window, stride, launch, args);
    case DType::kBFloat16:
      return LaunchWindow<BFloat16>(window, stride, launch, args);
    case DType::kFloat32:
      break;
  }
  return LaunchWindow<float>(window, stride, launch, args);
}

const char* LaunchDepthwiseGeneral(DType dtype, void* stream, const DepthwiseArgs& args) {
  switch (dtype) {
    case DType::kFloat16:
      return LaunchGeneral<Float16>(stream, args);
    case DType::kBFloat16:
      return LaunchGeneral<BFloat16>(stream, args);
    case DType::kFloat32:
      break;
  }
  return LaunchGeneral<float>(stream, args);
}

}  // namespace cuda
}  // namespace dwsconv
