#include "cc/cpu/run/backward_task.h"

#include <algorithm>
#include <cstring>
namespace dwsconv {
namespace {

void Zero(float* p, int64_t n) { std::memset(p, 0, static_cast<size_t>(n) * sizeof(float)); }

const char* At(const void* base, int64_t elements, DType dtype) {
  return static_cast<const char*>(base) + elements * SizeOf(dtype);
}

// Runs over the output rows of one image from top to bottom, a few at a time; keeps the rows of dZ that the next rows
// of dX need.
class Task {
 public:
  Task(const BackwardJob& job, int64_t block, float* sums, float* scratch)
      : job_(job),
        p_(*job.chain),
        plan_(*job.plan),
        kernels_(*job.kernels),
        x_channels_(p_.C / plan_.times),
        block_(block) {
    first_channel_ = block * plan_.block_channels;
    channels_ = std::min(plan_.block_channels, p_.C - first_channel_);
    x_ = scratch;
    g_ = x_ + plan_.x_floats;
    y_ = g_ + plan_.g_floats;
    dz_ = y_ + plan_.y_floats;
    before_ = dz_ + plan_.dz_floats;
    z_ = IsClamp(p_.mid.kind) ? before_ : before_ + plan_.z_floats;
    rounded_ = reinterpret_cast<BFloat16*>(before_ + (IsClamp(p_.mid.kind) ? 1 : 2) * plan_.z_floats);
    g_pairs_ = rounded_ + 2 * plan_.rounded_floats;
    z_pairs_ = g_pairs_ + 2 * plan_.g_pair_floats;
    fold_ = reinterpret_cast<float*>(z_pairs_ + 2 * plan_.z_pair_floats);
    sources_ = reinterpret_cast<const float**>(scratch + plan_.scratch_floats - plan_.list_floats);
    filter_list_ = sources_ + p_.R * p_.S * p_.M;
    dp_ = sums;
    dd_ = dp_ + plan_.dp_floats;
    mid_bias_ = dd_ + plan_.dd_floats;
    bias_ = mid_bias_ + plan_.columns;
    Zero(dd_, plan_.sum_floats - plan_.dp_floats);
    filters_ = job.filters + block * plan_.filter_floats;
    x_row_ = plan_.x_columns * plan_.x_stride;
    dz_row_ = (plan_.left + p_.Wo + plan_.right) * plan_.z_stride;
    if (job_.wants_dz) Zero(dz_, plan_.dz_floats);  // the columns beside the image stay so
  }

  // Output rows [begin, end) of image n.
  void Run(int64_t n, int64_t begin, int64_t end) {
    image_ = n;
    next_row_ = std::clamp<int64_t>(begin == 0 ? 0 : begin * p_.stride_h - p_.pad_top, 0, p_.H);
    if (job_.wants_dx) Zero(dz_, plan_.history * dz_row_);
    // Rows above the first are another task's but for the dX of this one.
    int64_t row = job_.wants_dx ? std::max<int64_t>(0, begin - plan_.history) : begin;
    while (row < end) {
      const bool own = row >= begin;
      const int64_t stop = std::min(row + plan_.block_rows, own ? end : begin);
      Block(row, stop, own);
      row = stop;
    }
  }

 private:
  // Tap rows [r0, r1) by tap columns [s0, s1).
  struct Taps {
    int64_t r0, r1, s0, s1;
  };

  // Output rows [begin, end): at most block_rows.
  void Block(int64_t begin, int64_t end, bool own) {
    const int64_t rows = end - begin;
    const bool wants_z = own && job_.wants_dp;
    if (p_.has_project) GatherGradient(begin, rows);
    if (p_.has_project && kernels_.round != nullptr) {
      kernels_.round({g_, plan_.g_stride, rows * p_.Wo, plan_.padded_K, job_.wants_dz ? rounded_ : nullptr,
                      plan_.g_stride, wants_z ? g_pairs_ : nullptr, 2 * plan_.g_stride});
    }
    const bool mid = p_.mid.kind != ActivationKind::kNone, needs_z = wants_z || (mid && job_.wants_dz);
    if (needs_z || (own && job_.wants_dd)) GatherInput(begin, rows);
    if (needs_z) ComputeZ(rows);
    if (wants_z) AddPointwiseGradient(end, rows);
    if (own && job_.wants_bias && block_ == 0) {
      kernels_.column_sums({g_, 0, plan_.g_stride, 1, rows * p_.Wo, plan_.padded_K, bias_});
    }
    if (!job_.wants_dz) return;
    float* const dz = dz_ + plan_.history * dz_row_ + plan_.left * plan_.z_stride;
    ComputeDz(begin, rows, mid, dz);
    if (own && job_.wants_mid_bias) {
      kernels_.column_sums({dz, dz_row_, plan_.z_stride, rows, p_.Wo, plan_.columns, mid_bias_});
    }
    if (own && job_.wants_dd) AddFilterGradient(dz, rows);
    if (job_.wants_dx) {
      if (own) StoreInputGradient(begin, end);
      std::memmove(dz_, dz_ + rows * dz_row_, static_cast<size_t>(plan_.history * dz_row_) * sizeof(float));
    }
  }

