#include <algorithm>

#include "cuda/product/warpgroup_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {
namespace {

// Blocks of a multiprocessor, by shared memory and by the kernel's launch bounds.
constexpr int64_t kBlocks = 2;

#if defined(DWSCONV_SHIM)
template <typename T>
const char* CheckCompiled() {
  return "";
}
#else
// Elsewhere than on 9.0a the kernel is empty, and so are its launch bounds.
template <typename T>
const char* CheckCompiled() {
  cudaFuncAttributes found;
  const cudaError_t error = cudaFuncGetAttributes(&found, WarpgroupKernel<T>);
  if (error != cudaSuccess) {
    cudaGetLastError();  // or the next launch would return it
    return cudaGetErrorString(error);
  }
  if (found.maxThreadsPerBlock >= kWarpgroupThreads) return "";
  return "path two_step_wgmma is compiled for architecture 90a alone: build with DWSCONV_CUDA_ARCHS=90a";
}
#endif

template <typename T>
const char* LaunchOf(const Call& call, const WarpgroupArgs& args) {
  static const char* const refused = CheckCompiled<T>();
  if (*refused != '\0') return refused;
  return LaunchKernel(WarpgroupKernel<T>, Grid(args.items, kBlocks * call.plan.multiprocessors), kWarpgroupThreads,
                      kGroupSharedBytes, call.stream, args);
}

}  // namespace

bool HasGroupProducts() { return *CheckCompiled<Float16>() == '\0'; }

const char* RunWarpgroupProduct(const Call& call, const CudaStep& step) {
  const Matrix matrix(call, step);
  WarpgroupArgs args{};
  args.bias = matrix.bias;
  args.out = matrix.Output(call);
  const bool transposed = call.p.dtype == DType::kFloat32;  // by an earlier step
  const void* const p = transposed ? call.At(CudaTensor::kTransposedFilter) : matrix.p;
  if (!args.out.vector || !call.Vectors(matrix.channels, matrix.x) || !call.Vectors(matrix.columns, p)) {
    // The planner, which does not see them, takes what runs: the other product.
    if (!call.plan.named) return RunProduct(call, step);
    return "path two_step_wgmma takes pointers that are multiples of 16 bytes";
  }
  args.pixels = matrix.pixels;
  args.column_tiles = CeilDiv(matrix.columns, kProductTile);
  args.items = CeilDiv(matrix.pixels, kProductTile) * args.column_tiles;
  args.channels = static_cast<int>(matrix.channels);
  const int bytes = static_cast<int>(SizeOf(call.p.dtype));
  for (const char* const error :
       {MakeTensorMap(matrix.x, matrix.pixels, matrix.channels, kProductTile, &args.z, bytes),
        transposed ? MakeTensorMap(p, matrix.columns, matrix.channels, kProductTile, &args.p, bytes)
                   : MakeTensorMap(p, matrix.channels, matrix.columns, kGroupDepth, &args.p, bytes)}) {
    if (*error != '\0') return error;
  }
  return WithElement(call.p.dtype, [&](auto element) { return LaunchOf<decltype(element)>(call, args); });
}

}  // namespace cuda
}  // namespace dwsconv
