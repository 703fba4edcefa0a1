#include "cc/cpu/fused.h"

#include <algorithm>
#include <vector>

#include "cc/core/parallel.h"
#include "cc/cpu/layout.h"
#include "cc/cpu/scratch_pool.h"
#include "cc/plan/expand_plan.h"

namespace dwsconv {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename T>
void Interleave(const Problem& p, int64_t z_stride, int64_t pixels, T* z) {
  std::vector<T> row(static_cast<size_t>(p.CM()));
  for (int64_t i = 0; i < pixels; ++i, z += z_stride) {
    std::copy_n(z, p.CM(), row.begin());
    for (int64_t m = 0; m < p.M; ++m) {
      for (int64_t c = 0; c < p.C; ++c) z[c * p.M + m] = row[static_cast<size_t>(m * p.C + c)];
    }
  }
}

// A dense convolution of which each pixel needs one.
bool IsPointwise(const Problem& p) {
  return p.R == 1 && p.S == 1 && p.stride_h == 1 && p.stride_w == 1 && p.Ho == p.H && p.Wo == p.W;
}

bool OnCacheLines(const void* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }

// One call: what its tasks share.
class Run {
 public:
  Run(const Problem& problem, const ForwardBuffers& buffers, const PackedFilters& packed, const Stages& stages,
      const Plan& plan)
      : problem_(problem),
        layer_(packed.Layer(problem)),
        buffers_(buffers),
        packed_(packed),
        stages_(stages),
        plan_(plan),
        kernels_(packed.kernels()),
        item_(SizeOf(problem.dtype)),
        cm_(stages.depthwise ? problem.CM() : problem.R * problem.S * problem.C),
        pixels_(problem.output_pixels()),
        blocks_(CeilDiv(pixels_, plan.block_pixels)),
        shares_(stages.pointwise ? CeilDiv(problem.K, plan.block_channels) : 1),
        row_bytes_(problem.W * problem.C * item_),
        image_bytes_(problem.H * row_bytes_),
        typed_(problem.dtype == kernels_.z_type) {
    stream_ = plan.stream && typed_ && problem.K * item_ % 64 == 0 && OnCacheLines(buffers.output);
    // Z is what lies in memory already, or what is to lie there.
    const bool changed = stages.normalize || stages.scale != nullptr;
    from_x_ = !stages.depthwise && stages.pointwise && typed_ && !changed && IsPointwise(problem);
    to_y_ = !stages.pointwise && typed_ && !changed && buffers.residual == nullptr && !stream_ && layer_.M == 1 &&
            layer_.C % kernels_.vector_floats == 0;
  }

  int64_t tasks() const { return problem_.N * blocks_ * shares_; }
  int64_t scratch_bytes() const { return from_x_ || to_y_ ? plan_.repeat_bytes : plan_.scratch_bytes; }

  void Task(int64_t task, int64_t next, char* scratch) const {
    const int64_t share = task % shares_, block = task / shares_ % blocks_, n = task / shares_ / blocks_;
    const int64_t first = block * plan_.block_pixels;
    const char* image = static_cast<const char*>(buffers_.input) + n * image_bytes_;
    const int64_t at = (n * pixels_ + first) * problem_.K * item_;

    PointwiseArgs args;
    args.pixels = std::min(plan_.block_pixels, pixels_ - first);
    args.cm = cm_;
    args.z = scratch;
    args.z_stride = plan_.z_stride;
    args.K = problem_.K;
    args.residual = buffers_.residual ? static_cast<const char*>(buffers_.residual) + at : nullptr;
    args.y = static_cast<char*>(buffers_.output) + at;
    args.dtype = problem_.dtype;
    args.stream = stream_;
    if (from_x_) {
      args.z = image + first * problem_.C * item_;
      args.z_stride = problem_.C;
    } else if (to_y_) {
      Depthwise(image, n, first, args.pixels, static_cast<char*>(args.y), problem_.K, scratch);
      return;
    } else {
      Depthwise(image, n, first, args.pixels, scratch, plan_.z_stride,
                scratch + plan_.scratch_bytes - plan_.repeat_bytes);
    }
    if (!stages_.pointwise) {
      ToOutputOrder(layer_, SizeOf(kernels_.z_type), plan_.z_stride, args.pixels, scratch);
      kernels_.copy(args);
      return;
    }
    args.panels = packed_.panels();
    args.bias = packed_.bias();
    args.slopes = packed_.slopes();
    args.k_begin = share * plan_.block_channels;
    args.k_end = std::min(problem_.K, args.k_begin + plan_.block_channels);
    args.activation = problem_.out;
    args.ahead = nullptr;
    args.ahead_bytes = 0;
    if (next == task + 1 && shares_ == 1) {
      // The rows of X that the next task is the first to read.
      const int64_t done = first + args.pixels;
      const int64_t begin = block + 1 < blocks_ ? BytesRead(done) : image_bytes_;
      const int64_t end = block + 1 < blocks_ ? BytesRead(std::min(done + plan_.block_pixels, pixels_))
                                              : image_bytes_ + BytesRead(std::min(plan_.block_pixels, pixels_));
      args.ahead = image + begin;
      args.ahead_bytes = end - begin;
    }
    kernels_.pointwise(args);
  }