  // dY through the last activation, dense: [rows * Wo][g_stride].
  void GatherGradient(int64_t begin, int64_t rows) {
    const int64_t first = (image_ * p_.output_pixels() + begin * p_.Wo) * p_.K;
    const auto gather = kernels_.gather[static_cast<int>(p_.dtype)];
    if (p_.out.kind == ActivationKind::kNone) {
      gather({At(job_.buffers->grad, first, p_.dtype), p_.K, rows * p_.Wo, p_.K, plan_.padded_K, g_, plan_.g_stride});
      return;
    }
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t from = first + row * p_.Wo * p_.K;
      float* const g = g_ + row * p_.Wo * plan_.g_stride;
      gather({At(job_.buffers->grad, from, p_.dtype), p_.K, p_.Wo, p_.K, plan_.padded_K, g, plan_.g_stride});
      kernels_.gather[static_cast<int>(job_.at_dtype)](
          {At(job_.at, from, job_.at_dtype), p_.K, p_.Wo, p_.K, plan_.padded_K, y_, plan_.g_stride});
      kernels_.derivative({p_.out, y_, plan_.g_stride, g, plan_.g_stride, p_.Wo, plan_.padded_K});
    }
  }

  // The rows of X under output rows [begin, begin + rows), with zeros where they lie outside.
  void GatherInput(int64_t begin, int64_t rows) {
    const int64_t top = begin * p_.stride_h - p_.pad_top;
    const int64_t count = (rows - 1) * p_.stride_h + (p_.R - 1) * p_.dilation_h + 1;
    const int64_t left = std::min(p_.pad_left, plan_.x_columns);
    const int64_t inside = std::clamp<int64_t>(plan_.x_columns - left, 0, p_.W);
    for (int64_t i = 0; i < count; ++i) {
      float* const to = x_ + i * x_row_;
      const int64_t h = top + i;
      if (h < 0 || h >= p_.H || inside == 0) {
        Zero(to, x_row_);
        continue;
      }
      Zero(to, left * plan_.x_stride);
      const int64_t from = ((image_ * p_.H + h) * p_.W) * x_channels_ + first_channel_ / plan_.times;
      kernels_.gather[static_cast<int>(p_.dtype)]({At(job_.buffers->input, from, p_.dtype), x_channels_, inside,
                                                   channels_ / plan_.times, plan_.padded_channels,
                                                   to + left * plan_.x_stride, plan_.x_stride, plan_.times});
      Zero(to + (left + inside) * plan_.x_stride, (plan_.x_columns - left - inside) * plan_.x_stride);
    }
  }

  // What the next rows read of dY and of X. The image that follows is next in memory, too.
  AheadArgs GradientAhead(int64_t end, int64_t rows) const {
    const int64_t row = p_.Wo * p_.K, first = image_ * p_.Ho + end, last = std::min(first + rows, p_.N * p_.Ho);
    if (last <= first) return {};
    return {At(job_.buffers->grad, first * row, p_.dtype), (last - first) * row * SizeOf(p_.dtype)};
  }
  AheadArgs InputAhead(int64_t end, int64_t rows) const {
    const int64_t reach = (p_.R - 1) * p_.dilation_h + 1;
    const int64_t read = std::clamp<int64_t>((end - 1) * p_.stride_h - p_.pad_top + reach, 0, p_.H);
    const int64_t first = image_ * p_.H + read, last = std::min(first + rows * p_.stride_h, p_.N * p_.H);
    if (last <= first || plan_.blocks > 1) return {};
    const int64_t row = p_.W * x_channels_;  // of the only block
    return {At(job_.buffers->input, first * row, p_.dtype), (last - first) * row * SizeOf(p_.dtype)};
  }

