#include "cc/core/attributes.h"

#include <algorithm>
#include <cmath>

#include "cc/core/half.h"
#include "cc/core/words.h"

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

std::string CheckGroups(const Request& r) {
  if (r.groups < 1) return "groups must be at least 1; given " + std::to_string(r.groups);
  const bool is_dense = r.pointwise_filter && !r.depthwise_filter && !r.expand_filter && !r.gate && !r.normalize;
  if (r.groups == 1 || is_dense) return "";
  return "groups must be 1 but for a dense convolution alone, without " + std::string(r.gate_name) +
         " and normalize; given " + std::to_string(r.groups);
}

// What belongs to a stage that is not there.
std::string CheckStages(const Request& r) {
  if (!r.expand_filter && !r.depthwise_filter && !r.pointwise_filter) {
    return "expand_filter, depthwise_filter and pointwise_filter must not all be missing";
  }
  const struct {
    bool wrong;
    const char* what;
    const char* stage;
  } orphans[] = {
      {!r.expand_filter && r.expand_bias, "expand_bias", "expand_filter"},
      {!r.expand_filter && r.expand_activation.word != "none", "expand_activation", "expand_filter"},
      {!r.depthwise_filter && r.depthwise_bias, "depthwise_bias", "depthwise_filter"},
      {!r.depthwise_filter && r.depthwise_activation.word != "none", "depthwise_activation", "depthwise_filter"},
      {!r.pointwise_filter && r.bias, "bias", "pointwise_filter"},
      {!r.pointwise_filter && r.activation.word != "none", "activation", "pointwise_filter"},
  };
  for (const auto& orphan : orphans) {
    if (orphan.wrong) return std::string(orphan.what) + " must not be given without " + orphan.stage;
  }
  return "";
}

}  // namespace

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
  if (kind == ActivationKind::kPRelu && !request.slopes) {
    return stage + "activation is \"prelu\", so " + stage + "slopes (an input of TfDwsconv>ConvBlock) must be given";
  }
  if (kind != ActivationKind::kPRelu && request.slopes) {
    return stage + "slopes must not be given unless " + stage + "activation is \"prelu\", but it is " +
           Quote(request.word);
  }
  return "";
}

std::string CheckEpsilon(float epsilon) {
  if (epsilon >= 0 && std::isfinite(epsilon)) return "";
  return "epsilon must be a finite number of at least 0, but is " + std::to_string(epsilon);
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
  if (error.empty()) error = CheckActivation("expand_", request.expand_activation);
  if (error.empty()) error = CheckStages(request);
  if (error.empty()) error = CheckGroups(request);
  if (error.empty() && request.normalize) error = CheckEpsilon(request.epsilon);
  return error;
}

}  // namespace dwsconv
