#include "cc/cpu/run/executor.h"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <vector>

#include "cc/core/half.h"
#include "cc/core/whole.h"
#include "cc/cpu/run/call.h"
#include "cc/cpu/run/scratch_pool.h"

namespace dwsconv {
namespace {

constexpr const char* kWays[] = {"images", "pieces", "channels", "shares",
                                 "strips", "kept",   "windows",  "gated filters"};
std::atomic<int64_t> ways[std::size(kWays)];

// Rows of Z from its own channel order, m * C + c, to TensorFlow's, c * M + m: where they are the output.
template <typename T>
void ToOutputOrder(const Chain& c, int64_t z_stride, int64_t pixels, T* z) {
  if (c.M == 1) return;
  std::vector<T> row(static_cast<size_t>(c.CM()));
  for (int64_t i = 0; i < pixels; ++i, z += z_stride) {
    std::copy_n(z, c.CM(), row.begin());
    for (int64_t m = 0; m < c.M; ++m) {
      for (int64_t j = 0; j < c.C; ++j) z[j * c.M + m] = row[static_cast<size_t>(m * c.C + j)];
    }
  }
}

// The gate [N,C*M] in TensorFlow's channel order to float [N][stride] in Z's.
template <typename T>
void GateToFloat(const Chain& c, const void* from, int64_t stride, float* to) {
  const T* gate = static_cast<const T*>(from);
  for (int64_t n = 0; n < c.N; ++n, gate += c.CM(), to += stride) {
    for (int64_t j = 0; j < c.C; ++j) {
      for (int64_t m = 0; m < c.M; ++m) to[m * c.C + j] = ToFloat(gate[j * c.M + m]);
    }
    std::fill(to + c.CM(), to + stride, 0.0f);
  }
}

}  // namespace

void Count(Way way) { ways[static_cast<int>(way)].fetch_add(1, std::memory_order_relaxed); }

int64_t ChainWay(const std::string& way) {
  for (size_t i = 0; i < std::size(kWays); ++i) {
    if (way == kWays[i]) return ways[i].load(std::memory_order_relaxed);
  }
  return -1;
}

void Call::Project(const Part& part, const char* z, int64_t z_stride, bool from_x) const {
  const int64_t group = GroupOf(part.n);
  const int64_t at = ((ImageOf(part.n) * pixels_ + part.first) * y_channels_ + group * chain_.K) * item_;
  const PackedProduct filters = packed_.project().OfGroup(group);
  PointwiseArgs args;
  args.z = z;
  const bool rounded = rounds() && !from_x;
  args.z_stride = rounded ? z_stride * (z_item_ / product_item_) : z_stride;
  args.z_padded = rounded && args.z_stride >= RoundUp(cm_, kernels_.depth);
  args.pixels = part.pixels;
  args.cm = cm_;
  args.z_rows = part.z_rows;
  args.z_row_step = part.z_row_step;
  args.line_pixels = part.line_pixels;
  args.z_line_step = part.z_line_step;
  args.panels = part.panels != nullptr ? part.panels : filters.panels;
  args.bias = filters.bias;
  args.slopes = filters.slopes;
  args.k_begin = part.k;
  args.k_end = part.k_end;
  args.residual_step = y_channels_;
  args.y_step = y_step_;
  args.residual = buffers_.residual ? static_cast<const char*>(buffers_.residual) + at : nullptr;
  args.y = Output(part.n, part.first);
  args.dtype = chain_.dtype;
  args.activation = chain_.out;
  args.ahead = part.ahead;
  args.ahead_bytes = part.ahead_bytes;
  args.stream = stream_;
  if (chain_.has_project) {
    kernels_.pointwise(args);
    return;
  }
  char* const rows = const_cast<char*>(z);  // the task's own: without a projection Z is never X itself
  z_item_ == 4 ? ToOutputOrder(layer_, z_stride, part.pixels, reinterpret_cast<uint32_t*>(rows))
               : ToOutputOrder(layer_, z_stride, part.pixels, reinterpret_cast<uint16_t*>(rows));
  args.activation = late_mid();
  kernels_.copy(args);
}

std::string Execute(const Chain& chain, const Buffers& buffers, const PackedFilters& packed, const Plan& plan,
                    ThreadPool* pool, const RowsDone* rows_done) {
  const bool is_dense = !chain.has_depthwise && chain.E == 0 && !chain.has_gate && !chain.normalize;
  const bool reads_apart =
      is_dense || (packed.kernels().product_type == chain.dtype &&
                   (chain.E > 0 || IsPointwise(chain) || (chain.has_depthwise && chain.dtype == DType::kFloat32)));
  if (buffers.input_step > 0 && !reads_apart) return "a chain of this kind or type takes dense rows alone";
  const Chain layer = packed.Layer(chain);
  const int64_t gate_stride = packed.depthwise().channel_stride * layer.M;
  Scratch floats(chain.has_gate ? chain.N * gate_stride * int64_t{sizeof(float)} : 0);
  if (floats.data() == nullptr) return kOutOfMemory;
  float* const gate = chain.has_gate ? reinterpret_cast<float*>(floats.data()) : nullptr;
  if (gate != nullptr) {
    WithType(chain.dtype, [&](auto type) { GateToFloat<decltype(type)>(layer, buffers.gate, gate_stride, gate); });
  }
  const Call call(chain, buffers, packed, plan, gate, gate_stride, rows_done);
  return chain.E > 0 ? RunExpanded(call, pool) : RunBlocks(call, pool);
}

}  // namespace dwsconv