  void ComputeZ(int64_t rows) {
    const int64_t taps = p_.R * p_.S;
    for (int64_t m = 0; m < p_.M; ++m) {
      for (int64_t t = 0; t < taps; ++t) {
        sources_[t] = Tap(t);
        filter_list_[t] = Filter(m, t);
      }
      TapSumArgs args;
      args.sources = sources_;
      args.filters = filter_list_;
      args.taps = taps;
      args.source_row = p_.stride_h * x_row_;
      args.source_pixel = p_.stride_w * plan_.x_stride;
      args.rows = rows;
      args.pixels = p_.Wo;
      args.channels = plan_.padded_channels;
      args.bias = filters_ + plan_.dd_floats + m * plan_.padded_channels;
      args.to = before_ + m * plan_.padded_channels;
      args.to_row = p_.Wo * plan_.z_stride;
      args.to_pixel = plan_.z_stride;
      args.grid_rows = p_.R;
      args.grid_row = p_.dilation_h * x_row_;
      args.grid_pixel = p_.dilation_w * plan_.x_stride;
      args.stream = false;
      kernels_.tap_sums[static_cast<int>(DType::kFloat32)](args);
    }
    if (p_.mid.kind != ActivationKind::kNone) {
      kernels_.activate({p_.mid, before_, z_, plan_.z_stride, rows * p_.Wo, plan_.columns});
    }
  }

  void AddPointwiseGradient(int64_t end, int64_t rows) {
    const int64_t pixels = rows * p_.Wo;
    OuterArgs args = {z_,  plan_.z_stride, plan_.columns,        g_, plan_.g_stride, plan_.padded_K, pixels,
                      dp_, first_,         InputAhead(end, rows)};
    if (kernels_.round != nullptr) {
      kernels_.round({z_, plan_.z_stride, pixels, plan_.columns, nullptr, 0, z_pairs_, 2 * plan_.z_stride});
      args.z = z_pairs_;
      args.g = g_pairs_;
      args.z_step *= 2;
      args.g_step *= 2;
    }
    kernels_.outer(args);
    first_ = false;
  }

  void ComputeDz(int64_t begin, int64_t rows, bool mid, float* dz) {
    if (p_.has_project) {
      const void* const g = kernels_.round != nullptr ? static_cast<const void*>(rounded_) : g_;
      kernels_.multiply({g, plan_.g_stride, rows * p_.Wo, p_.K, job_.panels + block_ * plan_.panel_floats,
                         plan_.columns, dz, plan_.z_stride, dz_row_, p_.Wo, GradientAhead(begin + rows, rows)});
    } else {
      TakeGradient(begin, rows, dz);
    }
    if (!mid) return;
    // A clamp can be told from its result; others are asked at what went in.
    for (int64_t row = 0; row < rows; ++row) {
      const float* at = (DerivativeFromInput(p_.mid) ? before_ : z_) + row * p_.Wo * plan_.z_stride;
      kernels_.derivative({p_.mid, at, plan_.z_stride, dz + row * dz_row_, plan_.z_stride, p_.Wo, plan_.columns});
    }
  }

  // dY as dZ, where nothing follows. Each channel has one multiplier in scratch.
  void TakeGradient(int64_t begin, int64_t rows, float* dz) {
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t from = (image_ * p_.Ho + begin + row) * p_.Wo * p_.C + first_channel_;
      kernels_.gather[static_cast<int>(p_.dtype)]({At(job_.buffers->grad, from, p_.dtype), p_.C, p_.Wo, channels_,
                                                   plan_.padded_channels, dz + row * dz_row_, plan_.z_stride});
    }
  }

  void AddFilterGradient(const float* dz, int64_t rows) {
    const int64_t taps = p_.R * p_.S;
    for (int64_t t = 0; t < taps; ++t) sources_[t] = Tap(t);
    for (int64_t m = 0; m < p_.M; ++m) {
      TapProductArgs args;
      args.sources = sources_;
      args.taps = taps;
      args.source_row = p_.stride_h * x_row_;
      args.source_pixel = p_.stride_w * plan_.x_stride;
      args.grad = dz + m * plan_.padded_channels;
      args.grad_row = dz_row_;
      args.grad_pixel = plan_.z_stride;
      args.rows = rows;
      args.pixels = p_.Wo;
      args.padded = plan_.padded_channels;
      args.sums = dd_ + m * taps * plan_.padded_channels;
      args.sums_tap = plan_.padded_channels;
      kernels_.tap_products(args);
    }
  }

