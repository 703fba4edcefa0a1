#include "cc/core/make_block.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace dwsconv {
namespace {

std::string Show(const std::vector<int64_t>& numbers) {
  std::string text = "[";
  for (size_t i = 0; i < numbers.size(); ++i) text += (i > 0 ? "," : "") + std::to_string(numbers[i]);
  return text + "]";
}

std::string CheckExpand(const BlockRequest& request, int64_t given) {
  const std::vector<int64_t>& filter = request.expand_filter;
  if (filter.size() != 4) return "expand_filter must have rank 4 ([1,1,E,C]), but its shape is " + Show(filter);
  if (filter[0] != 1 || filter[1] != 1 || filter[2] != given || given < 1 || filter[3] < 1) {
    return "expand_filter must be [1,1,E,C] with E = " + std::to_string(given) + " as the channels of input (shape " +
           Show(request.main.input) + ", data_format " + request.main.data_format +
           "), E and C at least 1, but its shape is " + Show(filter);
  }
  if (request.has_expand_bias && (request.expand_bias.size() != 1 || request.expand_bias[0] != filter[3])) {
    return "expand_bias must have shape [C] = [" + std::to_string(filter[3]) + "], but its shape is " +
           Show(request.expand_bias);
  }
  return "";
}

// A pointwise filter without a depthwise one.
std::string CheckDense(const BlockRequest& request, const Request& main) {
  const std::vector<int64_t>& filter = main.pointwise_filter;
  const int64_t C = main.input[main.data_format == "NHWC" ? 3 : 1];
  if (filter.size() != 4 || filter[0] < 1 || filter[1] < 1 || filter[2] != C || C < 1 || filter[3] < 1) {
    return "pointwise_filter must be [R,S,C,K] without depthwise_filter, with C = " + std::to_string(C) +
           " as the channels of " + main.input_name + " and no axis of size 0, but its shape is " + Show(filter);
  }
  int64_t bytes = 4;
  for (int64_t size : filter) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) {
      return "pointwise_filter is too large: the size of shape " + Show(filter) + " is past 64 bits";
    }
  }
  const bool window =
      filter[0] > 1 || filter[1] > 1 || main.strides[0] > 1 || main.strides[1] > 1 || main.padding == "EXPLICIT";
  for (const auto& [given, what] : {std::pair<bool, const char*>{request.has_expand, "expand_filter"},
                                    {request.has_scale, "scale"},
                                    {request.normalize, "normalize"}}) {
    if (window && given) {
      return std::string(what) + " must not be given with a dense convolution: pointwise_filter (shape " +
             Show(filter) + ") must be 1 x 1, strides 1 and padding not explicit";
    }
  }
  return "";
}

}  // namespace

std::string CheckBlockAttributes(const BlockRequest& request) {
  std::string error = CheckAttributes(request.main);
  if (!error.empty()) return error;
  error = CheckActivation("expand_", request.expand_activation);
  if (!error.empty()) return error;
  if (!request.has_expand && !request.has_depthwise && !request.has_pointwise) {
    return "expand_filter, depthwise_filter and pointwise_filter must not all be missing";
  }
  const struct {
    bool wrong;
    const char* what;
    const char* stage;
  } orphans[] = {
      {!request.has_expand && request.has_expand_bias, "expand_bias", "expand_filter"},
      {!request.has_expand && request.expand_activation.word != "none", "expand_activation", "expand_filter"},
      {!request.has_depthwise && request.main.has_depthwise_bias, "depthwise_bias", "depthwise_filter"},
      {!request.has_depthwise && request.main.depthwise_activation.word != "none", "depthwise_activation",
       "depthwise_filter"},
      {!request.has_pointwise && request.main.has_bias, "bias", "pointwise_filter"},
      {!request.has_pointwise && request.main.activation.word != "none", "activation", "pointwise_filter"},
  };
  for (const auto& orphan : orphans) {
    if (orphan.wrong) return std::string(orphan.what) + " must not be given without " + orphan.stage;
  }
  if (request.normalize && !(request.epsilon >= 0 && std::isfinite(request.epsilon))) {
    return "epsilon must be a finite number of at least 0, but is " + std::to_string(request.epsilon);
  }
  return "";
}

