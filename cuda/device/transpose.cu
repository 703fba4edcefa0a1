#include "cuda/device/transpose_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {

const char* RunTranspose(const Call& call, const CudaStep& step) {
  TransposeArgs args{};
  args.from = call.At(step.from);
  args.to = call.At(step.to);
  if (step.kernel == CudaKernel::kTransposeFilter) {
    args.batch = 1, args.rows = call.p.CM(), args.columns = call.p.K;
  } else {
    const auto sizes = CudaSizes(call.chain, step.from);
    args.batch = sizes[0], args.rows = sizes[1] * sizes[2], args.columns = sizes[3];
    if (step.kernel == CudaKernel::kToNhwc) {
      args.from = call.given[step.from];
      std::swap(args.rows, args.columns);
    } else {
      args.to = call.given[step.to];
    }
  }
  args.items = args.batch * CeilDiv(args.rows, kTransposeTile) * CeilDiv(args.columns, kTransposeTile);
  if (args.items == 0) return "";
  // Gradients' products round what they read.
  const bool rounds = step.kernel == CudaKernel::kTransposeFilter && !call.plan.gradients;
  const auto kernel = SizeOf(call.p.dtype) == 2 ? TransposeKernel<uint16_t>
                      : rounds                  ? TransposeKernel<uint32_t, true>
                                                : TransposeKernel<uint32_t>;
  return LaunchKernel(kernel, Grid(args.items, kMostBlocks), kTransposeThreads, kTransposeSharedBytes, call.stream,
                      args);
}

}  // namespace cuda
}  // namespace dwsconv
