#include "cc/core/make_problem.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <string>
#include <vector>

#include "cc/core/half.h"

namespace dwsconv {
namespace {

constexpr struct {
  const char* word;
  ActivationKind kind;
} kActivations[] = {
    {"none", ActivationKind::kNone},
    {"relu", ActivationKind::kRelu},
    {"relu6", ActivationKind::kRelu6},
    {"hard_swish", ActivationKind::kHardSwish},
    {"silu", ActivationKind::kSilu},
    {"gelu", ActivationKind::kGelu},
    {"leaky_relu", ActivationKind::kLeakyRelu},
    {"sigmoid", ActivationKind::kSigmoid},
    {"tanh", ActivationKind::kTanh},
    {"elu", ActivationKind::kElu},
    {"mish", ActivationKind::kMish},
    {"gelu_tanh", ActivationKind::kGeluTanh},
    {"prelu", ActivationKind::kPRelu},
};

std::string Quote(const std::string& word) { return "\"" + word + "\""; }

std::string Show(const std::vector<int64_t>& numbers) {
  std::string text = "[";
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (i > 0) text += ",";
    text += std::to_string(numbers[i]);
  }
  return text + "]";
}

// The product of non-negative factors, with 0 counted as 1: an empty tensor's other sizes must fit as well, for the
// kernels multiply them before they look at the batch. False where it does not fit.
bool ProductFits(std::initializer_list<int64_t> factors, int64_t* product) {
  *product = 1;
  for (int64_t factor : factors) {
    if (__builtin_mul_overflow(*product, std::max<int64_t>(factor, 1), product)) return false;
  }
  return true;
}

std::string CheckPair(const char* name, const std::vector<int64_t>& pair) {
  if (pair.size() != 2 || pair[0] < 1 || pair[1] < 1) {
    return std::string(name) + " must be 2 numbers (height, width), each at least 1, but is " + Show(pair);
  }
  return "";
}

// "none", "relu", ... to the enum; false for a word that is none of them.
bool ParseActivation(const std::string& word, ActivationKind* kind) {
  for (const auto& activation : kActivations) {
    if (word == activation.word) {
      *kind = activation.kind;
      return true;
    }
  }
  return false;
}

// "none, relu, relu6, ...": for messages.
std::string ActivationWords() {
  std::string joined;
  for (const auto& activation : kActivations) {
    if (!joined.empty()) joined += ", ";
    joined += activation.word;
  }
  return joined;
}

std::string CheckPaddings(const Request& request) {
  const std::vector<int64_t>& pads = request.explicit_paddings;
  if (request.padding != "EXPLICIT") {
    if (pads.empty()) return "";
    return "explicit_paddings must be empty unless padding is \"EXPLICIT\", but is " + Show(pads) + " with padding " +
           Quote(request.padding);
  }
  if (pads.size() != 8) {
    return "explicit_paddings must be 8 numbers, (before, after) of each axis of " + request.data_format +
           ", with padding \"EXPLICIT\", but is " + Show(pads);
  }
  const size_t channel_axis = request.data_format == "NHWC" ? 3 : 1;
  for (size_t i = 0; i < 8; ++i) {
    if (pads[i] < 0) return "explicit_paddings must not be negative, but is " + Show(pads);
    if (pads[i] != 0 && (i / 2 == 0 || i / 2 == channel_axis)) {
      return "explicit_paddings must be 0 for the batch and channel axes of " + request.data_format + ", but is " +
             Show(pads);
    }
  }
  return "";
}

// A tensor of 4 axes. `axes` words the message.
std::string CheckRank4(const char* name, const char* axes, const std::vector<int64_t>& shape) {
  if (shape.size() == 4 && *std::min_element(shape.begin(), shape.end()) >= 0) return "";
  return std::string(name) + " must have rank 4 (" + axes + "), but its shape is " + Show(shape);
}

std::string CheckFilters(const Request& request, const Problem& p) {
  const std::vector<int64_t>& depthwise = request.depthwise_filter;
  const std::vector<int64_t>& pointwise = request.pointwise_filter;
  for (int64_t size : depthwise) {
    if (size == 0) return "depthwise_filter must have no axis of size 0, but its shape is " + Show(depthwise);
  }
  if (depthwise[2] != p.C) {
    return "depthwise_filter must be [R,S,C,M] with C = " + std::to_string(p.C) + " as the channels of " +
           request.input_name + " (shape " + Show(request.input) + ", data_format " + request.data_format +
           "), but its shape is " + Show(depthwise);
  }
  int64_t cm;
  if (__builtin_mul_overflow(p.C, depthwise[3], &cm)) {
    return "depthwise_filter has too many output channels: C*M of shape " + Show(depthwise) + " is past 64 bits";
  }
  if (pointwise[0] != 1 || pointwise[1] != 1 || pointwise[2] != cm || pointwise[3] < 1) {
    return "pointwise_filter must be [1,1,C*M,K] with C*M = " + std::to_string(cm) + " (depthwise_filter's shape is " +
           Show(depthwise) + ") and K at least 1, but its shape is " + Show(pointwise);
  }
  return "";
}

std::string CheckBias(const char* name, const char* axis, int64_t size, const std::vector<int64_t>& shape) {
  if (shape.size() == 1 && shape[0] == size) return "";
  return std::string(name) + " must have shape [" + axis + "] = [" + std::to_string(size) + "], but its shape is " +
         Show(shape);
}

// Every product of sizes that a kernel may form must fit, in bytes of float: even where a tensor is narrower, scratch
// is float.
std::string CheckProducts(const Request& request, const Problem& p) {
  int64_t product;
  if (!ProductFits({p.N, p.H, p.W, p.C, 4}, &product)) {
    return std::string(request.input_name) + " is too large: the size of shape " + Show(request.input) +
           " is past 64 bits";
  }
  if (!ProductFits({p.R, p.S, p.C, p.M, 4}, &product)) {
    return "depthwise_filter is too large: the size of shape " + Show(request.depthwise_filter) + " is past 64 bits";
  }
  if (!ProductFits({p.C, p.M, p.K, 4}, &product)) {
    return "pointwise_filter is too large: the size of shape " + Show(request.pointwise_filter) + " is past 64 bits";
  }
  if (!ProductFits({p.N, p.Ho, p.Wo, std::max(p.K, p.C * p.M), 4}, &product)) {
    return "the output is too large: its shape " + Show(OutputShape(p)) + ", or that with " +
           std::to_string(p.C * p.M) + " channels in between, is past 64 bits (" + request.input_name + " is " +
           Show(request.input) + ", explicit_paddings is " + Show(request.explicit_paddings) + ")";
  }
  return "";
}

}  // namespace

