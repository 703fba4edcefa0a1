#include "cuda/backward/depthwise_kernel.cuh"
#include "cuda/backward/slide_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {
namespace {

template <typename T, typename Win, bool kInput, bool kFilter>
const char* LaunchOf(const Call& call, const DepthwiseGradientArgs& args) {
  return LaunchKernel(DepthwiseGradientKernel<T, Win, kInput, kFilter>, Grid(args.items), kDepthwiseGradientThreads,
                      kFilter ? DepthwiseGradientSharedBytes<T, Win>() : 0, call.stream, args);
}

template <typename T, typename Win>
const char* LaunchSlide(const Call& call, GradientSlideArgs args, bool input) {
  const Chain& p = call.p;
  SetImage(p, &args);
  args.cut = CutGradientSlide(p);
  args.strips = p.N * args.cut.segments;
  args.part_strips = call.plan.filter.units;
  const int64_t items = call.plan.filter.count * args.cut.groups;  // a part is of one tile of columns
  if (items > kMostSlideItems) return "a depthwise filter's gradient has too many parts";
  args.items = static_cast<int>(items);
  constexpr int kWords = Win::kSize == 3 && sizeof(T) == 4 ? 2 : 1;
  const auto launch = [&](auto words) {
    constexpr int kSome = decltype(words)::value;
    const int threads = args.cut.threads();
    const auto kernel =
        input ? DepthwiseGradientSlideKernel<T, Win, kSome, true> : DepthwiseGradientSlideKernel<T, Win, kSome, false>;
    return LaunchKernel(kernel, Grid(items), threads, GradientSlideSharedBytes<T, Win, kSome>(threads), call.stream,
                        args);
  };
  if constexpr (kWords > 1) {
    if (GradientSlideWords(p) == kWords) return launch(std::integral_constant<int, kWords>());
  }
  return launch(std::integral_constant<int, 1>());
}

}  // namespace

const char* RunDepthwiseGradient(const Call& call, const CudaStep& step) {
  const Chain& p = call.p;
  if (call.plan.window && SlidesGradients(p)) {
    GradientSlideArgs args{};
    args.x = call.At(step.with);
    args.dz = call.At(step.from);
    args.d = call.At(CudaTensor::kDepthwiseFilter);
    args.dx = call.At(step.to);
    args.sums = call.SumsAt(step.sums);
    const int64_t bytes = 4 * GradientSlideWords(p);
    for (const void* const pointer : {args.x, args.dz, args.d, static_cast<const void*>(args.dx)}) {
      if (!call.Aligned(pointer, bytes)) return RunGeneralDepthwiseGradient(call, step);
    }
    const char* const turned = args.dx == nullptr ? nullptr : RunTurnedDepthwise(call, args.dz, args.dx);
    if (turned != nullptr && (*turned != '\0' || args.sums == nullptr)) return turned;
    const bool input = turned == nullptr && args.dx != nullptr;
    return WithElement(p.dtype, [&](auto element) {
      return WithWindow<5>(p, [&](auto win) {
        if constexpr (decltype(win)::kStride == 1) {
          return LaunchSlide<decltype(element), decltype(win)>(call, args, input);
        } else {
          return "";
        }
      });
    });
  }
  DepthwiseGradientArgs args{};
  args.x = call.At(step.with);
  args.dz = call.At(step.from);
  args.d = call.At(CudaTensor::kDepthwiseFilter);
  args.dx = call.At(step.to);
  args.sums = call.SumsAt(step.sums);
  if (!call.plan.window || !call.Aligned(args.x, 4) || !call.Aligned(args.d, 4) || !call.Aligned(args.dx, 4)) {
    return RunGeneralDepthwiseGradient(call, step);
  }
  SetImage(p, &args);
  const int64_t words = p.C * SizeOf(p.dtype) / 4;
  args.words = static_cast<int>(words);
  args.x_row_words = p.W * words;
  args.dz_row_words = p.Wo * words;
  args.groups = static_cast<int>(CeilDiv(words, kGradientGroupWords));
  args.group_words = static_cast<int>(CeilDiv(words, args.groups));
  args.patch_rows = static_cast<int>(GradientPatches(p.H, p.stride_h, p.pad_top));
  args.patch_columns = static_cast<int>(GradientPatches(p.W, p.stride_w, p.pad_left));
  args.patches = p.N * args.patch_rows * args.patch_columns;
  args.part_patches = call.plan.filter.units;
  args.items = call.plan.filter.count * args.groups;
  return WithElement(p.dtype, [&](auto element) {
    using T = decltype(element);
    return WithWindow<7>(p, [&](auto win) {
      using Win = decltype(win);
      if constexpr (Win::kSize < 7) {
        // With stride 1 the kernel above, but for channels that are no whole pieces of it.
        return LaunchOf<T, Win, true, true>(call, args);
      } else {
        // Weights and sums of 49 taps do not fit into a thread's registers together.
        const char* error = args.dx != nullptr ? LaunchOf<T, Win, true, false>(call, args) : "";
        if (*error == '\0' && args.sums != nullptr) error = LaunchOf<T, Win, false, true>(call, args);
        return error;
      }
    });
  });
}

}  // namespace cuda
}  // namespace dwsconv
