// Filters and biases in the layout of one kernel table (see kernel_table.h).
#ifndef DWSCONV_CPU_PACKED_FILTERS_H_
#define DWSCONV_CPU_PACKED_FILTERS_H_

#include <cstdint>

#include "cc/core/aligned_buffer.h"
#include "cc/cpu/forward.h"
#include "cc/cpu/kernel_table.h"

namespace dwsconv {

class PackedFilters : public Packed {
 public:
  // Null when memory is out. With may_repeat the filters are of Repeated(problem) where RepeatsInput.
  static std::unique_ptr<PackedFilters> Make(const Problem& problem, Isa isa, const ForwardBuffers& buffers,
                                             bool may_repeat = true);

  const PackKey& key() const { return key_; }
  const KernelTable& kernels() const { return *run_; }
  // From now on kernels() is another table, for the same layout and problems.
  void RunBy(const KernelTable& kernels) { run_ = &kernels; }
  int64_t bytes() const override { return bytes_; }
  bool repeats() const { return repeats_; }
  // The layer that the kernels compute.
  Problem Layer(const Problem& problem) const { return repeats_ ? Repeated(problem) : problem; }

  int64_t channel_stride() const { return channel_stride_; }
  const float* depthwise() const { return depthwise_; }            // as DepthwiseArgs::filter
  const float* depthwise_bias() const { return depthwise_bias_; }  // [M][channel_stride]
  int64_t packed_pixels() const { return packed_pixels_; }         // as in DepthwiseArgs, with the next two
  const float* packed_filter() const { return packed_filter_; }
  const float* packed_bias() const { return packed_bias_; }
  const float* depthwise_slopes() const { return depthwise_slopes_; }  // [C*M] in Z's order; null unless mid is PReLU
  const void* panels() const { return panels_; }                       // as PointwiseArgs::panels
  const float* bias() const { return bias_; }                          // [panels * tile_channels]
  const float* slopes() const { return slopes_; }                      // likewise; null unless out is PReLU

 private:
  template <typename T>
  void Fill(const Problem& p, const ForwardBuffers& b);

  PackKey key_;
  const KernelTable *kernels_ = nullptr, *run_ = nullptr;  // packed for; run by
  bool repeats_ = false;
  int64_t channel_stride_ = 0, packed_pixels_ = 0, bytes_ = 0;
  AlignedBuffer<float> memory_;
  float *packed_filter_ = nullptr, *packed_bias_ = nullptr;
  float *depthwise_ = nullptr, *depthwise_bias_ = nullptr, *panels_ = nullptr, *bias_ = nullptr;  // parts of memory_
  float *depthwise_slopes_ = nullptr, *slopes_ = nullptr;
};

// The kernels of an ISA for a problem.
const KernelTable& Kernels(Isa isa, const Problem& problem);

}  // namespace dwsconv

#endif  // DWSCONV_CPU_PACKED_FILTERS_H_