std::string CheckActivation(const std::string& stage, const ActivationRequest& request) {
  ActivationKind kind;
  if (!ParseActivation(request.word, &kind)) {
    return stage + "activation must be one of " + ActivationWords() + ", but is " + Quote(request.word);
  }
  const bool is_relu = kind == ActivationKind::kRelu || kind == ActivationKind::kLeakyRelu;
  if ((kind == ActivationKind::kLeakyRelu || kind == ActivationKind::kElu) && !std::isfinite(request.alpha)) {
    const std::string what = kind == ActivationKind::kElu ? "the factor of elu" : "the slope of leaky_relu";
    return stage + "alpha (" + what + ") must be finite, but is " + std::to_string(request.alpha);
  }
  if (is_relu && !(request.max_value >= 0)) {
    return stage + "max_value must be at least 0, but is " + std::to_string(request.max_value);
  }
  if (is_relu && !(request.threshold >= 0 && std::isfinite(request.threshold))) {
    return stage + "threshold must be finite and at least 0, but is " + std::to_string(request.threshold);
  }
  if (kind == ActivationKind::kPRelu && !request.has_slopes) {
    return stage + "activation is \"prelu\", so " + stage + "slopes (an input of TfDwsconv>ConvBlock) must be given";
  }
  if (kind != ActivationKind::kPRelu && request.has_slopes) {
    return stage + "slopes must not be given unless " + stage + "activation is \"prelu\", but it is " +
           Quote(request.word);
  }
  return "";
}

