#include "cc/core/program_text.h"

#include <cmath>
#include <exception>
#include <functional>
#include <limits>
#include <map>

#include "cc/core/json.h"
#include "cc/core/words.h"

namespace dwsconv {
namespace {

constexpr const char kFormat[] = "tf_dwsconv.program";
constexpr DType kDTypes[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16};

std::string Excerpt(const Json& json) {
  std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

std::string Wrong(const std::string& key, const std::string& allowed, const Json& given) {
  return key + " must be " + allowed + "; given " + Excerpt(given);
}

// Whole numbers that a double holds exactly: no size is larger, and none looks like kUnknown.
std::string ToNumber(const std::string& key, const Json& json, int64_t* number) {
  constexpr int64_t kMost = int64_t{1} << 53;
  const bool fits = json.is_number_integer() && (json.is_number_unsigned() ? json.get<uint64_t>() <= uint64_t{kMost}
                                                                           : json.get<int64_t>() >= -kMost);
  if (!fits) return Wrong(key, "a whole number of at most 2^53", json);
  *number = json.get<int64_t>();
  return "";
}

// A list of whole numbers; `null_too` takes null for kUnknown.
std::string ToNumbers(const std::string& key, const Json& json, std::vector<int64_t>* numbers, bool null_too = false) {
  if (!json.is_array()) return Wrong(key, "a list of whole numbers", json);
  numbers->clear();
  for (const Json& item : json) {
    int64_t number = kUnknown;
    if (!(null_too && item.is_null())) {
      const std::string error = ToNumber(key, item, &number);
      if (!error.empty()) return error;
    }
    numbers->push_back(number);
  }
  return "";
}

// Pairs to one list.
std::string ToPairs(const std::string& key, const Json& json, std::vector<int64_t>* numbers) {
  if (!json.is_array()) return Wrong(key, "a list of pairs", json);
  numbers->clear();
  for (const Json& item : json) {
    std::vector<int64_t> pair;
    const std::string error = ToNumbers(key, item, &pair);
    if (!error.empty()) return error;
    if (pair.size() != 2) return Wrong(key, "a list of pairs", json);
    numbers->insert(numbers->end(), pair.begin(), pair.end());
  }
  return "";
}

std::string ToFloat32(const std::string& key, const Json& json, float* number) {
  const double given = json.is_number() ? json.get<double>() : std::numeric_limits<double>::infinity();
  if (!(std::fabs(given) <= std::numeric_limits<float>::max())) return Wrong(key, "a number that float32 holds", json);
  *number = static_cast<float>(given);
  return "";
}

std::string ToText(const std::string& key, const Json& json, std::string* text) {
  if (!json.is_string()) return Wrong(key, "a text", json);
  *text = json.get_ref<const std::string&>();
  return "";
}

std::string ToBool(const std::string& key, const Json& json, bool* value) {
  if (!json.is_boolean()) return Wrong(key, "true or false", json);
  *value = json.get<bool>();
  return "";
}

// An object by its keys: what each does with its value. Any other key is wrong, and so is one of `needed` that is not
// there.
using Reader = std::function<std::string(const Json& value)>;
std::string ReadObject(const std::string& what, const Json& json, const std::map<std::string, Reader>& keys,
                       const std::vector<const char*>& needed = {}) {
  if (!json.is_object()) return Wrong(what, "an object", json);
  for (const char* key : needed) {
    if (!json.contains(key)) return what + " must have the key " + Quote(key);
  }
  for (const auto& item : json.items()) {
    const auto reader = keys.find(item.key());
    if (reader == keys.end()) {
      std::string known;
      for (const auto& key : keys) known += (known.empty() ? "" : ", ") + key.first;
      return what + " must have no other keys than " + known + "; given " + Quote(item.key());
    }
    const std::string error = reader->second(item.value());
    if (!error.empty()) return error;
  }
  return "";
}

std::string ToActivationRequest(const std::string& key, const Json& json, ActivationRequest* to) {
  const auto number = [&key](const char* name, float* at) {
    return [=](const Json& v) { return ToFloat32(key + "." + name, v, at); };
  };
  return ReadObject(
      key, json,
      {{"word", [&](const Json& v) { return ToText(key + ".word", v, &to->word); }},
       {"alpha", number("alpha", &to->alpha)},
       {"max_value",
        [&](const Json& v) { return v.is_null() ? "" : ToFloat32(key + ".max_value", v, &to->max_value); }},
       {"threshold", number("threshold", &to->threshold)}},
      {"word"});
}

std::string ToPadding(const Json& json, Step* step) {
  if (json.is_string()) return ToText("padding", json, &step->padding);
  step->padding = "explicit";
  return ToPairs("padding", json, &step->explicit_padding);
}

std::string ToWeights(const Json& json, const std::vector<Role>& roles, Step* step) {
  std::map<std::string, Reader> keys;
  for (Role role : roles) {
    const std::string word = kRoleWords[static_cast<int>(role)];
    keys[word] = [=](const Json& v) {
      int64_t& index = step->weights[static_cast<size_t>(role)];
      std::string error = ToNumber("weights." + word, v, &index);
      // -1 is for a weight that is not there.
      return error.empty() && index < 0 ? Wrong("weights." + word, "at least 0", v) : error;
    };
  }
  return ReadObject("weights", json, keys);
}

std::vector<Role> RolesOf(StepKind kind) {
  switch (kind) {
    case StepKind::kChain:
      return {Role::kExpandFilter,    Role::kExpandBias,    Role::kExpandSlopes,
              Role::kDepthwiseFilter, Role::kDepthwiseBias, Role::kDepthwiseSlopes,
              Role::kPointwiseFilter, Role::kBias,          Role::kSlopes};
    case StepKind::kDense:
      return {Role::kFilter, Role::kBias};
    case StepKind::kActivation:
      return {Role::kSlopes};
    case StepKind::kNormalize:
      return {Role::kGamma, Role::kBeta};
    default:
      return IsBinary(kind) ? std::vector<Role>{Role::kY} : std::vector<Role>{};
  }
}

// The keys that the steps of a kind have besides those of all.
std::map<std::string, Reader> KeysOf(StepKind kind, Step* s) {
  const auto tensor = [](const char* key, int64_t* at) {
    return [=](const Json& v) {
      std::string error = ToNumber(key, v, at);
      return error.empty() && *at < 0 ? Wrong(key, "at least 0", v) : error;
    };
  };
  const auto numbers = [](const char* key, std::vector<int64_t>* at) {
    return [=](const Json& v) { return ToNumbers(key, v, at); };
  };
  const auto pairs = [](const char* key, std::vector<int64_t>* at) {
    return [=](const Json& v) { return ToPairs(key, v, at); };
  };
  const auto activation = [](const char* key, ActivationRequest* at) {
    return [=](const Json& v) { return ToActivationRequest(key, v, at); };
  };
  const auto number = [](const char* key, float* at) { return [=](const Json& v) { return ToFloat32(key, v, at); }; };
  std::map<std::string, Reader> keys;
  if (kind != StepKind::kConcatenate) {
    keys["x"] = [=](const Json& v) {
      s->xs.assign(1, kNone);
      return ToNumber("x", v, &s->xs[0]);
    };
  }
  if (kind == StepKind::kChain || IsPool(kind)) {
    keys["strides"] = numbers("strides", &s->strides);
    keys["padding"] = [=](const Json& v) { return ToPadding(v, s); };
  }
  if (kind == StepKind::kChain || kind == StepKind::kDense || kind == StepKind::kActivation || IsBinary(kind)) {
    keys["activation"] = activation("activation", &s->activation);
  }
  if (kind == StepKind::kChain || kind == StepKind::kNormalize) keys["epsilon"] = number("epsilon", &s->epsilon);
  if (IsBinary(kind) || kind == StepKind::kMatmul) keys["y"] = tensor("y", &s->y);
  if (kind == StepKind::kChain || kind == StepKind::kDense) keys["residual"] = tensor("residual", &s->residual);
  switch (kind) {
    case StepKind::kChain:
      keys["gate"] = tensor("gate", &s->gate);
      keys["dilations"] = numbers("dilations", &s->dilations);
      keys["groups"] = [=](const Json& v) { return ToNumber("groups", v, &s->groups); };
      keys["expand_activation"] = activation("expand_activation", &s->expand_activation);
      keys["depthwise_activation"] = activation("depthwise_activation", &s->depthwise_activation);
      keys["normalize"] = [=](const Json& v) { return ToBool("normalize", v, &s->normalize); };
      break;
    case StepKind::kMaxPool:
    case StepKind::kAveragePool:
      keys["window"] = numbers("window", &s->window);
      break;
    case StepKind::kMean:
    case StepKind::kMax:
      keys["keepdims"] = [=](const Json& v) { return ToBool("keepdims", v, &s->keepdims); };
      break;
    case StepKind::kConcatenate:
      keys["xs"] = numbers("xs", &s->xs);
      keys["axis"] = [=](const Json& v) { return ToNumber("axis", v, &s->axis.emplace()); };
      break;
    case StepKind::kPad:
      keys["paddings"] = pairs("paddings", &s->paddings);
      keys["value"] = number("value", &s->value);
      break;
    case StepKind::kResize:
      keys["scale"] = numbers("scale", &s->scale);
      keys["size"] = numbers("size", &s->size);
      keys["method"] = [=](const Json& v) { return ToText("method", v, &s->method); };
      break;
    case StepKind::kReshape:
      keys["shape"] = [=](const Json& v) { return ToNumbers("shape", v, &s->shape.emplace()); };
      keys["pictures"] = numbers("pictures", &s->pictures);
      break;
    case StepKind::kCrop:
      keys["croppings"] = pairs("croppings", &s->croppings);
      break;
    case StepKind::kTranspose:
      keys["axes"] = numbers("axes", &s->axes);
      break;
    case StepKind::kPower:
      keys["exponent"] = [=](const Json& v) { return ToFloat32("exponent", v, &s->exponent.emplace()); };
      break;
    case StepKind::kMatmul:
      keys["transpose_x"] = [=](const Json& v) { return ToBool("transpose_x", v, &s->transpose_x); };
      keys["transpose_y"] = [=](const Json& v) { return ToBool("transpose_y", v, &s->transpose_y); };
      break;
    case StepKind::kDepthToSpace:
      keys["block"] = numbers("block", &s->block);
      keys["croppings"] = pairs("croppings", &s->croppings);
      break;
    default:
      break;
  }
  return keys;
}

std::string ToStep(const Json& json, Step* step) {
  std::string word;
  if (json.is_object() && json.contains("name") && json["name"].is_string())
    step->name = json["name"].get<std::string>();
  if (!json.is_object()) return Wrong("a step", "an object", json);
  if (!json.contains("op")) return "a step must have the key \"op\"";
  std::string error = ToText("op", json["op"], &word);
  if (!error.empty()) return error;
  bool found = false;
  std::string words;
  for (int kind = 0; kind < kSteps; ++kind) {
    words += (kind > 0 ? ", " : "") + std::string(kStepWords[kind]);
    if (word != kStepWords[kind]) continue;
    step->kind = static_cast<StepKind>(kind);
    found = true;
  }
  if (!found) return Wrong("op", "one of " + words, json["op"]);
  std::map<std::string, Reader> keys = KeysOf(step->kind, step);
  keys["op"] = [](const Json&) { return ""; };
  keys["name"] = [step](const Json& v) { return ToText("name", v, &step->name); };
  keys["output"] = [step](const Json& v) { return ToNumber("output", v, &step->output); };
  const std::vector<Role> roles = RolesOf(step->kind);
  if (!roles.empty()) keys["weights"] = [&](const Json& v) { return ToWeights(v, roles, step); };
  return ReadObject("a " + word, json, keys, {"output"});
}

// Fills *list by `read`, an item at a time.
template <typename Item, typename Read>
std::string ToList(const std::string& key, const Json& json, std::vector<Item>* list, const Read& read) {
  if (!json.is_array()) return Wrong(key, "a list", json);
  list->clear();
  list->reserve(json.size());
  for (const Json& item : json) {
    list->emplace_back();
    const std::string error = read(item, &list->back());
    if (!error.empty()) return error;
  }
  return "";
}

std::string ToProgram(const Json& json, Program* p) {
  const auto input = [](const Json& item, ProgramInput* to) {
    return ReadObject("an input", item,
                      {{"name", [&](const Json& v) { return ToText("name of an input", v, &to->name); }},
                       {"tensor", [&](const Json& v) { return ToNumber("tensor of an input", v, &to->tensor); }},
                       {"shape", [&](const Json& v) { return ToNumbers("shape of an input", v, &to->shape, true); }}},
                      {"name", "tensor", "shape"});
  };
  const auto output = [](const Json& item, ProgramOutput* to) {
    return ReadObject("an output", item,
                      {{"name", [&](const Json& v) { return ToText("name of an output", v, &to->name); }},
                       {"tensor", [&](const Json& v) { return ToNumber("tensor of an output", v, &to->tensor); }}},
                      {"name", "tensor"});
  };
  const auto weight = [](const Json& item, ProgramWeight* to) {
    return ReadObject("a weight", item,
                      {{"name", [&](const Json& v) { return ToText("name of a weight", v, &to->name); }},
                       {"offset", [&](const Json& v) { return ToNumber("offset of a weight", v, &to->offset); }},
                       {"shape", [&](const Json& v) { return ToNumbers("shape of a weight", v, &to->shape); }}},
                      {"name", "offset", "shape"});
  };
  const auto dtype = [p](const Json& v) {
    for (DType known : kDTypes) {
      if (v != DTypeWord(known)) continue;
      p->dtype = known;
      return std::string();
    }
    return Wrong("dtype", "\"float32\", \"bfloat16\" or \"float16\"", v);
  };
  const auto weights = [&](const Json& v) {
    return ReadObject("weights", v,
                      {{"count", [&](const Json& w) { return ToNumber("weights.count", w, &p->weight_count); }},
                       {"tensors", [&](const Json& w) { return ToList("weights.tensors", w, &p->weights, weight); }}},
                      {"count", "tensors"});
  };
  const auto steps = [&](const Json& v) {
    size_t index = 0;
    return ToList("steps", v, &p->steps, [&](const Json& item, Step* to) {
      const std::string error = ToStep(item, to);
      ++index;
      return error.empty() ? "" : "step " + std::to_string(index - 1) + " '" + to->name + "': " + error;
    });
  };
  return ReadObject("a program", json,
                    {{"format", [](const Json& v) { return v == kFormat ? "" : Wrong("format", Quote(kFormat), v); }},
                     {"version", [](const Json& v) { return v == 1 ? "" : Wrong("version", "1", v); }},
                     {"dtype", dtype},
                     {"inputs", [&](const Json& v) { return ToList("inputs", v, &p->inputs, input); }},
                     {"outputs", [&](const Json& v) { return ToList("outputs", v, &p->outputs, output); }},
                     {"weights", weights},
                     {"steps", steps}},
                    {"format", "version", "dtype", "inputs", "outputs", "weights", "steps"});
}

}  // namespace

const char* DTypeWord(DType dtype) {
  return dtype == DType::kFloat32 ? "float32" : dtype == DType::kBFloat16 ? "bfloat16" : "float16";
}

std::string ParseProgram(const std::string& text, Program* program) {
  *program = Program();
  if (text.size() > kMostTextBytes) {
    return "a program must have at most " + std::to_string(kMostTextBytes) + " bytes; given " +
           std::to_string(text.size());
  }
  Json json;
  try {
    const std::string error = ParseJson(text, "a program", &json);
    return error.empty() ? ToProgram(json, program) : error;
  } catch (const std::exception& error) {  // no memory
    return std::string("a program cannot be read: ") + error.what();
  }
}

}  // namespace dwsconv
