// A block of a network around one DWS convolution: what a converted model calls once in the place of several layers.
//
//   A = lead( X * expand_filter + expand_bias )                                      [N,H,W,E] -> [N,H,W,C], or X
//   Z = scale[n] * normalized( mid( depthwise(A) + depthwise_bias ) )                [N,Ho,Wo,C*M]
//   Y = out( Z * pointwise_filter + bias + residual ), or Z + residual               [N,Ho,Wo,K]
//
// Each stage may be left out, but one convolution is there. Without a depthwise stage the pointwise convolution may be
// any dense one, R x S at strides.
#ifndef DWSCONV_CORE_BLOCK_H_
#define DWSCONV_CORE_BLOCK_H_

#include "cc/core/problem.h"

namespace dwsconv {

struct Block {
  // From A to Y. Without a depthwise stage the pointwise filter is a dense one, [R*S*C,K], and M = 1; without a
  // pointwise one K = C*M and `out` is none. X has x_channels() channels, whatever C is.
  Problem main;
  bool has_depthwise = true, has_pointwise = true;

  int64_t E = 0;  // channels of X where the 1x1 convolution to C leads; 0 without one
  Activation lead;
  bool has_expand_bias = false;

  bool normalize = false;  // each pixel of Z to mean 0 and variance 1 over its channels
  float epsilon = 0;       // added to the variance
  bool has_scale = false;  // factors [N, C*M]

  int64_t x_channels() const { return E > 0 ? E : main.C; }
};

// Element type `main.dtype`, dense.
struct BlockBuffers {
  ForwardBuffers main;                  // input is X; no depthwise or pointwise filter where there is no such stage
  const void* expand_filter = nullptr;  // [E,C]
  const void* expand_bias = nullptr;    // [C]
  const void* expand_slopes = nullptr;  // [C], where lead is PReLU
  const void* scale = nullptr;          // [N,C*M]
};

}  // namespace dwsconv

#endif  // DWSCONV_CORE_BLOCK_H_
