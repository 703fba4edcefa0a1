// The filter of a dense convolution that takes what its input is scaled and shifted by.
#ifndef DWSCONV_CPU_RUN_SCALED_FILTER_H_
#define DWSCONV_CPU_RUN_SCALED_FILTER_H_

#include <cstdint>
#include <vector>

#include "cc/core/chain.h"

namespace dwsconv {

struct ScaledFilter {
  std::vector<char> filter;    // [R,S,C,K] of the chain's type
  std::vector<float> bias;     // [K]
  std::vector<float> outside;  // [S,C]: what the padding holds, for zeros behind scale and shift
};

// The convolution of scale * x + shift, `scale` [C] and `shift` [C] or null, as one of x: exact but for rounding.
// `chain` is a dense convolution of float32 or bfloat16, as are `scale` and `shift`. False where that could not be:
// numbers that are not finite, a scale of about 0, a shift so large that rounding would show; and where memory is out.
bool ScaleFilter(const Chain& chain, const Buffers& buffers, const void* scale, const void* shift,
                 ScaledFilter* scaled);

}  // namespace dwsconv

#endif  // DWSCONV_CPU_RUN_SCALED_FILTER_H_