 private:
  // Z of `pixels` pixels, with all that happens to it. `repeat` is memory for RepeatedDepthwise.
  void Depthwise(const char* image, int64_t n, int64_t first, int64_t pixels, char* z, int64_t z_stride,
                 char* repeat) const {
    const float* const scale = stages_.scale ? stages_.scale + n * stages_.scale_stride : nullptr;
    DepthwiseArgs args;
    args.problem = &problem_;
    args.image = image;
    SetFilters(packed_, &args);
    args.first_pixel = first;
    args.pixels = pixels;
    args.z = z;
    args.z_stride = z_stride;
    const int type = static_cast<int>(problem_.dtype);
    // The factors of each image as a depthwise filter of one tap: cheaper than two passes.
    const bool scaled = scale != nullptr && !stages_.depthwise && !stages_.normalize && packed_.packed_pixels() == 0;
    if (scaled) args.filter = scale;
    if (packed_.repeats()) {
      RepeatedDepthwise(args, reinterpret_cast<float*>(repeat));
    } else {
      stages_.depthwise || scaled ? kernels_.depthwise[type](args) : kernels_.patches[type](args);
    }
    const RowsArgs rows = {reinterpret_cast<float*>(z), z_stride, pixels, cm_};
    if (stages_.normalize) kernels_.normalize(rows, stages_.epsilon);
    if (scale != nullptr && !scaled) kernels_.scale(rows, scale);
  }

  // The depthwise half on copies of X's rows with the channels repeated, a part of a row or some whole rows at a time.
  void RepeatedDepthwise(DepthwiseArgs args, float* rows) const {
    const Problem& p = problem_;
    const int64_t z_item = SizeOf(kernels_.z_type), end = args.first_pixel + args.pixels;
    const char* const image = static_cast<const char*>(args.image);
    Problem part = layer_;
    args.problem = &part;
    args.image = rows;
    for (int64_t pixel = args.first_pixel; pixel < end; pixel += args.pixels) {
      const int64_t row = pixel / p.Wo, q = pixel % p.Wo, whole = q == 0 ? (end - pixel) / p.Wo : 0;
      args.pixels = whole > 0 ? whole * p.Wo : std::min(p.Wo - q, end - pixel);
      part.Ho = std::max<int64_t>(whole, 1);
      part.Wo = whole > 0 ? p.Wo : args.pixels;
      int64_t top, bottom, left = 0, right = p.W;
      RowsRead(p, row, row + part.Ho, &top, &bottom);
      const int64_t w = q * p.stride_w - p.pad_left;
      if (whole == 0) {
        left = std::clamp<int64_t>(w, 0, p.W);
        right = std::clamp(w + (args.pixels - 1) * p.stride_w + (p.S - 1) * p.dilation_w + 1, left, p.W);
      }
      part.H = bottom - top;
      part.W = right - left;
      part.pad_top = top - (row * p.stride_h - p.pad_top);
      part.pad_left = left - w;
      for (int64_t h = top; h < bottom; ++h) {
        kernels_.repeat[static_cast<int>(p.dtype)](
            {image + (h * p.W + left) * p.C * item_, part.W * p.C, p.M, rows + (h - top) * part.W * part.C});
      }
      args.first_pixel = 0;
      kernels_.depthwise[static_cast<int>(DType::kFloat32)](args);
      args.z = static_cast<char*>(args.z) + args.pixels * args.z_stride * z_item;
    }
  }

  // Offset of the first byte of X past what output pixels [0, end) of an image read.
  int64_t BytesRead(int64_t end) const {
    if (from_x_) return end * problem_.C * item_;
    const int64_t last =
        (end - 1) / problem_.Wo * problem_.stride_h - problem_.pad_top + (problem_.R - 1) * problem_.dilation_h;
    return std::clamp<int64_t>(last + 1, 0, problem_.H) * row_bytes_;
  }

  const Problem& problem_;
  const Problem layer_;  // what the kernels compute
  const ForwardBuffers& buffers_;
  const PackedFilters& packed_;
  const Stages& stages_;
  const Plan& plan_;
  const KernelTable& kernels_;
  const int64_t item_, cm_, pixels_, blocks_, shares_, row_bytes_, image_bytes_;
  const bool typed_;  // X and Y are of Z's type
  bool stream_, from_x_, to_y_;
};

}  // namespace

