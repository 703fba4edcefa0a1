// Checks what a caller asks of a block, as make_problem.h does for one layer.
#ifndef DWSCONV_CORE_MAKE_BLOCK_H_
#define DWSCONV_CORE_MAKE_BLOCK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "cc/core/block.h"
#include "cc/core/make_problem.h"

namespace dwsconv {

// As the caller gave it. A stage whose flag is not set is not there, and its shapes are not read.
struct BlockRequest {
  Request main;
  bool has_expand = false, has_depthwise = false, has_pointwise = false;
  bool has_expand_bias = false, has_scale = false;
  std::vector<int64_t> expand_filter, expand_bias, scale;
  ActivationRequest expand_activation;
  bool normalize = false;
  float epsilon = 0;
};

// Fills *block and returns "", or returns what is wrong.
std::string MakeBlock(const BlockRequest& request, Block* block);

// The attributes and which stages there are, as far as they can be judged without shapes. "" or what is wrong.
std::string CheckBlockAttributes(const BlockRequest& request);

}  // namespace dwsconv

#endif  // DWSCONV_CORE_MAKE_BLOCK_H_
