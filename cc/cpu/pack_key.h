// What packed filters depend on besides the contents of the filters.
#ifndef DWSCONV_CPU_PACK_KEY_H_
#define DWSCONV_CPU_PACK_KEY_H_

#include <array>
#include <cstdint>

namespace dwsconv {

// Filters that were packed for one call serve another with an equal key, and no other: who keeps them, keeps them by
// it.
struct PackKey {
  // Of one layer: R, S, C, M, K, dtype, kernels, packed pixels, whether X is repeated, biases and slopes.
  static constexpr int kParts = 10;
  using Parts = std::array<int64_t, kParts>;

  Parts main{};
  Parts lead{};        // of a block's leading 1x1 convolution
  int64_t stages = 0;  // which a block has; 0 for a layer

  bool operator==(const PackKey& other) const {
    return main == other.main && lead == other.lead && stages == other.stages;
  }
};

}  // namespace dwsconv

#endif  // DWSCONV_CPU_PACK_KEY_H_
