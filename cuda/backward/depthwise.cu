#include "cuda/backward/depthwise_kernel.cuh"
#include "cuda/backward/filter_kernel.cuh"
#include "cuda/run/launch.cuh"

namespace dwsconv {
namespace cuda {
namespace {

template <typename T, typename Win, bool kInput, bool kFilter>
const char* LaunchOf(const Call& call, const DepthwiseGradientArgs& args) {
  return LaunchKernel(DepthwiseGradientKernel<T, Win, kInput, kFilter>, Grid(args.items), kDepthwiseGradientThreads,
                      kFilter ? DepthwiseGradientSharedBytes<T, Win>() : 0, call.stream, args);
}

// dD on tensor cores.
const char* RunTensorFilter(const Call& call, const DepthwiseGradientArgs& from) {
  const Chain& p = call.p;
  TensorFilterArgs args{};
  args.x = from.x, args.dz = from.dz, args.sums = from.sums;
  SetImage(p, &args);
  args.x_row = p.W * p.C, args.dz_row = p.Wo * p.C;
  args.cut = CutTensorFilter(p);
  args.part_pairs = static_cast<int>(call.plan.filter.units);
  args.items = static_cast<int>(call.plan.filter.count / args.cut.block_pairs()) * args.cut.channel_blocks;
  const auto launch = [&](auto element, auto win) {
    using T = decltype(element);
    using Win = decltype(win);
    return LaunchKernel(TensorFilterKernel<T, Win>, Grid(args.items), kTensorThreads, TensorFilterSharedBytes<T, Win>(),
                        call.stream, args);
  };
  // 3x3 with stride 2 goes by patches.
  const auto with_window = [&](auto element) {
    return p.R == 3          ? launch(element, Window<3, 1>())
           : p.stride_h == 1 ? launch(element, Window<5, 1>())
                             : launch(element, Window<5, 2>());
  };
  return p.dtype == DType::kFloat16 ? with_window(Float16()) : with_window(BFloat16());
}

}  // namespace

const char* RunDepthwiseGradient(const Call& call, const CudaStep& step) {
  const Chain& p = call.p;
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
  // On tensor cores parts are others, of which there are as many.
  args.part_patches = call.plan.tensor ? CeilDiv(args.patches, call.plan.filter.count) : call.plan.filter.units;
  args.items = call.plan.filter.count * args.groups;
  const bool tensor =
      call.plan.tensor && call.Aligned(args.x, 16) && call.Aligned(args.dz, 16) && call.Aligned(args.dx, 16);
  bool has_input = args.dx == nullptr;
  if (tensor && args.dx != nullptr && p.stride_h == 1) {
    const char* const error = RunTurnedDepthwise(call, args.dz, args.dx);
    if (error != nullptr && *error != '\0') return error;
    has_input = error != nullptr;
  }
  return WithElement(p.dtype, [&](auto element) {
    using T = decltype(element);
    return WithWindow<7>(p, [&](auto win) {
      using Win = decltype(win);
      if constexpr (Win::kSize < 7) {
        if (!tensor) return LaunchOf<T, Win, true, true>(call, args);
        const char* const error = has_input ? "" : LaunchOf<T, Win, true, false>(call, args);
        return *error == '\0' && args.sums != nullptr ? RunTensorFilter(call, args) : error;
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
