#include <algorithm>
#include <cstring>
#include <vector>

#include "cc/core/whole.h"
#include "cc/cpu/run/call.h"
#include "cc/cpu/run/scratch_pool.h"

namespace dwsconv {
namespace {

// Behind an expansion: strips of rows, whole images, or pieces of the channels.
class Expanded : public Call {
 public:
  explicit Expanded(const Call& call)
      : Call(call),
        strips_(plan_.strips),
        pieces_(CeilDiv(chain_.C, plan_.channels)),
        x_stride_(RoundUp(chain_.E, 64 / product_item_) + 64 / product_item_) {
    // Z of nothing more is Y, and is written there.
    to_y_ = !chain_.has_project && chain_.dtype == kernels_.z_type && !chain_.float_between() &&
            buffers_.residual == nullptr && !stream_ && chain_.M == 1 && chain_.C % kernels_.vector_floats == 0;
    mid_waits_ = !to_y_ && MidCanWait();
    z_stride_ = to_y_ ? y_step_ : plan_.z_stride;
    if (x_stride_ * product_item_ % 4096 == 0)
      x_stride_ += 64 / product_item_;  // such rows fall into the same sets of L1
    // X of the rows that a task expands, where the products want another type.
    const int64_t most_rows =
        plan_.by_channels
            ? chain_.H
            : std::min(chain_.H, (plan_.rows - 1) * chain_.stride_h + (chain_.R - 1) * chain_.dilation_h + 1);
    x_bytes_ = typed_ ? 0 : RoundUp(most_rows * chain_.W * x_stride_ * product_item_ + 64, 64);
  }

