// What one instruction set offers training: the backward pass, and batch norm both ways. Each is one translation unit
// (backward_<isa>.cc) under the rules of kernel_table.h: it exports its table alone, and a kernel computes on one
// thread.
//
// Scratch is float and padded (backward_plan.h): channels to whole vectors with zeros, images with zeros around them.
// So no kernel knows edges, and only what reads or writes tensors knows types and tails.
#ifndef DWSCONV_CPU_KERNELS_BACKWARD_TABLE_H_
#define DWSCONV_CPU_KERNELS_BACKWARD_TABLE_H_

#include <cstdint>

#include "cc/core/chain.h"
#include "cc/core/half.h"

namespace dwsconv {

// Memory that the caller will read next: fetched into L2 while sums run, which read nothing from far away.
struct AheadArgs {
  const char* from = nullptr;
  int64_t bytes = 0;
};

// to[i][0:channels] = from[i][0:channels] as floats, to[i][channels:padded] = 0.
struct GatherArgs {
  const void* from;
  int64_t from_pixel;  // elements from one pixel to the next
  int64_t pixels, channels, padded;
  float* to;
  int64_t to_pixel;
  int64_t times = 1;  // each channel of `from` so many times: `channels` * times floats before the zeros
};

// to[i][c] = sum over j < times of from[i][c * times + j], rounded.
struct FoldArgs {
  const float* from;
  int64_t from_pixel;
  int64_t pixels, channels, times;
  void* to;
  int64_t to_pixel;  // elements
};

// grad[i][c] *= activation'(at), for `padded` channels; `at` is what went into the activation (DerivativeFromInput) or
// what came out.
struct DerivativeArgs {
  Activation activation;
  const float* at;
  int64_t at_pixel;
  float* grad;
  int64_t grad_pixel;
  int64_t pixels, padded;
};

// to = activation(from), `padded` channels of each pixel.
struct ActivateArgs {
  Activation activation;
  const float* from;
  float* to;
  int64_t pixel;  // of both
  int64_t pixels, padded;
};

// to[y][x][c] = bias[c] + sum over taps t of source[t][y][x][c] * filter[t][c].
struct TapSumArgs {
  const float* const* sources;  // [taps], at row 0, pixel 0, channel 0
  const float* const* filters;  // [taps]
  int64_t taps;
  int64_t source_row, source_pixel;  // floats
  int64_t rows, pixels, channels;
  const float* bias;  // null: zeros
  void* to;
  int64_t to_row, to_pixel;  // elements
  // The taps are `grid_rows` rows of as many neighbours `grid_pixel` floats apart, the rows' first taps `grid_row`
  // apart; 0 where they are no such grid.
  int64_t grid_rows, grid_row, grid_pixel;
  bool stream;  // write around the caches where whole lines are written
};

// sums[t][c] += sum over y, x of source[t][y][x][c] * grad[y][x][c], `padded` channels.
struct TapProductArgs {
  const float* const* sources;
  int64_t taps;
  int64_t source_row, source_pixel;
  const float* grad;
  int64_t grad_row, grad_pixel;
  int64_t rows, pixels, padded;
  float* sums;
  int64_t sums_tap;  // floats from one tap's sums to the next's
};

// to[i][c] = sum over k < K of g[i][k] * P[c][k], for c < columns. Pixel i lies in row i / row_pixels of `to`.
struct MultiplyArgs {
  const void* g;  // of product_type
  int64_t g_pixel, pixels, K;
  const void* panels;  // [ceil(columns / tile)][K rounded up to depth, / pair][tile][pair] of product_type
  int64_t columns;     // whole vectors
  float* to;
  int64_t to_pixel, to_row, row_pixels;
  AheadArgs ahead;
};

// sums[k / tile][c][k % tile] += sum over i of z[i][c] * g[i][k], for c < columns and k < padded_K; the first time
// (`=`) sums need not be initialised.
struct OuterArgs {
  // Of product_type, [ceil(pixels / pair)][channel][pair]; a last pair of one pixel has zeros beside it.
  const void* z;
  int64_t z_step, columns;  // elements from one pair to the next
  const void* g;
  int64_t g_step, padded_K;
  int64_t pixels;
  float* sums;
  bool first;
  AheadArgs ahead;
};

// rows[i][c] = from[i][c] rounded, and pairs[i / 2][c][i % 2] likewise, `padded` channels; either may be null. A last
// pixel that has no partner gets zeros for one.
struct RoundArgs {
  const float* from;
  int64_t from_pixel, pixels, padded;
  BFloat16* rows;
  int64_t rows_pixel;
  BFloat16* pairs;
  int64_t pairs_step;
};

// sums[c] += sum over y, x of from[y][x][c].
struct ColumnSumArgs {
  const float* from;
  int64_t from_row, from_pixel;
  int64_t rows, pixels, padded;
  float* sums;
};

// Batch norm in training. Tensors have rows of `channels` elements of one dtype; per channel there are floats, padded
// to whole vectors.

// mean[c] = the mean of x over the rows but for roundings, rest[c] = sum over the rows of x - mean, which is what those
// come to, squares[c] = sum of (x - mean)^2.
struct MomentsArgs {
  const void* x;
  int64_t rows, channels;
  float *mean, *rest, *squares;
};

// y = activation((x - mean) * scale + shift).
struct NormArgs {
  const void* x;
  int64_t rows, channels;
  const float *mean, *scale, *shift;
  Activation activation;
  void* y;
};

// With `before` the gradient in front of the activation: sums[c] = sum over the rows of before, products[c] = sum of
// before * (x - mean).
struct NormSumsArgs {
  const void *x, *grad;
  int64_t rows, channels;
  const float *mean, *scale, *shift;
  Activation activation;
  bool at_input;  // DerivativeFromInput(activation)
  float *sums, *products;
};

// d_x = (before - offset - (x - mean) * slope) * scale.
struct NormGradArgs {
  const void *x, *grad;
  int64_t rows, channels;
  const float *mean, *scale, *shift, *offset, *slope;
  Activation activation;
  bool at_input;
  void* d_x;
};

struct BackwardTable {
  int tile_channels;   // columns of the register tile, the width of panels
  DType product_type;  // of what multiply and outer read
  int pair;            // consecutive terms that one dot-product instruction adds up: 2 for bfloat16, else 1
  int depth;           // terms of the sum that an instruction takes at once: panels have whole ones
  void (*gather[3])(const GatherArgs& args);    // by DType
  void (*tap_sums[3])(const TapSumArgs& args);  // by DType of `to`
  void (*fold[3])(const FoldArgs& args);        // by DType of `to`
  void (*derivative)(const DerivativeArgs& args);
  void (*activate)(const ActivateArgs& args);
  void (*tap_products)(const TapProductArgs& args);
  void (*multiply)(const MultiplyArgs& args);
  void (*outer)(const OuterArgs& args);
  void (*column_sums)(const ColumnSumArgs& args);
  void (*round)(const RoundArgs& args);  // null where product_type is float
  // By DType of the tensors.
  void (*moments[3])(const MomentsArgs& args);
  void (*normalize[3])(const NormArgs& args);
  void (*norm_sums[3])(const NormSumsArgs& args);
  void (*norm_grad[3])(const NormGradArgs& args);
};

}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_BACKWARD_TABLE_H_