  // The rows of dX that output rows below `end` do not reach: dX[h] sums over p * stride_h = h + pad_top - r *
  // dilation_h.
  void StoreInputGradient(int64_t begin, int64_t end) {
    const int64_t stop = end == p_.Ho ? p_.H : std::clamp<int64_t>(end * p_.stride_h - p_.pad_top, next_row_, p_.H);
    if (end == p_.Ho) Zero(dz_ + (plan_.history + end - begin) * dz_row_, plan_.below * dz_row_);
    // Rows and columns of one phase have the same taps.
    const int64_t phases_h = std::min(p_.stride_h, stop - next_row_), phases_w = std::min(p_.stride_w, p_.W);
    for (int64_t i = 0; i < phases_h * phases_w; ++i) StorePhase(begin, next_row_ + i / phases_w, stop, i % phases_w);
    next_row_ = stop;
  }

  // The taps t of an axis that some output reads dX[at] through: t * dilation = at + pad - p * stride for some p < out.
  static void TapsUsed(int64_t at, int64_t taps, int64_t dilation, int64_t stride, int64_t out, int64_t* first,
                       int64_t* last) {
    const int64_t above = at - (out - 1) * stride;
    *first = above > 0 ? std::min(taps, (above + dilation - 1) / dilation) : 0;
    *last = std::max(*first, std::min(taps, at / dilation + 1));
  }

  // Rows h, h + stride_h, ... below `stop`, columns w, w + stride_w, ... Where windows are large, rows and columns near
  // the edges are stored apart, with the taps that there are outputs for.
  void StorePhase(int64_t begin, int64_t h, int64_t stop, int64_t w) {
    const int64_t rows = (stop - h + p_.stride_h - 1) / p_.stride_h,
                  columns = (p_.W - w + p_.stride_w - 1) / p_.stride_w;
    Taps taps = {0, p_.R, 0, p_.S};
    if (!plan_.edges_apart) {
      StorePart(begin, h, rows, w, columns, taps);
      return;
    }
    for (int64_t row = 0, next; row < rows; row = next) {
      const auto of_row = [&](int64_t i, int64_t* first, int64_t* last) {
        TapsUsed(h + i * p_.stride_h + p_.pad_top, p_.R, p_.dilation_h, p_.stride_h, p_.Ho, first, last);
      };
      of_row(row, &taps.r0, &taps.r1);
      int64_t first = taps.r0, last = taps.r1;
      for (next = row; next < rows && first == taps.r0 && last == taps.r1;) {
        if (++next < rows) of_row(next, &first, &last);
      }
      StoreColumns(begin, h + row * p_.stride_h, next - row, w, columns, taps);
    }
  }

  void StoreColumns(int64_t begin, int64_t h, int64_t rows, int64_t w, int64_t columns, Taps taps) {
    constexpr int64_t kTogether = 16;  // columns near an edge: some of their taps are zeros
    const auto of_column = [&](int64_t i, int64_t* first, int64_t* last) {
      TapsUsed(w + i * p_.stride_w + p_.pad_left, p_.S, p_.dilation_w, p_.stride_w, p_.Wo, first, last);
      return *first == 0 && *last == p_.S;
    };
    for (int64_t column = 0, next; column < columns; column = next) {
      int64_t unused, end;
      const bool whole = of_column(column, &taps.s0, &taps.s1);
      next = column + 1;
      while (next < columns && (whole || next - column < kTogether) && of_column(next, &unused, &end) == whole) {
        taps.s1 = end;
        ++next;
      }
      StorePart(begin, h, rows, w + column * p_.stride_w, next - column, taps);
    }
  }

