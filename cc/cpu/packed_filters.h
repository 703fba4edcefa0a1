// Filters and biases in the layout of one ISA's kernels (see kernel_table.h), in float.
#ifndef DWSCONV_CPU_PACKED_FILTERS_H_
#define DWSCONV_CPU_PACKED_FILTERS_H_

#include <cstdint>

#include "cc/core/aligned_buffer.h"
#include "cc/cpu/forward.h"
#include "cc/cpu/kernel_table.h"

namespace dwsconv {

class PackedFilters {
 public:
  // Null when memory is out.
  static std::unique_ptr<PackedFilters> Make(const Problem& problem, Isa isa, const ForwardBuffers& buffers);

  bool Serves(const Problem& problem, Isa isa) const;
  int64_t bytes() const { return bytes_; }

  int64_t channel_stride() const { return channel_stride_; }
  const float* depthwise() const { return depthwise_; }            // [M][R*S][channel_stride]
  const float* depthwise_bias() const { return depthwise_bias_; }  // [M][channel_stride]
  const float* panels() const { return panels_; }                  // [panels][C*M][tile_channels]
  const float* bias() const { return bias_; }                      // [panels * tile_channels]

 private:
  template <typename T>
  void Fill(const Problem& p, const ForwardBuffers& b, int64_t tile_channels);

  Problem of_;  // what it was packed for
  Isa isa_ = Isa::kGeneric;
  int64_t channel_stride_ = 0, bytes_ = 0;
  AlignedBuffer<float> memory_;
  float *depthwise_ = nullptr, *depthwise_bias_ = nullptr, *panels_ = nullptr, *bias_ = nullptr;
};

const KernelTable& Kernels(Isa isa);

}  // namespace dwsconv

#endif  // DWSCONV_CPU_PACKED_FILTERS_H_
