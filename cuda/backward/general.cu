#include <algorithm>

#include "cuda/backward/general_kernel.cuh"
#include "cuda/backward/reduce_kernel.cuh"
#include "cuda/run/backward_launch.h"

namespace dwsconv {
namespace cuda {
namespace {

// Calls launch(T()) with an element type.
template <typename F>
const char* WithElement(DType dtype, F launch) {
  switch (dtype) {
    case DType::kFloat16:
      return launch(Float16());
    case DType::kBFloat16:
      return launch(BFloat16());
    case DType::kFloat32:
      break;
  }
  return launch(float());
}

// For kernels with an element a thread, which take turns.
int64_t Grid(int64_t elements) {
  return std::min<int64_t>((elements + kGeneralThreads - 1) / kGeneralThreads, int64_t{1} << 16);
}

}  // namespace

const char* LaunchColumns(DType dtype, int64_t unit, void* stream, const ColumnArgs& args) {
  return WithElement(dtype, [&](auto element) {
    using T = decltype(element);
    constexpr int kVector = 16 / sizeof(T);
    const int64_t grid = std::min<int64_t>(args.items, INT32_MAX);
    const int shared_bytes = kColumnThreads * static_cast<int>(unit * sizeof(float));
    return LaunchKernel(unit == 1 ? ColumnKernel<T, 1> : ColumnKernel<T, kVector>, grid, kColumnThreads, shared_bytes,
                        stream, args);
  });
}

const char* LaunchReduce(DType dtype, void* stream, const ReduceArgs& args) {
  return WithElement(dtype, [&](auto element) {
    using T = decltype(element);
    const int threads = kReduceColumns * args.lanes;
    return LaunchKernel(ReduceKernel<T>, std::min<int64_t>(args.items, INT32_MAX), threads,
                        threads * static_cast<int64_t>(sizeof(float)), stream, args);
  });
}

const char* LaunchBetweenFactorsGeneral(DType dtype, void* stream, const DepthwiseArgs& args) {
  return WithElement(dtype, [&](auto element) {
    using T = decltype(element);
    return LaunchKernel(BetweenFactorsGeneralKernel<T>, Grid(args.N * args.Ho * args.Wo * args.C * args.M),
                        kGeneralThreads, 0, stream, args);
  });
}

const char* LaunchProductGeneral(DType dtype, void* stream, const GeneralProductArgs& args) {
  return WithElement(dtype, [&](auto element) {
    using T = decltype(element);
    return LaunchKernel(ProductGeneralKernel<T>, Grid(args.pixels * args.columns), kGeneralThreads, 0, stream, args);
  });
}

const char* LaunchFilterProductGeneral(DType dtype, void* stream, const GeneralFilterProductArgs& args) {
  return WithElement(dtype, [&](auto element) {
    using T = decltype(element);
    return LaunchKernel(FilterProductGeneralKernel<T>, Grid(args.parts * args.channels * args.columns), kGeneralThreads,
                        0, stream, args);
  });
}

const char* LaunchInputGradientGeneral(DType dtype, void* stream, const GeneralDepthwiseGradientArgs& args) {
  return WithElement(dtype, [&](auto element) {
    using T = decltype(element);
    const DepthwiseArgs& s = args.shape;
    return LaunchKernel(InputGradientGeneralKernel<T>, Grid(s.N * s.H * s.W * s.C), kGeneralThreads, 0, stream, args);
  });
}

const char* LaunchFilterGradientGeneral(DType dtype, void* stream, const GeneralDepthwiseGradientArgs& args) {
  return WithElement(dtype, [&](auto element) {
    using T = decltype(element);
    const DepthwiseArgs& s = args.shape;
    return LaunchKernel(FilterGradientGeneralKernel<T>, Grid(args.parts * s.R * s.S * s.C * s.M), kGeneralThreads, 0,
                        stream, args);
  });
}

}  // namespace cuda
}  // namespace dwsconv
