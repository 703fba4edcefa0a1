// What one instruction set offers. Each target (targets.h) is a translation unit compiled with its own flags; all it
// exports is its table. Such a unit must not emit code that others could link to: no STL, no OpenMP, nothing inline
// with external linkage, or the linker may keep the AVX-512 copy of a function for everyone (a test over nm holds it).
// A kernel computes one tile on one thread.
#ifndef DWSCONV_CPU_KERNELS_KERNEL_TABLE_H_
#define DWSCONV_CPU_KERNELS_KERNEL_TABLE_H_

#include <cstdint>

#include "cc/core/chain.h"
#include "cc/plan/kernel_costs.h"

namespace dwsconv {

// What a kernel may keep in L1 for later: half of the smallest in use.
constexpr int64_t kNearBytes = 16 << 10;

// Depthwise half: Z of `pixels` consecutive output pixels (row-major) of one image, activation applied.
struct DepthwiseArgs {
  const Chain* chain;
  const void* image;           // [H,W,C] of Chain::dtype
  const float* filter;         // [M][channel_stride / vector_floats][R*S][vector_floats], channels past C zero
  const float* bias;           // [M][channel_stride], zeros without a bias
  const float* slopes;         // [C*M] in Z's channel order, where the activation is PReLU
  int64_t channel_stride;      // C rounded up to whole vectors
  int64_t packed_pixels;       // of PackedPixels in plan.h; where it is not 0:
  const float* packed_filter;  // [packed_pixels * C / vector_floats][R*S][vector_floats]
  const float* packed_bias;    // [packed_pixels][C]
  int64_t first_pixel;
  int64_t pixels;
  void* z;  // [pixels][z_stride] of KernelTable::z_type; channel (c, m) is at m*C + c. Up to a vector
            // past C*M is overwritten
  int64_t z_stride;
  const float* outside = nullptr;  // as in Buffers: `patches` alone reads it
};

// to[i * times + j] = from[i] as floats, for i < elements, j < times: channels of X, once for each of their
// multipliers. Then the same of the next pixel, `from_step` elements further, behind it.
struct RepeatArgs {
  const void* from;
  int64_t elements, times;
  float* to;
  int64_t pixels = 1, from_step = 0;
};

// Pointwise half: Y[:, k_begin:k_end] of the same pixels.
struct PointwiseArgs {
  const void* z;     // [pixels][z_stride] of KernelTable::product_type
  int64_t z_stride;  // in elements
  bool z_padded;     // zeros follow the last channel of each pixel, up to whole `depth`s
  int64_t pixels;
  int64_t cm;  // C*M, in Z's channel order
  // A pixel's sum may go over `z_rows` runs of cm / z_rows elements, each z_row_step elements behind the one before:
  // what lies under the window of a dense convolution. Only without a `round`, in runs of whole `depth`s.
  int64_t z_rows = 1, z_row_step = 0;
  // Of a block of several lines of as many pixels each: from the first element of a line to that of the next. 0 pixels
  // where all lie z_stride apart.
  int64_t line_pixels = 0, z_line_step = 0;
  // [ceil(K/tile_channels)][cm rounded up to depth, /pair][tile_channels][pair] of product_type, the rest zero
  const void* panels;
  const float* bias;              // [K rounded up to tile_channels], zeros without a bias
  const float* slopes;            // likewise, where the activation is PReLU
  int64_t k_begin, k_end;         // k_begin is a multiple of tile_channels
  const void* residual;           // of Chain::dtype, first pixel, channel 0; null without one
  void* y;                        // likewise
  int64_t residual_step, y_step;  // elements from pixel to pixel
  DType dtype;
  Activation activation;
  const char* ahead;  // memory the caller will read next: fetched into L2 between tiles
  int64_t ahead_bytes;
  bool stream;  // write around the caches (y aligned to a cache line, K and y_step whole numbers of lines); see
                // streams_halves
};

// Panels as PointwiseArgs::panels, each row times its factor.
struct ScalePanelsArgs {
  const void* from;
  void* to;
  int64_t panels, rows;  // of each panel, whole `depth`s
  const float* factors;
  int64_t factor_count;  // rows past these become zero
};

// Rows of Z in place, where Z is float.
struct RowsArgs {
  float* z;
  int64_t z_stride;
  int64_t rows;
  int64_t channels;
  Activation activation = {};  // `round` alone applies it, before it rounds; not PReLU
};

// Measured, to one digit: loads bound a depthwise multiply-add.
constexpr KernelCosts kVectorCosts = {2.2, 1.5, 3.3, 3, 4, 0.25, 500, 8000, 1.25};

struct KernelTable {
  int vector_floats;
  int tile_pixels;
  int tile_channels;
  DType z_type;        // of what comes out of the depthwise half, and of an expansion
  DType product_type;  // of what the pointwise half reads, Z and panels; where it differs, `round` makes it
  int pair;            // consecutive channels that one dot-product instruction adds up: 2 for bfloat16, else 1
  int depth;           // channels of the sum that an instruction takes at once: panels have whole ones
  int product_rate;    // multiply-adds of the pointwise half in the time of one of floats: for the planner
  KernelCosts costs;   // likewise
  // Whether Y goes around the caches in 16 bits too where products are of floats: a tile's channels fill whole lines.
  bool streams_halves;
  // By DType of the image; null where the table does not serve it. A bfloat16 table takes float images too, which
  // `repeat` makes.
  void (*depthwise[3])(const DepthwiseArgs& args);
  void (*repeat[3])(const RepeatArgs& args);  // by DType of `from`
  // In the place of the depthwise half, for dense convolutions: Z [pixels][R*S*C] is what lies under the windows, zero
  // or `outside` where the image ends. filter and bias are not read, nothing past R*S*C is written.
  void (*patches[3])(const DepthwiseArgs& args);
  void (*pointwise)(const PointwiseArgs& args);
  // Y = activation(Z) + residual of cm channels, where there is no pointwise half; not PReLU.
  void (*copy)(const PointwiseArgs& args);
  // Z = X * factors, one for each channel: in the place of the depthwise half where Chain::gates_input. By DType of X.
  void (*gate[3])(const DepthwiseArgs& args, const float* factors);
  // The same by the filter's rows, for X of product_type.
  void (*scale_panels)(const ScalePanelsArgs& args);
  // Of tables whose Z is float; null elsewhere.
  void (*normalize)(const RowsArgs& rows, float epsilon);     // each row to mean 0 and variance 1
  void (*scale)(const RowsArgs& rows, const float* factors);  // by one factor for each channel
  // In place, to product_type, zeros after the last channel as far as a row's room and `depth` go. Null where z_type is
  // product_type.
  void (*round)(const RowsArgs& rows);
};

}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_KERNEL_TABLE_H_