  // The sums over those taps whose distance fits the strides.
  void StorePart(int64_t begin, int64_t h, int64_t rows, int64_t w, int64_t columns, const Taps& used) {
    int64_t taps = 0;
    for (int64_t r = used.r1 - 1; r >= used.r0; --r) {  // from low rows of dZ to high ones
      const int64_t y = h + p_.pad_top - r * p_.dilation_h;
      if (y % p_.stride_h != 0) continue;
      const int64_t row = plan_.history + y / p_.stride_h - begin;
      for (int64_t s = used.s1 - 1; s >= used.s0; --s) {
        const int64_t x = w + p_.pad_left - s * p_.dilation_w;
        if (x % p_.stride_w != 0) continue;
        const float* source = dz_ + row * dz_row_ + (plan_.left + x / p_.stride_w) * plan_.z_stride;
        for (int64_t m = 0; m < p_.M; ++m) {
          sources_[taps] = source + m * plan_.padded_channels;
          filter_list_[taps++] = Filter(m, r * p_.S + s);
        }
      }
    }
    TapSumArgs args;
    args.sources = sources_;
    args.filters = filter_list_;
    args.taps = taps;
    args.source_row = dz_row_;
    args.source_pixel = plan_.z_stride;
    args.rows = rows;
    args.pixels = columns;
    args.channels = channels_;
    args.bias = nullptr;
    const int64_t at = ((image_ * p_.H + h) * p_.W + w) * x_channels_ + first_channel_ / plan_.times;
    char* const to = static_cast<char*>(job_.buffers->d_input) + at * SizeOf(p_.dtype);
    args.to = to;
    args.to_row = p_.stride_h * p_.W * x_channels_;
    args.to_pixel = p_.stride_w * x_channels_;
    const bool dense = p_.stride_h == 1 && p_.stride_w == 1 && p_.M == 1 && taps > 0;
    args.grid_rows = dense ? used.r1 - used.r0 : 0;
    args.grid_row = p_.dilation_h * dz_row_;
    args.grid_pixel = p_.dilation_w * plan_.z_stride;
    args.stream = job_.stream_dx;
    if (plan_.times == 1) {
      kernels_.tap_sums[static_cast<int>(p_.dtype)](args);
      return;
    }
    FoldArgs fold = {fold_, plan_.padded_channels, columns, channels_ / plan_.times, plan_.times, to, args.to_pixel};
    const int64_t to_row_bytes = args.to_row * SizeOf(p_.dtype);
    args.rows = 1;
    args.channels = plan_.padded_channels;
    args.to = fold_;
    args.to_pixel = plan_.padded_channels;
    args.stream = false;
    for (int64_t i = 0; i < rows; ++i) {
      kernels_.tap_sums[static_cast<int>(DType::kFloat32)](args);
      kernels_.fold[static_cast<int>(p_.dtype)](fold);
      for (int64_t t = 0; t < taps; ++t) sources_[t] += dz_row_;
      fold.to = static_cast<char*>(fold.to) + to_row_bytes;
    }
  }

  const float* Tap(int64_t t) const {
    return x_ + t / p_.S * p_.dilation_h * x_row_ + t % p_.S * p_.dilation_w * plan_.x_stride;
  }
  const float* Filter(int64_t m, int64_t t) const { return filters_ + (m * p_.R * p_.S + t) * plan_.padded_channels; }

  const BackwardJob& job_;
  const Chain& p_;  // Repeated where plan_.times > 1
  const BackwardPlan& plan_;
  const BackwardTable& kernels_;
  const int64_t x_channels_;                  // of X and dX
  int64_t block_, first_channel_, channels_;  // of p_
  int64_t x_row_, dz_row_;
  int64_t image_ = 0, next_row_ = 0;  // the first row of dX not yet written
  bool first_ = true;                 // nothing is in dp_ yet
  float *x_, *g_, *y_, *dz_, *before_, *z_;
  BFloat16 *rounded_, *g_pairs_, *z_pairs_;  // of bfloat16 products alone
  float *fold_, *dp_, *dd_, *mid_bias_, *bias_;
  const float* filters_;
  const float **sources_, **filter_list_;  // of the kernel called next
};

}  // namespace

void RunBackwardTask(const BackwardJob& job, int64_t chunk, int64_t block, float* scratch) {
  const Chain& p = *job.chain;
  const BackwardPlan& plan = *job.plan;
  Task task(job, block, job.sums + (chunk * plan.blocks + block) * plan.sum_floats, scratch);
  if (plan.pieces > 1 || plan.chunks >= p.N) {
    const int64_t n = chunk / plan.pieces, piece = chunk % plan.pieces;
    task.Run(n, piece * p.Ho / plan.pieces, (piece + 1) * p.Ho / plan.pieces);
  } else {
    for (int64_t n = chunk * p.N / plan.chunks; n < (chunk + 1) * p.N / plan.chunks; ++n) task.Run(n, 0, p.Ho);
  }
}

}  // namespace dwsconv
