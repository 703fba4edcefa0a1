#include "cuda/depthwise/block_window_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {

const char* RunWindow(const Call& call, const CudaStep& step) {
  const Chain& p = call.p;
  BlockWindowArgs args{};
  args.x = call.At(step.from);
  args.d = call.At(step.with);
  args.bias = call.At(CudaTensor::kDepthwiseBias);
  args.gate = step.gate ? call.At(CudaTensor::kGate) : nullptr;
  args.residual = step.residual ? call.At(CudaTensor::kResidual) : nullptr;
  args.y = call.At(step.to);
  for (const void* pointer : {args.x, args.d, args.gate, args.residual, static_cast<const void*>(args.y)}) {
    if (!call.Aligned(pointer, 4)) return RunPixels(call, step);
  }
  args.mid = OnDevice(p.mid);
  args.normalize = step.normalize;
  args.epsilon = call.chain.epsilon;
  SetImage(p, &args);
  const int64_t words = p.C * SizeOf(p.dtype) / 4;
  args.words = static_cast<int>(words);
  args.row_words = p.W * words;
  args.patch_rows = static_cast<int>(CeilDiv(p.Ho, kPatch));
  args.patch_columns = static_cast<int>(CeilDiv(p.Wo, kPatch));
  args.patches = p.N * args.patch_rows * args.patch_columns;
  // Chunks of channels as even as they get, in whole warps.
  const int64_t chunks = CeilDiv(words, kBlockWindowThreads);
  if (args.normalize && chunks > 1) return "the norm in the kernel for windows is for fewer channels";
  const int threads = static_cast<int>(RoundUp(CeilDiv(words, chunks), 32));
  args.items = CeilDiv(words, threads) * args.patches;
  // Blocks that run side by side, by some 168 registers a thread, and runs that keep them all busy to the end.
  const int64_t slots = int64_t{call.plan.multiprocessors} * std::max(1, 65536 / (168 * threads));
  args.items_of_run = std::max<int64_t>(1, std::min<int64_t>(8, args.items / (4 * slots)));
  args.items_of_run = std::max(args.items_of_run, CeilDiv(args.items, INT32_MAX));
  const int64_t shared_bytes = (threads / 32 + 1) * kSumsOfBlock * static_cast<int64_t>(sizeof(float));
  return WithElement(p.dtype, [&](auto element) {
    return WithWindow<7>(p, [&](auto win) {
      return LaunchKernel(BlockWindowKernel<decltype(element), decltype(win)>, CeilDiv(args.items, args.items_of_run),
                          threads, shared_bytes, call.stream, args);
    });
  });
}

}  // namespace cuda
}  // namespace dwsconv
