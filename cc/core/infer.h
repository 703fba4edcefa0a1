// Checks what a caller asks for and turns it into a Chain: the one place where arguments are validated and sizes are
// computed. The ops, their shape functions and the pybind11 module all call it, so they accept and refuse the same
// things with the same words, at the same time.
#ifndef DWSCONV_CORE_INFER_H_
#define DWSCONV_CORE_INFER_H_

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "cc/core/chain.h"

namespace dwsconv {

// A size that nobody knows yet: while TensorFlow makes a graph.
constexpr int64_t kUnknown = std::numeric_limits<int64_t>::min();

// A tensor's shape as the caller gave it, of any rank; not trusted. Without sizes the rank is unknown, too.
struct Shape {
  std::optional<std::vector<int64_t>> sizes;

  Shape() = default;
  Shape(std::vector<int64_t> of) : sizes(std::move(of)) {}  // NOLINT: a shape is its sizes
  Shape(std::initializer_list<int64_t> of) : sizes(of) {}   // NOLINT
  bool Known() const;                                       // the rank and every size
};

// An activation as the caller gave it.
struct ActivationRequest {
  std::string word = "none";
  float alpha = 0.2f;                                        // of leaky_relu and elu
  float max_value = std::numeric_limits<float>::infinity();  // of relu and leaky_relu
  float threshold = 0;                                       // likewise
  std::optional<Shape> slopes;                               // of prelu, which only a block takes
};

// What the caller asks for: nothing here is trusted. A tensor without a shape is not there, nor is its stage.
struct Request {
  Shape input;
  std::optional<Shape> expand_filter, expand_bias, depthwise_filter, depthwise_bias, pointwise_filter, bias, gate,
      residual;
  std::vector<int64_t> strides = {1, 1}, dilations = {1, 1};  // height, width
  int64_t groups = 1;                                         // of a dense convolution; programs alone have several
  std::string padding = "SAME";                               // "SAME", "VALID", "EXPLICIT"
  std::vector<int64_t> explicit_paddings;  // EXPLICIT: 8 numbers, (before, after) of each axis in data_format's order
  std::string data_format = "NHWC";        // or "NCHW"
  ActivationRequest expand_activation, depthwise_activation, activation;
  bool normalize = false;
  float epsilon = 0;
  DType dtype = DType::kFloat32;
  // What messages call them: the module for NumPy arrays has an x, a program a gate, and its pools windows.
  const char *input_name = "input", *gate_name = "scale", *window_name = nullptr;  // null: the filter's own name
};

// Fills *chain and returns "", or returns what is wrong: the argument's name, what was given, what is allowed. Where
// sizes are unknown it checks what can be checked, and sizes of the chain that depend on them are kUnknown, pads 0.
std::string Infer(const Request& request, Chain* chain);

// The shape of the output in the chain's layout; kUnknown where that is.
std::vector<int64_t> OutputShape(const Chain& chain);

// 2 * multiply-adds of all stages.
int64_t Flops(const Chain& chain);

}  // namespace dwsconv

#endif  // DWSCONV_CORE_INFER_H_
