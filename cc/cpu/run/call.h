// What the tasks of one call of the executor share.
#ifndef DWSCONV_CPU_RUN_CALL_H_
#define DWSCONV_CPU_RUN_CALL_H_

#include <cstdint>
#include <string>

#include "cc/cpu/run/executor.h"

namespace dwsconv {

// The ways of ChainWay.
enum class Way : int { kImages, kPieces, kChannels, kShares, kStrips, kKept, kWindows, kGatedFilters };
void Count(Way way);

// A chain, its buffers and its plan, and the steps that end each task.
class Call {
 public:
  Call(const Chain& chain, const Buffers& buffers, const PackedFilters& packed, const Plan& plan, const float* gate,
       int64_t gate_stride, const RowsDone* rows_done)
      : chain_(chain),
        layer_(packed.Layer(chain)),
        buffers_(buffers),
        packed_(packed),
        plan_(plan),
        gate_(gate),
        gate_stride_(gate_stride),
        rows_done_(rows_done),
        kernels_(packed.kernels()),
        item_(SizeOf(chain.dtype)),
        z_item_(SizeOf(kernels_.z_type)),
        product_item_(SizeOf(kernels_.product_type)),
        cm_(chain.has_depthwise ? chain.CM() : chain.R * chain.S * chain.C),
        pixels_(chain.output_pixels()),
        y_channels_(chain.K * chain.groups),
        x_step_(buffers.input_step > 0 ? buffers.input_step : chain.x_channels() * chain.groups),
        y_step_(buffers.output_step > 0 ? buffers.output_step : y_channels_),
        typed_(chain.dtype == kernels_.product_type) {
    const bool on_lines =
        chain.K * item_ % 64 == 0 && y_step_ * item_ % 64 == 0 && reinterpret_cast<uintptr_t>(buffers.output) % 64 == 0;
    stream_ = plan.stream && (typed_ || kernels_.streams_halves) && on_lines;
  }

 protected:
  // Of groups, image n is that of group GroupOf(n) of image ImageOf(n).
  int64_t ImageOf(int64_t n) const { return n / chain_.groups; }
  int64_t GroupOf(int64_t n) const { return n % chain_.groups; }
  char* Output(int64_t n, int64_t pixel) const {
    return static_cast<char*>(buffers_.output) +
           ((ImageOf(n) * pixels_ + pixel) * y_step_ + GroupOf(n) * chain_.K) * item_;
  }
  const char* Image(int64_t n) const {
    return static_cast<const char*>(buffers_.input) +
           (ImageOf(n) * chain_.H * chain_.W * x_step_ + GroupOf(n) * chain_.C) * item_;
  }

  // What happens to Z of some pixels of image n between the two halves: at the end it is what Project takes.
  void NormalizeAndGate(int64_t n, int64_t pixels, char* z, int64_t z_stride, bool gate) const {
    const RowsArgs rows = {reinterpret_cast<float*>(z), z_stride, pixels, cm_, late_mid()};
    if (chain_.normalize) kernels_.normalize(rows, chain_.epsilon);
    if (gate) kernels_.scale(rows, gate_ + n * gate_stride_);
    if (rounds()) kernels_.round(rows);
  }

  // Whether Z's activation waits for the pass that rounds Z or copies it to Y.
  bool MidCanWait() const {
    const ActivationKind kind = chain_.mid.kind;
    return kernels_.z_type == DType::kFloat32 && !IsClamp(kind) && kind != ActivationKind::kPRelu &&
           !chain_.float_between() && (rounds() || !chain_.has_project);
  }
  Activation late_mid() const { return mid_waits_ ? chain_.mid : Activation(); }

  // Z is rounded when it is whole, in place.
  bool rounds() const { return kernels_.round != nullptr && chain_.has_project; }

  // Pixels [first, first + pixels) of image n, output channels [k, k_end), from their Z. `ahead` is memory that the
  // caller will read next.
  struct Part {
    int64_t n, first, pixels, k, k_end;
    const char* ahead = nullptr;
    int64_t ahead_bytes = 0;
    int64_t z_rows = 1, z_row_step = 0, line_pixels = 0, z_line_step = 0;  // as in PointwiseArgs
    const void* panels = nullptr;                                          // in the place of the chain's
  };

  // z_stride in elements of z_type, or with from_x in those of X, which lies where Z would.
  void Project(const Part& part, const char* z, int64_t z_stride, bool from_x = false) const;

  // Tells of output pixels [first, first + pixels), whole rows, and channels [k, k_end).
  void Done(const Part& part) const {
    if (rows_done_ == nullptr || stream_) return;
    const int64_t k = GroupOf(part.n) * chain_.K + part.k;
    (*rows_done_)(ImageOf(part.n), part.first / chain_.Wo, part.pixels / chain_.Wo, k, part.k_end - part.k);
  }

  const Chain& chain_;  // as GroupsAsImages gives it
  const Chain layer_;   // what the kernels compute
  const Buffers& buffers_;
  const PackedFilters& packed_;
  const Plan& plan_;
  const float* const gate_;  // [N][gate_stride], or null
  const int64_t gate_stride_;
  const RowsDone* const rows_done_;  // or null
  const KernelTable& kernels_;
  const int64_t item_, z_item_, product_item_, cm_, pixels_, y_channels_, x_step_, y_step_;
  const bool typed_;  // X and Y are of the products' type
  bool stream_, mid_waits_ = false;
};

// Without an expansion: blocks of pixels.
std::string RunBlocks(const Call& call, ThreadPool* pool);
// Behind an expansion: strips of rows, whole images, or pieces of the channels.
std::string RunExpanded(const Call& call, ThreadPool* pool);

}  // namespace dwsconv

#endif  // DWSCONV_CPU_RUN_CALL_H_
