// Checks what a caller asks for and turns it into a Problem: the one place where arguments are validated, used by the
// TensorFlow op, the pybind11 module and (its window arithmetic) the shape function.
#ifndef DWSCONV_CORE_MAKE_PROBLEM_H_
#define DWSCONV_CORE_MAKE_PROBLEM_H_

#include <cstdint>
#include <string>
#include <vector>

#include "cc/core/problem.h"

namespace dwsconv {

// As the caller gave it: nothing here is trusted. Shapes are full shapes, of any rank.
struct Request {
  std::vector<int64_t> input, depthwise_filter, pointwise_filter;
  std::vector<int64_t> depthwise_bias, bias, residual;  // read where the flag below is set
  bool has_depthwise_bias = false, has_bias = false, has_residual = false;
  std::vector<int64_t> strides = {1, 1}, dilations = {1, 1};  // height, width
  std::string padding = "SAME";                               // "SAME", "VALID", "EXPLICIT"
  std::vector<int64_t> explicit_paddings;  // EXPLICIT: 8 numbers, (before, after) of each axis in data_format's order
  std::string data_format = "NHWC";        // or "NCHW"
  std::string depthwise_activation = "none", activation = "none";
  float depthwise_alpha = 0.2f, alpha = 0.2f;
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

// "none", "relu", ... to the enum; false for a word that is none of them.
bool ParseActivation(const std::string& word, ActivationKind* kind);
const char* ActivationWords();  // "none, relu, relu6, ...": for messages

// The shape of the output in the request's layout.
std::vector<int64_t> OutputShape(const Problem& problem);

// 2 * multiply-adds of both halves.
int64_t Flops(const Problem& problem);

}  // namespace dwsconv

#endif  // DWSCONV_CORE_MAKE_PROBLEM_H_
