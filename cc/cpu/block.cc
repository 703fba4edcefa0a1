#include "cc/cpu/block.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <iterator>
#include <new>
#include <numeric>
#include <utility>
#include <vector>

#include "cc/core/half.h"
#include "cc/cpu/fused.h"
#include "cc/cpu/packed_filters.h"
#include "cc/cpu/scratch_pool.h"
#include "cc/plan/expand_plan.h"

namespace dwsconv {

namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The ways of ExpandWay, and their words.
enum class Way : int { kImages, kPieces, kChannels, kShares, kStrips, kKept };
constexpr const char* kWays[] = {"images", "pieces", "channels", "shares", "strips", "kept"};
std::atomic<int64_t> ways[std::size(kWays)];

void Count(Way way) { ways[static_cast<int>(way)].fetch_add(1, std::memory_order_relaxed); }

// The leading 1x1 convolution as a problem of its own, from X to A.
Problem LeadProblem(const Block& block) {
  Problem p;
  p.N = block.main.N;
  p.H = p.Ho = block.main.H;
  p.W = p.Wo = block.main.W;
  p.C = block.E;
  p.K = block.main.C;
  p.R = p.S = 1;
  p.dtype = block.main.dtype;
  p.out = block.lead;
  p.has_bias = block.has_expand_bias;
  // Both convolutions run on the same kernels.
  p.float_between = block.main.float_between || !IsClamp(block.main.mid.kind);
  return p;
}

// [N,C*M] in TensorFlow's channel order to float [N][stride] in Z's, m * C + c.
template <typename T>
void ScalesToFloat(const Problem& p, const void* from, int64_t stride, float* to) {
  const T* scale = static_cast<const T*>(from);
  for (int64_t n = 0; n < p.N; ++n) {
    for (int64_t c = 0; c < p.C; ++c) {
      for (int64_t m = 0; m < p.M; ++m) to[n * stride + m * p.C + c] = ToFloat(scale[n * p.CM() + c * p.M + m]);
    }
    std::fill(to + n * stride + p.CM(), to + (n + 1) * stride, 0.0f);
  }
}

void ScalesToFloat(const Problem& p, const void* from, int64_t stride, float* to) {
  switch (p.dtype) {
    case DType::kFloat32:
      return ScalesToFloat<float>(p, from, stride, to);
    case DType::kBFloat16:
      return ScalesToFloat<BFloat16>(p, from, stride, to);
    case DType::kFloat16:
      return ScalesToFloat<Float16>(p, from, stride, to);
  }
}

// A block that a 1x1 convolution leads: what its tasks share. Everything channels-last.
class ExpandRun {
 public:
  ExpandRun(const Block& block, const BlockBuffers& buffers, const PackedBlock& packed, const float* scale,
            int64_t scale_stride, const ExpandPlan& plan)
      : block_(block),
        p_(block.main),
        buffers_(buffers),
        packed_(packed),
        scale_(scale),
        scale_stride_(scale_stride),
        plan_(plan),
        lead_(LeadProblem(block)),
        kernels_(packed.main().kernels()),
        item_(SizeOf(p_.dtype)),
        z_item_(SizeOf(kernels_.z_type)),
        pixels_(p_.output_pixels()),
        strips_(plan.by_channels ? 1 : CeilDiv(p_.Ho, plan.rows)),
        pieces_(CeilDiv(p_.C, plan.channels)),
        converts_(kernels_.z_type != p_.dtype) {
    stream_ = plan.stream && !converts_ && p_.K * item_ % 64 == 0 &&
              reinterpret_cast<uintptr_t>(buffers.main.output) % 64 == 0;
    // X of the rows that a task expands, where the products want another type.
    const Plan x = XPlan();
    x_stride_ = x.z_stride;
    x_bytes_ = converts_ ? MostRows() * p_.W * x_stride_ * z_item_ + 64 : 0;
  }

