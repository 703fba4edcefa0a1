// Programs to text: the other half of program_text.h.
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "cc/core/program_text.h"

namespace dwsconv {
namespace {

using Json = nlohmann::ordered_json;  // as docs/program.md orders them

Json Numbers(const std::vector<int64_t>& numbers) {
  Json json = Json::array();
  for (int64_t number : numbers) json.push_back(number == kUnknown ? Json() : Json(number));
  return json;
}

Json Pairs(const std::vector<int64_t>& numbers) {
  Json json = Json::array();
  for (size_t i = 0; i + 1 < numbers.size(); i += 2) json.push_back({numbers[i], numbers[i + 1]});
  return json;
}

// The parameters that a word has; Infer refuses no others, but they would say nothing.
void PutActivation(const char* key, const ActivationRequest& a, Json* json) {
  const bool is_relu = a.word == "relu" || a.word == "leaky_relu";
  if (a.word == "none") return;
  Json to = {{"word", a.word}};
  if (a.word == "leaky_relu" || a.word == "elu") to["alpha"] = a.alpha;
  if (is_relu && std::isfinite(a.max_value)) to["max_value"] = a.max_value;
  if (is_relu && a.threshold != 0) to["threshold"] = a.threshold;
  (*json)[key] = to;
}

Json ToJson(const Step& s) {
  Json json = {{"op", StepWord(s.kind)}, {"name", s.name}};
  if (s.kind == StepKind::kConcatenate) {
    json["xs"] = s.xs;
  } else if (!s.xs.empty()) {
    json["x"] = s.xs[0];
  }
  if (s.y != kNone) json["y"] = s.y;
  if (s.gate != kNone) json["gate"] = s.gate;
  if (s.residual != kNone) json["residual"] = s.residual;
  json["output"] = s.output;
  for (size_t role = 0; role < kRoles; ++role) {
    if (s.weights[role] != kNone) json["weights"][kRoleWords[role]] = s.weights[role];
  }
  if (!s.window.empty()) json["window"] = s.window;
  if (!s.strides.empty()) json["strides"] = s.strides;
  if (!s.dilations.empty()) json["dilations"] = s.dilations;
  if (s.groups != 1) json["groups"] = s.groups;
  if (s.padding == "explicit") {
    json["padding"] = Pairs(s.explicit_padding);
  } else if (!s.padding.empty()) {
    json["padding"] = s.padding;
  }
  PutActivation("expand_activation", s.expand_activation, &json);
  PutActivation("depthwise_activation", s.depthwise_activation, &json);
  PutActivation("activation", s.activation, &json);
  if (s.normalize) json["normalize"] = true;
  if (s.normalize || s.kind == StepKind::kNormalize) json["epsilon"] = s.epsilon;
  if (s.keepdims) json["keepdims"] = true;
  if (s.transpose_x) json["transpose_x"] = true;
  if (s.transpose_y) json["transpose_y"] = true;
  if (s.axis) json["axis"] = *s.axis;
  if (s.exponent) json["exponent"] = *s.exponent;
  if (s.kind == StepKind::kPad) {
    json["paddings"] = Pairs(s.paddings);
    json["value"] = s.value;
  }
  if (!s.scale.empty()) json["scale"] = s.scale;
  if (!s.size.empty()) json["size"] = s.size;
  if (!s.method.empty()) json["method"] = s.method;
  if (s.shape) json["shape"] = *s.shape;
  if (!s.pictures.empty()) json["pictures"] = s.pictures;
  if (!s.axes.empty()) json["axes"] = s.axes;
  if (!s.block.empty()) json["block"] = s.block;
  if (!s.croppings.empty()) json["croppings"] = Pairs(s.croppings);
  return json;
}

std::string Dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

}  // namespace

std::string PrintProgram(const Program& program) {
  Json inputs = Json::array(), outputs = Json::array(), weights = Json::array();
  for (const ProgramInput& input : program.inputs) {
    inputs.push_back({{"name", input.name}, {"tensor", input.tensor}, {"shape", Numbers(input.shape)}});
  }
  for (const ProgramOutput& output : program.outputs) {
    outputs.push_back({{"name", output.name}, {"tensor", output.tensor}});
  }
  for (const ProgramWeight& weight : program.weights) {
    weights.push_back({{"name", weight.name}, {"offset", weight.offset}, {"shape", Numbers(weight.shape)}});
  }
  std::string text = "{\"format\": \"tf_dwsconv.program\", \"version\": 1, \"dtype\": \"" +
                     std::string(DTypeWord(program.dtype)) + "\",\n \"inputs\": " + Dump(inputs) +
                     ",\n \"outputs\": " + Dump(outputs) +
                     ",\n \"weights\": {\"count\": " + std::to_string(program.weight_count) +
                     ", \"tensors\": " + Dump(weights) + "},\n \"steps\": [";
  for (size_t i = 0; i < program.steps.size(); ++i) text += (i > 0 ? ",\n  " : "\n  ") + Dump(ToJson(program.steps[i]));
  return text + "]}\n";
}

}  // namespace dwsconv
