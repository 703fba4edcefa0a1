#include <algorithm>

#include "cuda/backward/depthwise_kernel.cuh"
#include "cuda/run/backward_launch.h"

namespace dwsconv {
namespace cuda {
namespace {

template <typename T, typename Win, bool kInput, bool kFilter>
const char* LaunchOf(void* stream, const DepthwiseGradientArgs& args) {
  return LaunchKernel(DepthwiseGradientKernel<T, Win, kInput, kFilter>, std::min<int64_t>(args.items, INT32_MAX),
                      kDepthwiseGradientThreads, kFilter ? DepthwiseGradientSharedBytes<T, Win>() : 0, stream, args);
}

template <typename T>
const char* LaunchWindow(int64_t window, int64_t stride, void* stream, const DepthwiseGradientArgs& args) {
  if (window == 3 && stride == 1) return LaunchOf<T, Window<3, 1>, true, true>(stream, args);
  if (window == 3 && stride == 2) return LaunchOf<T, Window<3, 2>, true, true>(stream, args);
  if (window == 5 && stride == 1) return LaunchOf<T, Window<5, 1>, true, true>(stream, args);
  if (window == 5 && stride == 2) return LaunchOf<T, Window<5, 2>, true, true>(stream, args);
  if (window != 7 || stride != 1) return "there is no kernel of depthwise gradients for this window";
  // Weights and sums of 49 taps do not fit into a thread's registers together.
  const char* error = args.dx != nullptr ? LaunchOf<T, Window<7, 1>, true, false>(stream, args) : "";
  if (*error != '\0' || args.sums == nullptr) return error;
  return LaunchOf<T, Window<7, 1>, false, true>(stream, args);
}

}  // namespace

const char* LaunchDepthwiseGradient(DType dtype, int64_t window, int64_t stride, void* stream,
                                    const DepthwiseGradientArgs& args) {
  switch (dtype) {
    case DType::kFloat16:
      return LaunchWindow<Float16>(window, stride, stream, args);
    case DType::kBFloat16:
      return LaunchWindow<BFloat16>(window, stride, stream, args);
    case DType::kFloat32:
      break;
  }
  return LaunchWindow<float>(window, stride, stream, args);
}

}  // namespace cuda
}  // namespace dwsconv