  std::string Run(ThreadPool* pool) const {
    const Workers workers(plan_.threads, pool);
    const int64_t a_bytes = RoundUp(plan_.a_bytes, 64), z_bytes = to_y_ ? 0 : RoundUp(plan_.z_bytes, 64);
    const int64_t own = a_bytes + x_bytes_ + (plan_.by_channels ? 0 : z_bytes);
    WorkerScratch scratch(plan_.threads, own);
    Scratch all(plan_.by_channels ? z_bytes : 0);
    if (!scratch.ok() || all.data() == nullptr) return kOutOfMemory;
    char* const z = to_y_ ? Output(0, 0) : all.data();
    std::vector<Worker> states(static_cast<size_t>(plan_.threads));
    for (int i = 0; i < plan_.threads; ++i) {
      Worker& w = states[static_cast<size_t>(i)];
      w.a = scratch.of(i);
      w.x = w.a + a_bytes;
      w.z = plan_.by_channels ? z : w.x + x_bytes_;
    }
    if (plan_.by_channels) {
      Count(Way::kChannels);
      ParallelFor(workers, chain_.N * pieces_, [&](int64_t task, int worker) {
        Worker& w = states[static_cast<size_t>(worker)];
        const int64_t n = task / pieces_;
        Piece(n, 0, chain_.Ho, task % pieces_ * plan_.channels, &w, w.z + n * pixels_ * z_pixel_bytes());
      });
      if (!to_y_) Finish(workers, all.data());
      return "";
    }
    Count(strips_ > 1 ? Way::kStrips : pieces_ > 1 ? Way::kPieces : Way::kImages);
    ParallelForAhead(workers, chain_.N * strips_, [&](int64_t task, int64_t next, int worker) {
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

  // Output rows [first, last) of a strip.
  int64_t FirstRow(int64_t task) const { return task % strips_ * chain_.Ho / strips_; }
  int64_t LastRow(int64_t task) const { return (task % strips_ + 1) * chain_.Ho / strips_; }
  int64_t z_pixel_bytes() const { return z_stride_ * z_item_; }

  // X of rows [begin, end) of image n in the products' type, if it is of another.
  void Convert(int64_t n, int64_t begin, int64_t end, Worker* w) const {
    if (typed_ || begin >= end || (w->x_n == n && w->x_begin == begin && w->x_end == end)) return;
    w->x_n = n;
    w->x_begin = begin;
    w->x_end = end;
    Chain rows;  // of one tap of 1
    rows.H = rows.Ho = end - begin;
    rows.W = rows.Wo = chain_.W;
    rows.C = chain_.E;
    rows.R = rows.S = 1;
    DepthwiseArgs args;
    args.chain = &rows;
    args.image = Image(n) + begin * chain_.W * chain_.E * item_;
    packed_.convert().SetFilters(&args);
    args.first_pixel = 0;
    args.pixels = rows.output_pixels();
    args.z = w->x;
    args.z_stride = x_stride_;
    kernels_.depthwise[static_cast<int>(chain_.dtype)](args);
  }

  // Channels [c, c + channels) of A's rows [begin, end) of image n to `a`, whose rows are `channels` wide.
  void Expand(int64_t n, int64_t begin, int64_t end, int64_t c, int64_t channels, const char* x, char* a) const {
    if (begin >= end) return;
    const PackedProduct& packed = packed_.expand();
    PointwiseArgs args;
    args.pixels = (end - begin) * chain_.W;
    args.cm = chain_.E;
    args.z = typed_ ? Image(n) + begin * chain_.W * x_step_ * item_ : x;
    args.z_stride = typed_ ? x_step_ : x_stride_;
    args.z_padded = false;
    args.panels = reinterpret_cast<const char*>(packed.panels) + c * RoundUp(chain_.E, kernels_.depth) * product_item_;
    args.bias = packed.bias + c;
    args.slopes = packed.slopes == nullptr ? nullptr : packed.slopes + c;
    args.k_begin = 0;
    args.k_end = args.y_step = channels;
    args.residual = nullptr;
    args.y = a;
    args.dtype = kernels_.z_type;
    args.activation = chain_.expand;
    args.ahead = nullptr;
    args.ahead_bytes = 0;
    args.stream = false;
    kernels_.pointwise(args);
  }

  // Z of output rows [first, last), channels [c, c + channels), from rows of A that begin with row `begin`.
  void Depthwise(const char* a, int64_t begin, int64_t end, int64_t first, int64_t last, int64_t c, int64_t channels,
                 char* z) const {
    Chain local = chain_;
    local.dtype = kernels_.z_type;
    if (mid_waits_) local.mid = Activation();
    local.C = channels;
    local.H = end - begin;
    local.Ho = last - first;
    local.pad_top = chain_.pad_top + begin - first * chain_.stride_h;
    DepthwiseArgs args;
    args.chain = &local;
    args.image = a;
    packed_.depthwise().SetFilters(&args);
    // A part of the channels is whole vectors, and M is 1 then.
    args.filter += c * chain_.R * chain_.S;
    args.bias += c;
    if (args.slopes != nullptr) args.slopes += c;
    args.first_pixel = 0;
    args.pixels = local.output_pixels();
    args.z = z + c * z_item_;
    args.z_stride = z_stride_;
    kernels_.depthwise[static_cast<int>(kernels_.z_type)](args);
  }

  // One piece of the channels of Z of output rows [first, last).
  void Piece(int64_t n, int64_t first, int64_t last, int64_t c, Worker* w, char* z) const {
    int64_t begin, end;
    RowsRead(chain_, first, last, &begin, &end);
    const int64_t channels = std::min(plan_.channels, chain_.C - c), a_row = chain_.W * channels * z_item_;
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
    if (to_y_) Done({n, first * chain_.Wo, (last - first) * chain_.Wo, c, c + channels});
  }

  void Strip(int64_t task, int64_t next, Worker* w) const {
    const int64_t n = task / strips_, first = FirstRow(task), last = LastRow(task), pixels = (last - first) * chain_.Wo;
    char* const z = to_y_ ? Output(n, first * chain_.Wo) : w->z;
    for (int64_t c = 0; c < chain_.C; c += plan_.channels) Piece(n, first, last, c, w, z);
    if (to_y_) return;
    Part part = {n, first * chain_.Wo, pixels, 0, chain_.K};
    if (next == task + 1) {
      // X of the rows that the next task expands.
      const int64_t row = chain_.W * x_step_ * item_;
      int64_t begin, end, done, unused;
      RowsRead(chain_, FirstRow(next), LastRow(next), &begin, &end);
      RowsRead(chain_, first, last, &unused, &done);
      if (next / strips_ == n) begin = std::max(begin, done);
      part.ahead = Image(next / strips_) + begin * row;
      part.ahead_bytes = std::max<int64_t>(0, end - begin) * row;
    }
    NormalizeAndGate(n, pixels, z, z_stride_, gate_ != nullptr);
    Project(part, z, z_stride_);
    Done(part);
  }

  // Y from all of Z.
  void Finish(const Workers& workers, char* all) const {
    const int64_t blocks = plan_.y_blocks, panel = kernels_.tile_channels;
    const int64_t step = CeilDiv(CeilDiv(chain_.K, panel), plan_.y_shares) * panel, shares = CeilDiv(chain_.K, step);
    if (shares > 1) Count(Way::kShares);
    ParallelFor(workers, chain_.N * blocks * shares, [&](int64_t task, int) {
      const int64_t share = task % shares, block = task / shares % blocks, n = task / shares / blocks;
      const int64_t first = block * pixels_ / blocks, pixels = (block + 1) * pixels_ / blocks - first;
      char* const z = all + (n * pixels_ + first) * z_pixel_bytes();
      NormalizeAndGate(n, pixels, z, z_stride_, gate_ != nullptr);
      Project({n, first, pixels, share * step, std::min(chain_.K, (share + 1) * step)}, z, z_stride_);
    });
  }

  const int64_t strips_, pieces_;
  int64_t x_stride_, x_bytes_, z_stride_;
  bool to_y_;
};

}  // namespace

std::string RunExpanded(const Call& call, ThreadPool* pool) { return Expanded(call).Run(pool); }

}  // namespace dwsconv