  std::string Go(const ForwardOptions& options) {
    const Workers workers(plan_.threads, options.pool);
    const int64_t own = a_bytes() + x_bytes() + (plan_.by_channels ? 0 : z_bytes());
    Scratch scratch(plan_.threads * own), all(plan_.by_channels ? z_bytes() : 0);
    if (scratch.data() == nullptr || all.data() == nullptr) return kOutOfMemory;
    std::vector<Worker> states(static_cast<size_t>(plan_.threads));
    for (int i = 0; i < plan_.threads; ++i) {
      Worker& w = states[static_cast<size_t>(i)];
      w.a = scratch.data() + i * own;
      w.x = w.a + a_bytes();
      w.z = plan_.by_channels ? all.data() : w.x + x_bytes();
    }
    if (plan_.by_channels) {
      Count(Way::kChannels);
      ParallelFor(workers, p_.N * pieces_, [&](int64_t task, int worker) {
        Worker& w = states[static_cast<size_t>(worker)];
        const int64_t n = task / pieces_;
        Piece(n, 0, p_.Ho, task % pieces_ * plan_.channels, &w, w.z + n * pixels_ * z_pixel_bytes());
      });
      Finish(workers, all.data());
      return "";
    }
    Count(strips_ > 1 ? Way::kStrips : pieces_ > 1 ? Way::kPieces : Way::kImages);
    ParallelForAhead(workers, p_.N * strips_, [&](int64_t task, int64_t next, int worker) {
      Strip(task, next, &states[static_cast<size_t>(worker)]);
    });
    return "";
  }

 private:
  // A thread's memory, and which rows of A it holds.
  struct Worker {
    char *a = nullptr, *x = nullptr, *z = nullptr;
    int64_t n = -1, begin = 0, end = 0;        // `a` holds rows [begin, end) of image n, of all channels
    int64_t x_n = -1, x_begin = 0, x_end = 0;  // likewise `x`
  };

  static int64_t OnLine(int64_t bytes) { return (bytes + 63) / 64 * 64; }
  int64_t a_bytes() const { return OnLine(plan_.a_bytes); }
  int64_t x_bytes() const { return OnLine(x_bytes_); }
  int64_t z_bytes() const { return OnLine(plan_.z_bytes); }
  int64_t z_pixel_bytes() const { return plan_.z_stride * z_item_; }

  // Rows of A that a task may compute at a time.
  int64_t MostRows() const {
    if (plan_.by_channels) return p_.H;
    return std::min(p_.H, (plan_.rows - 1) * p_.stride_h + (p_.R - 1) * p_.dilation_h + 1);
  }

  Plan XPlan() const {
    Machine machine;
    machine.vector_floats = kernels_.vector_floats;
    machine.z_bytes = z_item_;
    Plan plan;
    plan.block_pixels = plan.block_channels = 1;
    FinishPlan(lead_, machine, &plan);
    return plan;
  }

  // X of rows [begin, end) of image n in Z's type, if it is of another.
  void Convert(int64_t n, int64_t begin, int64_t end, Worker* w) const {
    if (!converts_ || begin >= end || (w->x_n == n && w->x_begin == begin && w->x_end == end)) return;
    w->x_n = n;
    w->x_begin = begin;
    w->x_end = end;
    DepthwiseArgs args;  // of one tap of 1
    args.problem = &lead_;
    args.image = static_cast<const char*>(buffers_.main.input) + n * p_.H * p_.W * block_.E * item_;
    SetFilters(packed_.lead(), &args);
    args.first_pixel = begin * p_.W;
    args.pixels = (end - begin) * p_.W;
    args.z = w->x;
    args.z_stride = x_stride_;
    kernels_.depthwise[static_cast<int>(p_.dtype)](args);
  }