std::string CheckSlopes(const std::string& stage, const char* axis, int64_t size, const ActivationRequest& request) {
  return request.has_slopes ? CheckBias((stage + "slopes").c_str(), axis, size, request.slopes) : "";
}

Activation ToActivation(const ActivationRequest& request, DType dtype) {
  Activation a;
  ParseActivation(request.word, &a.kind);
  a.alpha = request.alpha;
  if (a.kind != ActivationKind::kRelu && a.kind != ActivationKind::kLeakyRelu) return a;
  a.max_value = request.max_value;
  if (dtype == DType::kBFloat16) a.max_value = ToFloat(FromFloat<BFloat16>(a.max_value));
  if (dtype == DType::kFloat16) a.max_value = ToFloat(FromFloat<Float16>(a.max_value));
  a.threshold = request.threshold;
  const bool is_plain = std::isinf(a.max_value) && a.threshold == 0;
  if (a.kind == ActivationKind::kRelu) a.alpha = 0;
  if (is_plain) return a;
  a.kind = a.alpha == 0 && a.threshold == 0 ? ActivationKind::kRelu : ActivationKind::kBoundedRelu;
  return a;
}

std::string CheckAttributes(const Request& request) {
  std::string error = CheckPair("strides", request.strides);
  if (error.empty()) error = CheckPair("dilations", request.dilations);
  if (!error.empty()) return error;
  if (request.data_format != "NHWC" && request.data_format != "NCHW") {
    return "data_format must be \"NHWC\" or \"NCHW\", but is " + Quote(request.data_format);
  }
  if (request.padding != "SAME" && request.padding != "VALID" && request.padding != "EXPLICIT") {
    return "padding must be \"SAME\", \"VALID\" or \"EXPLICIT\", but is " + Quote(request.padding);
  }
  error = CheckPaddings(request);
  if (error.empty()) error = CheckActivation("depthwise_", request.depthwise_activation);
  if (error.empty()) error = CheckActivation("", request.activation);
  return error;
}

std::string OutputSize(const char* axis, int64_t in, int64_t kernel, int64_t stride, int64_t dilation,
                       const std::string& padding, int64_t before, int64_t after, int64_t* out, int64_t* pad_before) {
  const auto too_large = [&] {
    return "dilations, strides or explicit_paddings are too large along the " + std::string(axis) +
           ": the window's extent is past 64 bits (input " + std::to_string(in) + ", depthwise_filter " +
           std::to_string(kernel) + ", dilation " + std::to_string(dilation) + ", stride " + std::to_string(stride) +
           ", padding " + std::to_string(before) + " and " + std::to_string(after) + ")";
  };
  int64_t window;  // input elements from the first tap to the last
  if (__builtin_mul_overflow(kernel - 1, dilation, &window) || __builtin_add_overflow(window, 1, &window)) {
    return too_large();
  }
  if (padding == "SAME") {
    *out = in / stride + (in % stride != 0 ? 1 : 0);
    *pad_before = 0;
    if (*out == 0) return "";
    int64_t covered;
    if (__builtin_add_overflow((*out - 1) * stride, window, &covered)) return too_large();
    *pad_before = std::max<int64_t>(covered - in, 0) / 2;
    return "";
  }
  if (padding == "VALID") before = after = 0;
  int64_t padded;
  if (__builtin_add_overflow(in, before, &padded) || __builtin_add_overflow(padded, after, &padded)) {
    return too_large();
  }
  if (padded < window) {
    return "depthwise_filter is larger than the input along the " + std::string(axis) + ": its window covers " +
           std::to_string(window) + " (size " + std::to_string(kernel) + ", dilation " + std::to_string(dilation) +
           "), the input has " + std::to_string(in) +
           (padding == "VALID" ? std::string(" and padding is \"VALID\"")
                               : ", " + std::to_string(padded) + " with its padding");
  }
  *out = (padded - window) / stride + 1;
  *pad_before = before;
  return "";
}

