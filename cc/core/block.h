// TEMPORARY
#ifndef DWSCONV_CORE_BLOCK_H_
#define DWSCONV_CORE_BLOCK_H_
#include "cc/core/problem.h"
namespace dwsconv {
struct Block {
  Problem main;
  bool has_depthwise = true, has_pointwise = true;
  int64_t E = 0;
  Activation lead;
  bool has_expand_bias = false;
  bool normalize = false;
  float epsilon = 0;
  bool has_scale = false;
  int64_t x_channels() const { return E > 0 ? E : main.C; }
};
}  // namespace dwsconv
#endif