  // Channels [c, c + channels) of A's rows [begin, end) of image n to `a`, whose rows are `channels` wide.
  void Expand(int64_t n, int64_t begin, int64_t end, int64_t c, int64_t channels, const char* x, char* a) const {
    if (begin >= end) return;
    const char* image = static_cast<const char*>(buffers_.main.input) + n * p_.H * p_.W * block_.E * item_;
    const PackedFilters& packed = packed_.lead();
    PointwiseArgs args;
    args.pixels = (end - begin) * p_.W;
    args.cm = block_.E;
    args.z = converts_ ? x : image + begin * p_.W * block_.E * item_;
    args.z_stride = converts_ ? x_stride_ : block_.E;
    const int64_t pair = kernels_.pair;
    args.panels = static_cast<const char*>(packed.panels()) + c * CeilDiv(block_.E, pair) * pair * z_item_;
    args.bias = packed.bias() + c;
    args.slopes = packed.slopes() == nullptr ? nullptr : packed.slopes() + c;
    args.k_begin = 0;
    args.k_end = args.K = channels;
    args.residual = nullptr;
    args.y = a;
    args.dtype = kernels_.z_type;
    args.activation = block_.lead;
    args.ahead = nullptr;
    args.ahead_bytes = 0;
    args.stream = false;
    kernels_.pointwise(args);
  }

  // Z of output rows [first, last), channels [c, c + channels), from rows of A that begin with row `begin`.
  void Depthwise(const char* a, int64_t begin, int64_t end, int64_t first, int64_t last, int64_t c, int64_t channels,
                 char* z) const {
    Problem local = p_;
    local.dtype = kernels_.z_type;
    local.C = channels;
    local.H = end - begin;
    local.Ho = last - first;
    local.pad_top = p_.pad_top + begin - first * p_.stride_h;
    DepthwiseArgs args;
    args.problem = &local;
    args.image = a;
    SetFilters(packed_.main(), &args);
    // A part of the channels is whole vectors, and M is 1 then.
    args.filter += c * p_.R * p_.S;
    args.bias += c;
    if (args.slopes != nullptr) args.slopes += c;
    args.first_pixel = 0;
    args.pixels = local.Ho * p_.Wo;
    args.z = z + c * z_item_;
    args.z_stride = plan_.z_stride;
    kernels_.depthwise[static_cast<int>(kernels_.z_type)](args);
  }

  // One piece of the channels of Z of output rows [first, last).
  void Piece(int64_t n, int64_t first, int64_t last, int64_t c, Worker* w, char* z) const {
    int64_t begin, end;
    RowsRead(p_, first, last, &begin, &end);
    const int64_t channels = std::min(plan_.channels, p_.C - c), a_row = p_.W * channels * z_item_;
    int64_t have = begin;  // rows of A up to here are there
    if (pieces_ == 1) {
      if (w->n == n && w->begin <= begin && begin < w->end) {
        Count(Way::kKept);
        have = std::min(w->end, end);
        std::memmove(w->a, w->a + (begin - w->begin) * a_row, static_cast<size_t>((have - begin) * a_row));
      }
      w->n = n;
      w->begin = begin;
      w->end = end;
    }
    Convert(n, have, end, w);
    Expand(n, have, end, c, channels, w->x, w->a + (have - begin) * a_row);
    Depthwise(w->a, begin, end, first, last, c, channels, z);
  }

  // Y of `pixels` pixels of image n, output channels [k, k_end), from their Z.
  void Project(int64_t n, int64_t first, int64_t pixels, int64_t k, int64_t k_end, char* z, const char* ahead,
               int64_t ahead_bytes) const {
    const RowsArgs rows = {reinterpret_cast<float*>(z), plan_.z_stride, pixels, p_.CM()};
    if (block_.normalize) kernels_.normalize(rows, block_.epsilon);
    if (scale_ != nullptr) kernels_.scale(rows, scale_ + n * scale_stride_);
    const int64_t at = (n * pixels_ + first) * p_.K * item_;
    PointwiseArgs args;
    args.z = z;
    args.z_stride = plan_.z_stride;
    args.pixels = pixels;
    args.cm = p_.CM();
    args.panels = packed_.main().panels();
    args.bias = packed_.main().bias();
    args.slopes = packed_.main().slopes();
    args.k_begin = k;
    args.k_end = k_end;
    args.K = p_.K;
    args.residual = buffers_.main.residual ? static_cast<const char*>(buffers_.main.residual) + at : nullptr;
    args.y = static_cast<char*>(buffers_.main.output) + at;
    args.dtype = p_.dtype;
    args.activation = p_.out;
    args.ahead = ahead;
    args.ahead_bytes = ahead_bytes;
    args.stream = stream_;
    if (block_.has_pointwise) {
      kernels_.pointwise(args);
    } else {
      ToOutputOrder(p_, z_item_, plan_.z_stride, pixels, z);
      kernels_.copy(args);
    }
  }

