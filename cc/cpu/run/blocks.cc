#include <algorithm>
#include <cstring>
#include <vector>

#include "cc/core/whole.h"
#include "cc/cpu/run/call.h"
#include "cc/cpu/run/scratch_pool.h"

namespace dwsconv {
namespace {

// Without an expansion: blocks of pixels.
class Blocks : public Call {
 public:
  explicit Blocks(const Call& call)
      : Call(call),
        block_pixels_(BlockPixels()),
        blocks_(CeilDiv(pixels_, block_pixels_)),
        shares_(chain_.has_project ? CeilDiv(chain_.K, plan_.block_channels) : 1),
        row_bytes_(chain_.W * x_step_ * item_),
        image_bytes_(chain_.H * row_bytes_) {
    // A gate on X is one on the filter's rows, of which there are fewer numbers than of X. Whether it is may not depend
    // on batch or threads: the bits do.
    gates_filter_ = chain_.gates_input() && typed_ && IsPointwise(chain_) && 2 * chain_.K <= pixels_;
    // Z is what lies in memory already, or what is to lie there.
    from_x_ = !chain_.has_depthwise && chain_.has_project && typed_ && (!chain_.has_gate || gates_filter_) &&
              !chain_.normalize && IsPointwise(chain_);
    to_y_ = !chain_.has_project && chain_.dtype == kernels_.z_type && !chain_.float_between() &&
            buffers_.residual == nullptr && !stream_ && layer_.M == 1 && layer_.C % kernels_.vector_floats == 0;
    mid_waits_ = !to_y_ && MidCanWait();
    depthwise_ = chain_;
    if (mid_waits_) depthwise_.mid = Activation();
    if (plan_.windows) SetOutside();
    copies_x_ = packed_.repeats() || (!from_x_ && !plan_.windows && x_step_ != chain_.C && !chain_.gates_input());
    copy_at_ = from_x_ || to_y_ ? 0 : RoundUp(block_pixels_ * z_pixel_bytes() + 64, 64);
    copy_bytes_ = copies_x_ ? RepeatBytes(chain_, block_pixels_) : 0;
  }

  std::string Run(ThreadPool* pool) const {
    const int64_t bytes = gates_filter_   ? panels() * panel_rows() * kernels_.tile_channels * product_item_
                          : plan_.windows ? plan_.scratch_bytes
                                          : copy_at_ + copy_bytes_;
    WorkerScratch scratch(plan_.threads, bytes);
    if (!scratch.ok()) return kOutOfMemory;
    if (plan_.windows) Count(Way::kWindows);
    if (gates_filter_) Count(Way::kGatedFilters);
    std::vector<int64_t> gated(static_cast<size_t>(plan_.threads), -1);
    ParallelForAhead({plan_.threads, pool}, chain_.N * blocks_ * shares_, [&](int64_t task, int64_t next, int worker) {
      Task(task, next, scratch.of(worker), &gated[static_cast<size_t>(worker)]);
    });
    return "";
  }

 private:
  // `gated` is the image whose gate the filter in `scratch` has met.
  void Task(int64_t task, int64_t next, char* scratch, int64_t* gated) const {
    const int64_t share = task % shares_, block = task / shares_ % blocks_, n = task / shares_ / blocks_;
    const int64_t first = block * block_pixels_, pixels = std::min(block_pixels_, pixels_ - first);
    const char* const image = Image(n);
    if (to_y_) {
      Depthwise(image, n, first, pixels, Output(n, first), y_step_, scratch + copy_at_);
      RowsOf({n, first, pixels, 0, chain_.K});
      return;
    }
    Part part = {n, first, pixels, share * plan_.block_channels, 0};
    part.k_end = std::min(chain_.K, part.k + plan_.block_channels);
    if (next == task + 1 && shares_ == 1 && chain_.has_project && chain_.groups == 1) {
      // The rows of X that the next task is the first to read.
      const int64_t done = first + pixels;
      const int64_t begin = block + 1 < blocks_ ? BytesRead(done) : image_bytes_;
      const int64_t end = block + 1 < blocks_ ? BytesRead(std::min(done + block_pixels_, pixels_))
                                              : image_bytes_ + BytesRead(std::min(block_pixels_, pixels_));
      part.ahead = image + begin;
      part.ahead_bytes = end - begin;
    }
    if (gates_filter_) {
      if (*gated != n) {
        kernels_.scale_panels(
            {packed_.project().panels, scratch, panels(), panel_rows(), gate_ + n * gate_stride_, cm_});
        *gated = n;
      }
      part.panels = scratch;
    }
    if (from_x_) {
      Project(part, image + first * x_step_ * item_, x_step_, /*from_x=*/true);
      return;
    }
    if (plan_.windows) {
      Windows(part, image, scratch);
      return;
    }
    Depthwise(image, n, first, pixels, scratch, plan_.z_stride, scratch + copy_at_);
    Project(part, scratch, plan_.z_stride);
    if (!chain_.has_project) part.k_end = chain_.K;  // a copy is of all channels, whatever the plan's blocks of them
    RowsOf(part);
  }

