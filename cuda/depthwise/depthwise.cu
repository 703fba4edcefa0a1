#include <utility>

#include "cuda/depthwise/depthwise_kernel.cuh"
#include "cuda/depthwise/slide_kernel.cuh"
#include "cuda/depthwise/tensor_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {
namespace {

// Threads that a multiprocessor has room for at a time, as most kernels' registers go.
constexpr int64_t kResidentThreads = 512;

template <typename T, typename Win, int kWords>
const char* LaunchSlide(const Call& call, SlideArgs args) {
  const Chain& p = call.p;
  const int64_t slots = std::max<int64_t>(1, call.plan.multiprocessors) * kResidentThreads;
  args.cut = CutSlide(p, kWords, p.Ho, p.Wo, slots, CeilDiv(p.R - p.stride_h + 3, p.stride_h));
  const int64_t items = p.N * args.cut.segments * args.cut.column_tiles * args.cut.groups;
  if (items > kMostSlideItems) return "a depthwise convolution has too many rows and columns";
  args.items = static_cast<int>(items);
  const auto kernel = p.mid.kind <= ActivationKind::kRelu6 ? DepthwiseSlideKernel<T, Win, kWords, true>
                                                           : DepthwiseSlideKernel<T, Win, kWords, false>;
  return LaunchKernel(kernel, Grid(items), args.cut.threads(), 0, call.stream, args);
}

// Words that a thread has of a pixel, by the registers that the window's weights take.
template <typename T, typename Win>
constexpr int kSlideWords = Win::kSize == 3  ? (sizeof(T) == 4 ? 4 : 2)
                            : sizeof(T) == 4 ? 2
                                             : 1;

// On tensor cores, or null where that cannot be. args: tensors, sizes, the activation.
template <typename T, typename Win>
const char* LaunchTensor(const Call& call, TensorArgs args) {
  if (call.plan.capability < 80 || !call.Vectors(args.C, args.x) || !call.Aligned(args.z, 16)) return nullptr;
  args.cut = CutTensor(call.p, args.Ho, args.Wo, call.plan.multiprocessors);
  if (args.cut.items == 0) return nullptr;
  const auto kernel = args.mid.kind <= static_cast<int>(ActivationKind::kRelu6) ? DepthwiseTensorKernel<T, Win, true>
                                                                                : DepthwiseTensorKernel<T, Win, false>;
  return LaunchKernel(kernel, Grid(CeilDiv(args.cut.items, kTensorWarps)), kTensorWarps * 32,
                      TensorSharedBytes<T, Win>(), call.stream, args);
}

template <typename T, typename Win>
const char* RunSlide(const Call& call, const DepthwiseArgs& from) {
  if constexpr (sizeof(T) == 2) {
    TensorArgs tensor{};
    tensor.x = from.x, tensor.d = from.d, tensor.bias = from.bias, tensor.z = from.z, tensor.mid = from.mid;
    SetImage(call.p, &tensor);
    const char* const error = LaunchTensor<T, Win>(call, tensor);
    if (error != nullptr) return error;
  }
  constexpr int kWords = kSlideWords<T, Win>;
  SlideArgs args{};
  args.x = from.x, args.d = from.d, args.bias = from.bias, args.z = from.z, args.mid = from.mid;
  SetImage(call.p, &args);
  const int64_t bytes = 4 * kWords;
  const bool wide = call.p.C * SizeOf(call.p.dtype) % bytes == 0 && call.Aligned(args.x, bytes) &&
                    call.Aligned(args.d, bytes) && call.Aligned(args.z, bytes);
  return wide ? LaunchSlide<T, Win, kWords>(call, args) : LaunchSlide<T, Win, 1>(call, args);
}

}  // namespace

const char* RunDepthwise(const Call& call, const CudaStep& step) {
  const Chain& p = call.p;
  DepthwiseArgs args{};
  SetDepthwise(call, call.At(step.from), call.At(step.to), &args);
  const bool window = step.kernel != CudaKernel::kDepthwise && call.Aligned(args.x, 4) && call.Aligned(args.d, 4) &&
                      call.Aligned(call.At(CudaTensor::kDX), 4) && p.W * p.C * SizeOf(p.dtype) <= kMostRowBytes &&
                      p.Wo * p.C * SizeOf(p.dtype) <= kMostRowBytes;
  const int64_t words = p.C * SizeOf(p.dtype) / 4;
  args.items = p.N * CeilDiv(p.Ho, kPatch) * CeilDiv(words * CeilDiv(p.Wo, kPatch), kDepthwiseThreads);
  return WithElement(p.dtype, [&](auto element) {
    using T = decltype(element);
    if (!window) {
      return LaunchKernel(DepthwiseGeneralKernel<T>,
                          Grid(CeilDiv(call.pixels() * p.CM(), kDepthwiseThreads), kMostBlocks), kDepthwiseThreads, 0,
                          call.stream, args);
    }
    return WithWindow<7>(p, [&](auto win) {
      using Win = decltype(win);
      if constexpr (Win::kSize < 7) {
        return RunSlide<T, Win>(call, args);
      } else {
        return LaunchKernel(DepthwiseKernel<T, Win>, Grid(args.items), kDepthwiseThreads, 0, call.stream, args);
      }
    });
  });
}

const char* RunTurnedDepthwise(const Call& call, const void* dz, void* dx) {
  const Chain& p = call.p;
  if (p.stride_h != 1 || p.R > 5) return nullptr;
  TensorArgs args{};
  args.x = dz, args.d = call.At(CudaTensor::kDepthwiseFilter), args.z = dx;
  args.turned = true;
  SetImage(p, &args);
  std::swap(args.H, args.Ho);
  std::swap(args.W, args.Wo);
  args.pad_top = static_cast<int>(p.R - 1 - p.pad_top);
  args.pad_left = static_cast<int>(p.S - 1 - p.pad_left);
  const auto launch = [&](auto element) -> const char* {
    using T = decltype(element);
    return p.R == 3 ? LaunchTensor<T, Window<3, 1>>(call, args) : LaunchTensor<T, Window<5, 1>>(call, args);
  };
  return p.dtype == DType::kFloat16 ? launch(Float16()) : p.dtype == DType::kBFloat16 ? launch(BFloat16()) : nullptr;
}

}  // namespace cuda
}  // namespace dwsconv