  void Strip(int64_t task, int64_t next, Worker* w) const {
    const int64_t n = task / strips_, first = task % strips_ * plan_.rows, last = std::min(p_.Ho, first + plan_.rows);
    for (int64_t c = 0; c < p_.C; c += plan_.channels) Piece(n, first, last, c, w, w->z);
    const char* ahead = nullptr;
    int64_t ahead_bytes = 0;
    if (next == task + 1) {
      // X of the rows that the next task expands.
      const int64_t row = p_.W * block_.E * item_;
      int64_t begin, end, done, unused;
      const int64_t next_first = next % strips_ * plan_.rows;
      RowsRead(p_, next_first, std::min(p_.Ho, next_first + plan_.rows), &begin, &end);
      RowsRead(p_, first, last, &unused, &done);
      if (next / strips_ == n) begin = std::max(begin, done);
      ahead = static_cast<const char*>(buffers_.main.input) + (next / strips_ * p_.H + begin) * row;
      ahead_bytes = std::max<int64_t>(0, end - begin) * row;
    }
    Project(n, first * p_.Wo, (last - first) * p_.Wo, 0, p_.K, w->z, ahead, ahead_bytes);
  }

  // Y from all of Z: by groups of pixels, and of output channels where those are too few for the threads.
  void Finish(const Workers& workers, char* z) const {
    const bool whole = block_.normalize || scale_ != nullptr || !block_.has_pointwise;
    const int64_t tile = kernels_.tile_pixels, groups = CeilDiv(pixels_, tile), panel = kernels_.tile_channels;
    const int64_t wanted = whole ? 1 : CeilDiv(4 * plan_.threads, p_.N * groups);
    const int64_t step = std::min(p_.K, CeilDiv(CeilDiv(p_.K, panel), wanted) * panel), shares = CeilDiv(p_.K, step);
    if (shares > 1) Count(Way::kShares);
    ParallelFor(workers, p_.N * groups * shares, [&](int64_t task, int) {
      const int64_t share = task % shares, g = task / shares % groups, n = task / shares / groups;
      const int64_t first = g * pixels_ / groups, pixels = (g + 1) * pixels_ / groups - first;
      Project(n, first, pixels, share * step, std::min(p_.K, (share + 1) * step),
              z + (n * pixels_ + first) * z_pixel_bytes(), nullptr, 0);
    });
  }