void ToOutputOrder(const Problem& problem, int64_t z_item, int64_t z_stride, int64_t pixels, void* z) {
  if (problem.M == 1) return;
  z_item == 4 ? Interleave(problem, z_stride, pixels, static_cast<uint32_t*>(z))
              : Interleave(problem, z_stride, pixels, static_cast<uint16_t*>(z));
}

Problem DenseAsPointwise(const Problem& problem) {
  Problem p = problem;
  p.C = problem.R * problem.S * problem.C;
  p.R = p.S = p.stride_h = p.stride_w = p.dilation_h = p.dilation_w = 1;
  p.pad_top = p.pad_left = 0;
  p.H = p.Ho;
  p.W = p.Wo;
  return p;
}

void SetFilters(const PackedFilters& packed, DepthwiseArgs* args) {
  args->filter = packed.depthwise();
  args->bias = packed.depthwise_bias();
  args->slopes = packed.depthwise_slopes();
  args->channel_stride = packed.channel_stride();
  args->packed_pixels = packed.packed_pixels();
  args->packed_filter = packed.packed_filter();
  args->packed_bias = packed.packed_bias();
}

std::string RunFused(const Problem& problem, const ForwardBuffers& buffers, const PackedFilters& packed,
                     const Stages& stages, const ForwardOptions& options) {
  Plan plan;
  if (!stages.depthwise) {
    plan = ForwardPlan(DenseAsPointwise(problem), options);
    if (!IsPointwise(problem)) {
      // Patches are several times X: they had better stay in L1.
      const Problem pointwise = DenseAsPointwise(problem);
      const Machine machine = ForwardMachine(pointwise, options);
      const int64_t fit = machine.l1d_bytes / 2 / (plan.z_stride * machine.z_bytes) / machine.tile_pixels;
      plan.block_pixels = std::min(plan.block_pixels, std::max<int64_t>(fit, 4) * machine.tile_pixels);
      FinishPlan(pointwise, machine, &plan);
    }
  } else if (stages.pointwise) {
    plan = ForwardPlan(problem, options);
  } else {
    Problem depthwise = problem;
    depthwise.K = 1;  // what the planner takes: hardly a pointwise half
    plan = ForwardPlan(depthwise, options);
  }
  const Run run(problem, buffers, packed, stages, plan);
  Scratch scratch(plan.threads * run.scratch_bytes());
  if (scratch.data() == nullptr) return kOutOfMemory;
  ParallelForAhead({plan.threads, options.pool}, run.tasks(), [&](int64_t task, int64_t next, int worker) {
    run.Task(task, next, scratch.data() + worker * run.scratch_bytes());
  });
  return "";
}

std::string BetweenTranspositions(const Problem& problem, int64_t x_channels, const ForwardBuffers& buffers,
                                  const ForwardOptions& options, const ChannelsLastRun& run) {
  constexpr int64_t kCopyBytes = 8 << 20;
  const int64_t item = SizeOf(problem.dtype), pixels = problem.output_pixels();
  const int64_t x_bytes = problem.H * problem.W * x_channels * item, y_bytes = pixels * problem.K * item;
  const int64_t residual_bytes = problem.has_residual ? y_bytes : 0;
  const int64_t images = std::clamp<int64_t>(kCopyBytes / (x_bytes + y_bytes + residual_bytes + 1), 1, problem.N);
  Scratch x(images * x_bytes), y(images * y_bytes), residual(images * residual_bytes);
  if (x.data() == nullptr || y.data() == nullptr || residual.data() == nullptr) return kOutOfMemory;

  const Workers workers(options.num_threads, options.pool);
  Problem inner = problem;
  inner.layout = Layout::kNHWC;
  ForwardBuffers inside = buffers;
  inside.input = x.data();
  inside.residual = problem.has_residual ? residual.data() : nullptr;
  inside.output = y.data();
  for (int64_t n = 0; n < problem.N; n += inner.N) {
    inner.N = std::min(images, problem.N - n);
    const char* from = static_cast<const char*>(buffers.input) + n * x_bytes;
    TransposeMatrices(from, x.data(), inner.N, x_channels, problem.H * problem.W, item, workers);
    if (problem.has_residual) {
      from = static_cast<const char*>(buffers.residual) + n * y_bytes;
      TransposeMatrices(from, residual.data(), inner.N, problem.K, pixels, item, workers);
    }
    const std::string wrong = run(inner, n, inside);
    if (!wrong.empty()) return wrong;
    char* to = static_cast<char*>(buffers.output) + n * y_bytes;
    TransposeMatrices(y.data(), to, inner.N, pixels, problem.K, item, workers);
  }
  return "";
}

}  // namespace dwsconv