  int64_t z_pixel_bytes() const { return plan_.z_stride * z_item_; }
  int64_t panels() const { return CeilDiv(chain_.K, kernels_.tile_channels); }
  int64_t panel_rows() const { return RoundUp(cm_, kernels_.depth); }

  // As planned; where somebody waits for rows whole ones, as long as Z of one stays in L2.
  int64_t BlockPixels() const {
    constexpr int64_t kMostBytes = 128 << 10;
    if (rows_done_ == nullptr || packed_.repeats() || plan_.windows || chain_.Wo * z_pixel_bytes() > kMostBytes) {
      return plan_.block_pixels;
    }
    return std::max<int64_t>(1, plan_.block_pixels / chain_.Wo) * chain_.Wo;
  }

  // Tells of a task's rows.
  void RowsOf(const Part& part) const {
    if (block_pixels_ % chain_.Wo == 0) Done(part);
  }

  // The first pixel of what lies outside is that of all.
  void SetOutside() {
    if (buffers_.outside == nullptr) return;
    const size_t C = static_cast<size_t>(chain_.C);
    outside_.resize(C * static_cast<size_t>(product_item_));
    if (kernels_.product_type == DType::kFloat32) {
      std::memcpy(outside_.data(), buffers_.outside, outside_.size());
    } else {
      for (size_t i = 0; i < C; ++i) {
        const BFloat16 one = FromFloat<BFloat16>(buffers_.outside[i]);
        std::memcpy(outside_.data() + i * sizeof(one), &one, sizeof(one));
      }
    }
  }

  // A dense convolution, whole rows or a part of one at a time: the products read X under the windows.
  void Windows(const Part& part, const char* image, char* scratch) const {
    const Chain& c = chain_;
    const int64_t end = part.first + part.pixels;
    for (int64_t pixel = part.first; pixel < end;) {
      const int64_t q = pixel % c.Wo, rows = q == 0 ? std::max<int64_t>(1, (end - pixel) / c.Wo) : 1;
      Part some = part;
      some.first = pixel;
      some.line_pixels = std::min(c.Wo - q, end - pixel);
      some.pixels = rows * some.line_pixels;
      if (pixel > part.first) some.ahead_bytes = 0;
      WindowsOfLines(some, rows, image, scratch);
      pixel += some.pixels;
    }
  }

  // Lines of `part.line_pixels` pixels each. X below their windows is copied where some of it is outside the image, and
  // where products are of another type.
  void WindowsOfLines(Part part, int64_t lines, const char* image, char* scratch) const {
    const Chain& c = chain_;
    const int64_t h = part.first / c.Wo * c.stride_h - c.pad_top, w = part.first % c.Wo * c.stride_w - c.pad_left;
    const int64_t high = WindowHeight(c, lines), wide = WindowWidth(c, part.line_pixels);
    const bool reads_x = typed_ && x_step_ == c.C && h >= 0 && h + high <= c.H && w >= 0 && w + wide <= c.W;
    const int64_t row_step = (reads_x ? c.W : wide) * c.C;
    if (!reads_x) CopyPadded(image, h, w, high, wide, scratch);
    part.z_rows = c.R;
    part.z_row_step = c.dilation_h * row_step;
    part.z_line_step = c.stride_h * row_step;
    Project(part, reads_x ? image + (h * c.W + w) * c.C * item_ : scratch, c.stride_w * c.C, /*from_x=*/true);
  }

  // Rows [h, h + high) and columns [w, w + wide) of X, and what lies outside the image, to [high][wide][C].
  void CopyPadded(const char* image, int64_t h, int64_t w, int64_t high, int64_t wide, char* to) const {
    const Chain& c = chain_;
    const int64_t pixel_bytes = c.C * product_item_, left = std::clamp<int64_t>(-w, 0, wide);
    const int64_t right = std::clamp<int64_t>(c.W - w, left, wide);  // columns [left, right) are of the image
    const auto fill = [&](int64_t pixels) {
      if (outside_.empty()) {
        std::memset(to, 0, static_cast<size_t>(pixels * pixel_bytes));
        to += pixels * pixel_bytes;
        return;
      }
      for (int64_t i = 0; i < pixels; ++i, to += pixel_bytes) std::memcpy(to, outside_.data(), outside_.size());
    };
    for (int64_t row = h; row < h + high; ++row) {
      if (row < 0 || row >= c.H || left == right) {
        fill(wide);
        continue;
      }
      fill(left);
      const char* const from = image + (row * c.W + w + left) * x_step_ * item_;
      if (typed_) {
        CopyPixels(from, right - left, to);
      } else {
        kernels_.repeat[static_cast<int>(c.dtype)](Repeat(from, right - left, 1, reinterpret_cast<float*>(to)));
      }
      to += (right - left) * pixel_bytes;
      fill(wide - right);
    }
  }

