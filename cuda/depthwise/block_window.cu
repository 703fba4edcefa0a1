#include <algorithm>

#include "cuda/depthwise/block_window_kernel.cuh"
#include "cuda/run/block_launch.h"

namespace dwsconv {
namespace cuda {
namespace {

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename T>
const char* LaunchWindow(int64_t window, int64_t stride, int multiprocessors, void* stream, BlockWindowArgs args) {
  void (*kernel)(BlockWindowArgs) = nullptr;
  if (window == 3 && stride == 1) kernel = BlockWindowKernel<T, Window<3, 1>>;
  if (window == 3 && stride == 2) kernel = BlockWindowKernel<T, Window<3, 2>>;
  if (window == 5 && stride == 1) kernel = BlockWindowKernel<T, Window<5, 1>>;
  if (window == 5 && stride == 2) kernel = BlockWindowKernel<T, Window<5, 2>>;
  if (window == 7 && stride == 1) kernel = BlockWindowKernel<T, Window<7, 1>>;
  if (kernel == nullptr) return "there is no kernel of the block for this window";
  const int64_t words = args.C / Word<T>::kElements;
  // Chunks of channels as even as they get, in whole warps.
  const int64_t chunks = Ceil(words, kBlockWindowThreads);
  if (args.normalize && chunks > 1) return "the norm in the kernel for windows is for fewer channels";
  const int threads = static_cast<int>(Ceil(Ceil(words, chunks), 32) * 32);
  args.items = Ceil(words, threads) * args.N * Ceil(args.Ho, kPatch) * Ceil(args.Wo, kPatch);
  // Blocks that run side by side, by some 168 registers a thread, and runs that keep them all busy to the end.
  const int64_t slots = int64_t{multiprocessors} * std::max(1, 65536 / (168 * threads));
  args.items_of_run = std::max<int64_t>(1, std::min<int64_t>(8, args.items / (4 * slots)));
  const int64_t shared_bytes = (threads / 32 + 1) * kSumsOfBlock * static_cast<int64_t>(sizeof(float));
  args.items_of_run = std::max(args.items_of_run, Ceil(args.items, INT32_MAX));
  return LaunchKernel(kernel, Ceil(args.items, args.items_of_run), threads, shared_bytes, stream, args);
}

}  // namespace

const char* LaunchBlockWindow(DType dtype, int64_t window, int64_t stride, int multiprocessors, void* stream,
                              BlockWindowArgs args) {
  switch (dtype) {
    case DType::kFloat16:
      return LaunchWindow<Float16>(window, stride, multiprocessors, stream, args);
    case DType::kBFloat16:
      return LaunchWindow<BFloat16>(window, stride, multiprocessors, stream, args);
    case DType::kFloat32:
      break;
  }
  return LaunchWindow<float>(window, stride, multiprocessors, stream, args);
}

}  // namespace cuda
}  // namespace dwsconv