  const Block& block_;
  const Problem& p_;
  const BlockBuffers& buffers_;
  const PackedBlock& packed_;
  const float* scale_;
  const int64_t scale_stride_;
  const ExpandPlan& plan_;
  const Problem lead_;
  const KernelTable& kernels_;
  const int64_t item_, z_item_, pixels_, strips_, pieces_;
  const bool converts_;
  bool stream_;
  int64_t x_stride_, x_bytes_;
};

// How many pixels the kernels take for one, where a block only scales and shifts channels that fill no vector: 16
// pixels of 3 channels are one of 48. 1 for all other blocks. Filters are packed for it.
int64_t PixelsTogether(const Block& block) {
  const Problem& p = block.main;
  const bool scales = block.has_depthwise && !block.has_pointwise && block.E == 0 && !block.normalize &&
                      !block.has_scale && p.R == 1 && p.S == 1 && p.M == 1;
  const bool one_activation = p.mid.kind != ActivationKind::kPRelu;
  const bool same_pixels = p.stride_h == 1 && p.stride_w == 1 && p.Ho == p.H && p.Wo == p.W;
  return scales && one_activation && same_pixels && p.C < 16 ? 16 / std::gcd(p.C, int64_t{16}) : 1;
}

constexpr int64_t kTogetherBytes = 16 * 15 * sizeof(float);  // of PixelsTogether at most
using TogetherBuffer = std::array<char, kTogetherBytes>;

Problem Together(const Problem& problem, int64_t pixels, int64_t together) {
  Problem p = problem;
  p.N = p.W = p.Wo = 1;
  p.H = p.Ho = pixels / together;
  p.C *= together;
  p.K *= together;
  return p;
}

// `together` copies of a filter or a bias, one after the other.
TogetherBuffer Repeat(const Problem& p, const void* from, int64_t together) {
  const int64_t bytes = p.C * SizeOf(p.dtype);
  TogetherBuffer all;
  for (int64_t i = 0; i < together; ++i) memcpy(all.data() + i * bytes, from, static_cast<size_t>(bytes));
  return all;
}

// What is packed beside the leading convolution.
Problem MainProblem(const Block& block) {
  Problem main = block.has_depthwise || !block.has_pointwise ? block.main : DenseAsPointwise(block.main);
  if (!block.has_pointwise) main.K = 0;
  return main;
}

std::string ScalePixels(const Problem& p, const ForwardBuffers& buffers, const PackedFilters& packed, int64_t together,
                        const ForwardOptions& options) {
  Stages stages;
  stages.pointwise = false;
  const int64_t pixels = p.N * p.H * p.W, rest = pixels % together, pixel = p.C * SizeOf(p.dtype);
  if (pixels >= together) {
    const std::string error = RunFused(Together(p, pixels, together), buffers, packed, stages, options);
    if (!error.empty()) return error;
  }
  if (rest == 0) return "";
  alignas(64) TogetherBuffer in = {}, out;
  memcpy(in.data(), static_cast<const char*>(buffers.input) + (pixels - rest) * pixel,
         static_cast<size_t>(rest * pixel));
  ForwardBuffers few = buffers;
  few.input = in.data();
  few.output = out.data();
  const std::string error = RunFused(Together(p, together, together), few, packed, stages, options);
  memcpy(static_cast<char*>(buffers.output) + (pixels - rest) * pixel, out.data(), static_cast<size_t>(rest * pixel));
  return error;
}

std::string ForwardChannelsLast(const Block& block, const BlockBuffers& buffers, const PackedBlock& packed,
                                const ForwardOptions& options) {
  const int64_t together = PixelsTogether(block);
  if (together > 1) return ScalePixels(block.main, buffers.main, packed.main(), together, options);
  const Problem layer = packed.main().Layer(block.main);
  const int64_t scale_stride = packed.main().channel_stride() * layer.M;
  Scratch scales(block.has_scale ? block.main.N * scale_stride * static_cast<int64_t>(sizeof(float)) : 0);
  if (scales.data() == nullptr) return kOutOfMemory;
  float* const scale = block.has_scale ? reinterpret_cast<float*>(scales.data()) : nullptr;
  if (block.has_scale) ScalesToFloat(layer, buffers.scale, scale_stride, scale);
  if (block.E > 0) {
    const ExpandPlan plan = MakeExpandPlan(block, ForwardMachine(block.main, options));
    return ExpandRun(block, buffers, packed, scale, scale_stride, plan).Go(options);
  }
  Stages stages;
  stages.depthwise = block.has_depthwise;
  stages.pointwise = block.has_pointwise;
  stages.normalize = block.normalize;
  stages.epsilon = block.epsilon;
  stages.scale = scale;
  stages.scale_stride = scale_stride;
  Problem problem = block.main;
  const bool window = problem.R > 1 || problem.S > 1 || problem.Ho != problem.H || problem.Wo != problem.W;
  if (!block.has_depthwise && !block.has_scale && !window) {
    // Pixels alone count: one tall image.
    problem.H = problem.Ho = problem.N * problem.H;
    problem.N = 1;
  }
  return RunFused(problem, buffers.main, packed.main(), stages, options);
}

}  // namespace