std::string MakeProblem(const Request& request, Problem* problem) {
  std::string error = CheckAttributes(request);
  if (!error.empty()) return error;
  const bool nhwc = request.data_format == "NHWC";
  const char* const input_axes = nhwc ? "[N,H,W,C]" : "[N,C,H,W]";
  error = CheckRank4(request.input_name, input_axes, request.input);
  if (error.empty()) error = CheckRank4("depthwise_filter", "[R,S,C,M]", request.depthwise_filter);
  if (error.empty()) error = CheckRank4("pointwise_filter", "[1,1,C*M,K]", request.pointwise_filter);
  if (!error.empty()) return error;

  Problem p;
  p.dtype = request.dtype;
  p.layout = nhwc ? Layout::kNHWC : Layout::kNCHW;
  p.N = request.input[0];
  p.H = request.input[nhwc ? 1 : 2];
  p.W = request.input[nhwc ? 2 : 3];
  p.C = request.input[nhwc ? 3 : 1];
  error = CheckFilters(request, p);
  if (!error.empty()) return error;
  p.R = request.depthwise_filter[0];
  p.S = request.depthwise_filter[1];
  p.M = request.depthwise_filter[3];
  p.K = request.pointwise_filter[3];
  p.stride_h = request.strides[0];
  p.stride_w = request.strides[1];
  p.dilation_h = request.dilations[0];
  p.dilation_w = request.dilations[1];

  const bool is_explicit = request.padding == "EXPLICIT";
  const int64_t* const pads = is_explicit ? request.explicit_paddings.data() + (nhwc ? 2 : 4) : nullptr;
  error = OutputSize("height", p.H, p.R, p.stride_h, p.dilation_h, request.padding, is_explicit ? pads[0] : 0,
                     is_explicit ? pads[1] : 0, &p.Ho, &p.pad_top);
  if (error.empty()) {
    error = OutputSize("width", p.W, p.S, p.stride_w, p.dilation_w, request.padding, is_explicit ? pads[2] : 0,
                       is_explicit ? pads[3] : 0, &p.Wo, &p.pad_left);
  }
  if (error.empty()) error = CheckProducts(request, p);
  if (!error.empty()) return error;

  p.has_depthwise_bias = request.has_depthwise_bias;
  p.has_bias = request.has_bias;
  p.has_residual = request.has_residual;
  if (p.has_depthwise_bias) error = CheckBias("depthwise_bias", "C*M", p.CM(), request.depthwise_bias);
  if (error.empty() && p.has_bias) error = CheckBias("bias", "K", p.K, request.bias);
  if (error.empty() && p.has_residual && request.residual != OutputShape(p)) {
    error = "residual must have the output's shape " + Show(OutputShape(p)) + ", but its shape is " +
            Show(request.residual);
  }
  if (error.empty()) error = CheckSlopes("depthwise_", "C*M", p.CM(), request.depthwise_activation);
  if (error.empty()) error = CheckSlopes("", "K", p.K, request.activation);
  if (!error.empty()) return error;

  p.mid = ToActivation(request.depthwise_activation, DType::kFloat32);
  p.out = ToActivation(request.activation, p.dtype);
  *problem = p;
  return "";
}

std::vector<int64_t> OutputShape(const Problem& p) {
  if (p.layout == Layout::kNHWC) return {p.N, p.Ho, p.Wo, p.K};
  return {p.N, p.K, p.Ho, p.Wo};
}

int64_t Flops(const Problem& p) {
  // One multiply-add counts two. Sizes are checked one tensor at a time, so the product of all may pass 64 bits.
  const int64_t pixels = p.N * p.Ho * p.Wo;
  int64_t taps, flops;
  if (__builtin_mul_overflow(p.R, p.S, &taps) || __builtin_add_overflow(taps, p.K, &taps) ||
      __builtin_mul_overflow(taps, 2 * p.CM(), &taps) || __builtin_mul_overflow(taps, pixels, &flops)) {
    return pixels == 0 ? 0 : std::numeric_limits<int64_t>::max();
  }
  return flops;
}

}  // namespace dwsconv