std::string MakeBlock(const BlockRequest& request, Block* block) {
  std::string error = CheckBlockAttributes(request);
  if (!error.empty()) return error;
  // The stages that are missing as filters that change nothing: MakeProblem judges the rest.
  Request main = request.main;
  const bool nhwc = main.data_format == "NHWC";
  const size_t axis = nhwc ? 3 : 1;
  Block b;
  if (main.input.size() == 4 && main.input[axis] >= 0) {
    if (request.has_expand) {
      error = CheckExpand(request, main.input[axis]);
      if (!error.empty()) return error;
      b.E = request.expand_filter[2];
      int64_t bytes = 4;
      for (int64_t size : main.input) {
        if (__builtin_mul_overflow(bytes, std::max<int64_t>(size, 1), &bytes)) {
          return "input is too large: the size of shape " + Show(main.input) + " is past 64 bits";
        }
      }
      if (__builtin_mul_overflow(b.E, request.expand_filter[3], &bytes) || bytes > INT64_MAX / 4) {
        return "expand_filter is too large: the size of shape " + Show(request.expand_filter) + " is past 64 bits";
      }
      main.input[axis] = request.expand_filter[3];
      main.input_name = "the expanded input";
    }
    if (!request.has_depthwise) {
      main.depthwise_filter = {1, 1, main.input[axis], 1};
      if (request.has_pointwise) {
        error = CheckDense(request, main);
        if (!error.empty()) return error;
        // Its window is judged as that of a depthwise filter.
        main.depthwise_filter = {main.pointwise_filter[0], main.pointwise_filter[1], main.input[axis], 1};
        main.pointwise_filter = {1, 1, main.input[axis], main.pointwise_filter[3]};
      }
    }
    if (!request.has_pointwise && main.depthwise_filter.size() == 4) {
      int64_t cm;
      if (main.depthwise_filter[3] >= 0 && !__builtin_mul_overflow(main.input[axis], main.depthwise_filter[3], &cm)) {
        // K = C*M is checked through a filter of K = 1: one of [C*M, C*M] that nobody has might be too large.
        main.pointwise_filter = {1, 1, cm, 1};
      }
    }
    // Its shape is that of K; checked below.
    if (!request.has_pointwise) main.has_residual = false;
  }
  error = MakeProblem(main, &b.main);
  if (!error.empty()) return error;
  b.has_depthwise = request.has_depthwise;
  b.has_pointwise = request.has_pointwise;
  if (!request.has_pointwise) {
    b.main.K = b.main.CM();
    b.main.has_residual = request.main.has_residual;
    if (b.main.has_residual && request.main.residual != OutputShape(b.main)) {
      return "residual must have the output's shape " + Show(OutputShape(b.main)) + ", but its shape is " +
             Show(request.main.residual);
    }
  }
  if (request.has_scale) {
    const std::vector<int64_t> wide =
        nhwc ? std::vector<int64_t>{b.main.N, 1, 1, b.main.CM()} : std::vector<int64_t>{b.main.N, b.main.CM(), 1, 1};
    if (request.scale != wide && request.scale != std::vector<int64_t>{b.main.N, b.main.CM()}) {
      return "scale must have shape " + Show({b.main.N, b.main.CM()}) + " or " + Show(wide) + ", but its shape is " +
             Show(request.scale);
    }
  }
  if (request.has_expand) {
    error = CheckSlopes("expand_", "C", b.main.C, request.expand_activation);
    if (!error.empty()) return error;
  }
  b.lead = ToActivation(request.expand_activation, DType::kFloat32);
  b.has_expand_bias = request.has_expand_bias;
  b.normalize = request.normalize;
  b.epsilon = request.epsilon;
  b.has_scale = request.has_scale;
  b.main.float_between = b.normalize || b.has_scale;
  *block = b;
  return "";
}

}  // namespace dwsconv
