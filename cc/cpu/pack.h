// Filters and biases in the layout of one kernel table (see kernel_table.h), and what that layout depends on.
#ifndef DWSCONV_CPU_PACK_H_
#define DWSCONV_CPU_PACK_H_

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "cc/core/aligned_buffer.h"
#include "cc/core/chain.h"
#include "cc/core/cpu_features.h"
#include "cc/cpu/kernels/targets.h"

namespace dwsconv {

// What packed filters depend on besides the contents of the filters. Those that were packed for one call serve another
// with an equal key, and no other: who keeps them, keeps them by it.
using PackKey = std::array<int64_t, 13>;
PackKey PackKeyOf(const Chain& chain, Isa isa, bool may_repeat = true);

// Of a 1x1 convolution, or of the groups of one, one behind the other; null members where there is none.
struct PackedProduct {
  float* panels = nullptr;                   // as PointwiseArgs::panels: of KernelTable::product_type
  float* bias = nullptr;                     // [panels * tile_channels]
  float* slopes = nullptr;                   // likewise; null unless its activation is PReLU
  int64_t group_panels = 0, group_bias = 0;  // floats from those of a group to those of the next

  PackedProduct OfGroup(int64_t group) const;
};

// Of a depthwise convolution: what the same members of DepthwiseArgs are.
struct PackedDepthwise {
  float *filter = nullptr, *bias = nullptr, *slopes = nullptr;
  int64_t channel_stride = 0, packed_pixels = 0;
  float *packed_filter = nullptr, *packed_bias = nullptr;

  void SetFilters(DepthwiseArgs* args) const;
};

// The filters and biases of a chain. Immutable once made, so threads may share it.
class PackedFilters {
 public:
  // Of the filters and biases of `buffers`. Null when memory is out. Without may_repeat for kernels that read something
  // else than X alone (RepeatsInput of plan.h).
  static std::unique_ptr<PackedFilters> Make(const Chain& chain, Isa isa, const Buffers& buffers,
                                             bool may_repeat = true);

  // The same in two steps, for many chains that share memory: first bytes() are known, then they are filled. `memory`
  // is aligned to a cache line, and outlives this.
  static std::unique_ptr<PackedFilters> Lay(const Chain& chain, Isa isa, bool may_repeat = true);
  void Fill(const Buffers& buffers, float* memory);

  const PackKey& key() const { return key_; }
  const KernelTable& kernels() const { return *run_; }
  // From now on kernels() is another table, for the same layout and chains.
  void RunBy(const KernelTable& kernels) { run_ = &kernels; }
  int64_t bytes() const { return bytes_; }  // whole cache lines
  bool repeats() const { return repeats_; }
  // How many pixels of X the kernels take for one (PixelsTogether).
  int64_t together() const { return together_; }
  // The chain that the kernels compute.
  Chain Layer(const Chain& chain) const { return repeats_ ? Repeated(chain) : chain; }

  const PackedProduct& expand() const { return expand_; }
  const PackedDepthwise& depthwise() const { return depthwise_; }  // of ones where a chain has no such stage
  const PackedProduct& project() const { return project_; }
  // A 1x1 depthwise filter of ones for X in front of an expansion: it turns X into the
  // products' type.
  const PackedDepthwise& convert() const { return convert_; }

 private:
  // What lies in memory, one behind the other.
  struct Part {
    float** at;
    int64_t floats;
  };

  template <typename T>
  void FillAll(const Buffers& buffers);
  template <typename T>
  void FillDepthwise(const Chain& chain, const Buffers& buffers);
  template <typename T>
  void FillGroups(const Buffers& buffers);
  template <typename T>
  void FillProduct(int64_t C, int64_t M, int64_t K, const void* filter, const void* bias, const void* slopes,
                   const PackedProduct& to);

  PackKey key_{};
  Chain chain_;                                            // what the filters are of
  std::vector<Part> parts_;                                // into this
  const KernelTable *kernels_ = nullptr, *run_ = nullptr;  // packed for; run by
  bool repeats_ = false;
  int64_t together_ = 1, bytes_ = 0;
  AlignedBuffer<float> memory_;  // null where it is another's
  PackedProduct expand_, project_;
  PackedDepthwise depthwise_, convert_;
};
using PackedFiltersPtr = std::shared_ptr<const PackedFilters>;

// How many pixels the kernels take for one, where a chain only scales and shifts channels that fill no vector: 16
// pixels of 3 channels are one of 48. 1 for all other chains. Filters are packed for it.
int64_t PixelsTogether(const Chain& chain);

// `pixels` pixels of such a chain, `together` of them as one: an image of one column.
Chain Together(const Chain& chain, int64_t pixels, int64_t together);

// How often this process packed filters: for tests.
int64_t PackCalls();

}  // namespace dwsconv

#endif  // DWSCONV_CPU_PACK_H_