int64_t ExpandWay(const std::string& way) {
  for (size_t i = 0; i < std::size(kWays); ++i) {
    if (way == kWays[i]) return ways[i].load(std::memory_order_relaxed);
  }
  return -1;
}

int64_t PackedBlock::bytes() const { return main_->bytes() + (lead_ ? lead_->bytes() : 0); }

PackKey PackKeyOf(const Block& block, Isa isa) {
  const Problem main = MainProblem(block);
  const int64_t together = PixelsTogether(block);
  PackKey key = together > 1 ? PackKeyOf(Together(main, together, together), isa)
                             : PackKeyOf(main, isa, /*may_repeat=*/block.E == 0);
  if (block.E > 0) key.lead = PackKeyOf(LeadProblem(block), isa).main;
  key.stages = 1 + 2 * block.has_depthwise + 4 * block.has_pointwise + 8 * (block.E > 0) + 16 * (together > 1);
  return key;
}

PackedBlockPtr PackBlock(const Block& block, Isa isa, const BlockBuffers& buffers) {
  const Problem main = MainProblem(block);
  PackedFiltersPtr lead, rest;
  const int64_t together = PixelsTogether(block);
  if (together > 1) {
    const TogetherBuffer filter = Repeat(main, buffers.main.depthwise_filter, together);
    ForwardBuffers filters;
    filters.depthwise_filter = filter.data();
    TogetherBuffer bias;
    if (main.has_depthwise_bias) {
      bias = Repeat(main, buffers.main.depthwise_bias, together);
      filters.depthwise_bias = bias.data();
    }
    rest = PackFilters(Together(main, together, together), isa, filters);
  } else {
    rest = PackFilters(main, isa, buffers.main, /*may_repeat=*/block.E == 0);
  }
  if (block.E > 0) {
    ForwardBuffers filters;
    filters.pointwise_filter = buffers.expand_filter;
    filters.bias = buffers.expand_bias;
    filters.slopes = buffers.expand_slopes;
    lead = PackFilters(LeadProblem(block), isa, filters);
    if (!lead) return nullptr;
  }
  if (!rest) return nullptr;
  return PackedBlockPtr(new (std::nothrow) PackedBlock(PackKeyOf(block, isa), std::move(lead), std::move(rest)));
}

std::string ForwardBlock(const Block& block, const BlockBuffers& buffers, const PackedBlock* packed,
                         const ForwardOptions& options) {
  if (block.main.N == 0 || block.main.output_pixels() == 0) return "";
  CountForwardCall(options.isa);
  PackedBlockPtr own;
  if (packed == nullptr || !(packed->key() == PackKeyOf(block, options.isa))) {
    own = PackBlock(block, options.isa, buffers);
    if (!own) return kOutOfMemory;
    packed = own.get();
  }
  if (block.main.layout == Layout::kNHWC) return ForwardChannelsLast(block, buffers, *packed, options);
  return BetweenTranspositions(block.main, block.x_channels(), buffers.main, options,
                               [&](const Problem& problem, int64_t first_image, const ForwardBuffers& inside) {
                                 Block inner = block;
                                 inner.main = problem;
                                 BlockBuffers part = buffers;
                                 part.main = inside;
                                 if (block.has_scale) {
                                   part.scale = static_cast<const char*>(buffers.scale) +
                                                first_image * problem.CM() * SizeOf(problem.dtype);
                                 }
                                 return ForwardChannelsLast(inner, part, *packed, options);
                               });
}

}  // namespace dwsconv