  // Pixels of X, close together.
  void CopyPixels(const char* from, int64_t pixels, char* to) const {
    const int64_t bytes = chain_.C * item_, step = x_step_ * item_;
    if (bytes == step) {
      std::memcpy(to, from, static_cast<size_t>(pixels * bytes));
      return;
    }
    for (int64_t i = 0; i < pixels; ++i) std::memcpy(to + i * bytes, from + i * step, static_cast<size_t>(bytes));
  }

  // The same as floats, each channel M times.
  RepeatArgs Repeat(const char* from, int64_t pixels, int64_t M, float* to) const {
    const RepeatArgs together = {from, pixels * chain_.C, M, to};
    return x_step_ == chain_.C ? together : RepeatArgs{from, chain_.C, M, to, pixels, x_step_};
  }

  // Z of `pixels` pixels, with all that happens to it. `copy` is memory for DepthwiseOfCopy.
  void Depthwise(const char* image, int64_t n, int64_t first, int64_t pixels, char* z, int64_t z_stride,
                 char* copy) const {
    DepthwiseArgs args;
    args.chain = &depthwise_;
    args.image = image;
    packed_.depthwise().SetFilters(&args);
    args.first_pixel = first;
    args.pixels = pixels;
    args.z = z;
    args.z_stride = z_stride;
    args.outside = buffers_.outside;
    const int type = static_cast<int>(chain_.dtype);
    const bool gates_input = chain_.gates_input();
    if (copies_x_) {
      DepthwiseOfCopy(args, reinterpret_cast<float*>(copy));
    } else if (gates_input) {
      kernels_.gate[type](args, gate_ + n * gate_stride_);
    } else {
      chain_.has_depthwise ? kernels_.depthwise[type](args) : kernels_.patches[type](args);
    }
    NormalizeAndGate(n, pixels, z, z_stride, gate_ != nullptr && !gates_input);
  }

  // The depthwise half on copies of X's rows, with the channels repeated and without what lies between pixels; or what
  // lies under windows of such copies. A part of a row or some whole rows at a time.
  void DepthwiseOfCopy(DepthwiseArgs args, float* rows) const {
    const Chain& c = chain_;
    const int64_t end = args.first_pixel + args.pixels;
    const char* const image = static_cast<const char*>(args.image);
    Chain part = layer_;
    part.mid = depthwise_.mid;
    args.chain = &part;
    args.image = rows;
    for (int64_t pixel = args.first_pixel; pixel < end; pixel += args.pixels) {
      const int64_t row = pixel / c.Wo, q = pixel % c.Wo, whole = q == 0 ? (end - pixel) / c.Wo : 0;
      args.pixels = whole > 0 ? whole * c.Wo : std::min(c.Wo - q, end - pixel);
      part.Ho = std::max<int64_t>(whole, 1);
      part.Wo = whole > 0 ? c.Wo : args.pixels;
      int64_t top, bottom, left = 0, right = c.W;
      RowsRead(c, row, row + part.Ho, &top, &bottom);
      const int64_t w = q * c.stride_w - c.pad_left;
      if (whole == 0) {
        left = std::clamp<int64_t>(w, 0, c.W);
        right = std::clamp(w + (args.pixels - 1) * c.stride_w + (c.S - 1) * c.dilation_w + 1, left, c.W);
      }
      part.H = bottom - top;
      part.W = right - left;
      part.pad_top = top - (row * c.stride_h - c.pad_top);
      part.pad_left = left - w;
      const int type = static_cast<int>(c.dtype);
      for (int64_t h = top; h < bottom; ++h) {
        const char* const from = image + (h * c.W + left) * x_step_ * item_;
        const int64_t at = (h - top) * part.W * part.C;
        if (c.has_depthwise) {
          kernels_.repeat[type](Repeat(from, part.W, packed_.repeats() ? c.M : 1, rows + at));
        } else {
          CopyPixels(from, part.W, reinterpret_cast<char*>(rows) + at * item_);
        }
      }
      args.first_pixel = 0;
      c.has_depthwise ? kernels_.depthwise[static_cast<int>(DType::kFloat32)](args) : kernels_.patches[type](args);
      args.z = static_cast<char*>(args.z) + args.pixels * args.z_stride * z_item_;
    }
  }

  // Offset of the first byte of X past what output pixels [0, end) of an image read.
  int64_t BytesRead(int64_t end) const {
    if (from_x_) return end * x_step_ * item_;
    const int64_t last = (end - 1) / chain_.Wo * chain_.stride_h - chain_.pad_top + (chain_.R - 1) * chain_.dilation_h;
    return std::clamp<int64_t>(last + 1, 0, chain_.H) * row_bytes_;
  }

  const int64_t block_pixels_, blocks_, shares_, row_bytes_, image_bytes_;
  int64_t copy_at_, copy_bytes_;  // of scratch, of DepthwiseOfCopy
  bool gates_filter_, from_x_, to_y_, copies_x_;
  std::vector<char> outside_;  // of Buffers, a pixel of the products' type; empty for zeros
  Chain depthwise_;            // what its kernel is to compute
};

}  // namespace

std::string RunBlocks(const Call& call, ThreadPool* pool) { return Blocks(call).Run(pool); }

}  // namespace dwsconv
