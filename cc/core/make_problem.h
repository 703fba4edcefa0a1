// Checks what a caller asks for and turns it into a Problem: the one place where arguments are validated, used by the
// TensorFlow op, the pybind11 module and (its window arithmetic) the shape function.
#ifndef DWSCONV_CORE_MAKE_PROBLEM_H_
#define DWSCONV_CORE_MAKE_PROBLEM_H_

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "cc/core/problem.h"

namespace dwsconv {

// An activation as the caller gave it.
struct ActivationRequest {
  std::string word = "none";
  float alpha = 0.2f;                                        // of leaky_relu and elu
  float max_value = std::numeric_limits<float>::infinity();  // of relu and leaky_relu
  float threshold = 0;                                       // likewise
  bool has_slopes = false;                                   // of prelu, which only a block takes
  std::vector<int64_t> slopes;                               // their shape
};

// As the caller gave it: nothing here is trusted. Shapes are full shapes, of any rank.
struct Request {
  std::vector<int64_t> input, depthwise_filter, pointwise_filter;
  std::vector<int64_t> depthwise_bias, bias, residual;  // read where the flag below is set
  bool has_depthwise_bias = false, has_bias = false, has_residual = false;
  std::vector<int64_t> strides = {1, 1}, dilations = {1, 1};  // height, width
  std::string padding = "SAME";                               // "SAME", "VALID", "EXPLICIT"
  std::vector<int64_t> explicit_paddings;  // EXPLICIT: 8 numbers, (before, after) of each axis in data_format's order
  std::string data_format = "NHWC";        // or "NCHW"
  ActivationRequest depthwise_activation, activation;
  DType dtype = DType::kFloat32;
  const char* input_name = "input";  // what messages call the input: the module for NumPy arrays calls it x
};

// Fills *problem and returns "", or returns what is wrong: the argument's name, what was given, what is allowed.
std::string MakeProblem(const Request& request, Problem* problem);

// The attributes alone (lengths, ranges, words), as far as they can be judged without shapes. "" or what is wrong.
std::string CheckAttributes(const Request& request);

// One axis of the window arithmetic: fills *out and *pad_before and returns "", or what is wrong. `axis` ("height",
// "width") only words the message. before/after are read with EXPLICIT only.
std::string OutputSize(const char* axis, int64_t in, int64_t kernel, int64_t stride, int64_t dilation,
                       const std::string& padding, int64_t before, int64_t after, int64_t* out, int64_t* pad_before);

// What is wrong with an activation, or "". `stage` is what its arguments' names begin with: "", "depthwise_",
// "expand_".
std::string CheckActivation(const std::string& stage, const ActivationRequest& request);

// The same for the shape of its slopes, if it has any; `axis` ("K") words the message.
std::string CheckSlopes(const std::string& stage, const char* axis, int64_t size, const ActivationRequest& request);

// The activation of a request that is right. Where its result is stored as `dtype`, so is its largest value: the
// derivative can be told from what is stored.
Activation ToActivation(const ActivationRequest& request, DType dtype);

// The shape of the output in the request's layout.
std::vector<int64_t> OutputShape(const Problem& problem);

// 2 * multiply-adds of both halves.
int64_t Flops(const Problem& problem);

}  // namespace dwsconv

#endif  // DWSCONV_CORE_MAKE_PROBLEM_H_
