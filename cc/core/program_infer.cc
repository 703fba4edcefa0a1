#include "cc/core/program_infer.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "cc/core/words.h"

namespace dwsconv {
namespace {

bool Agree(int64_t a, int64_t b) { return a == kUnknown || b == kUnknown || a == b; }

// Whether all sizes are unknown or at least 0, and their product, with 0 and unknown counted as 1, is a size of memory.
bool IsShape(const std::vector<int64_t>& shape) {
  int64_t product = 1;
  for (int64_t size : shape) {
    if (size == kUnknown) continue;
    if (size < 0 || __builtin_mul_overflow(product, std::max<int64_t>(size, 1), &product)) return false;
  }
  return product <= kMostElements;
}

std::string NotNumber(const std::string& what, int64_t tensor) {
  return what + " must be the number of a tensor, 0 to " + std::to_string(kMostTensor) + "; given " +
         std::to_string(tensor);
}

std::string CheckWeights(const Program& program) {
  if (program.weight_count < 0 || program.weight_count > kMostWeights) {
    return "weights.count must be 0 to " + std::to_string(kMostWeights) + "; given " +
           std::to_string(program.weight_count);
  }
  std::unordered_set<std::string> names;
  std::vector<const ProgramWeight*> in_order;
  for (const ProgramWeight& weight : program.weights) {
    const std::string what = "weight " + Quote(weight.name);
    if (!names.insert(weight.name).second)
      return "names of weights must differ; " + Quote(weight.name) + " is there twice";
    if (!IsShape(weight.shape) || Elements(weight.shape) == kUnknown) {
      return what + ": shape must be sizes >= 0 whose product fits; given " + ShowShape(weight.shape);
    }
    if (weight.offset < 0 || weight.offset > program.weight_count ||
        Elements(weight.shape) > program.weight_count - weight.offset) {
      return what + " must lie inside the weights, of " + std::to_string(program.weight_count) +
             " elements; given offset " + std::to_string(weight.offset) + " and shape " + ShowShape(weight.shape);
    }
    if (Elements(weight.shape) > 0) in_order.push_back(&weight);
  }
  std::sort(in_order.begin(), in_order.end(), [](auto a, auto b) { return a->offset < b->offset; });
  for (size_t i = 1; i < in_order.size(); ++i) {
    if (in_order[i - 1]->offset + Elements(in_order[i - 1]->shape) > in_order[i]->offset) {
      return "weights must not overlap; " + Quote(in_order[i - 1]->name) + " and " + Quote(in_order[i]->name) + " do";
    }
  }
  return "";
}

template <typename Named>
std::string CheckNames(const char* what, const std::vector<Named>& all) {
  if (all.empty()) return std::string(what) + " must not be empty";
  std::unordered_set<std::string> names;
  for (const Named& one : all) {
    if (!names.insert(one.name).second) {
      return std::string("names of ") + what + " must differ; " + Quote(one.name) + " is there twice";
    }
  }
  return "";
}

class ProgramInference {
 public:
  ProgramInference(const Program& program, InferredProgram* to) : program_(program), to_(*to) {}

  std::string Run(const std::vector<Shape>& inputs) {
    std::string error = CheckWeights(program_);
    if (error.empty()) error = CheckNames("inputs", program_.inputs);
    if (error.empty()) error = CheckNames("outputs", program_.outputs);
    if (error.empty()) error = Inputs(inputs);
    for (size_t i = 0; error.empty() && i < program_.steps.size(); ++i) {
      const Step& step = program_.steps[i];
      error = OneStep(step);
      if (!error.empty()) error = "step " + std::to_string(i) + " '" + step.name + "': " + error;
    }
    return error.empty() ? Outputs() : error;
  }

 private:
  // The slot of a tensor that is there already. `key` words the message.
  std::string Find(const char* key, int64_t tensor, int* slot) const {
    if (tensor < 0 || tensor > kMostTensor) return NotNumber(key, tensor);
    const auto found = slots_.find(tensor);
    if (found == slots_.end()) {
      return std::string(key) + " must be an input or what an earlier step writes; given " + std::to_string(tensor);
    }
    *slot = found->second;
    return "";
  }

  std::string Define(const std::string& key, int64_t tensor, std::vector<int64_t> shape, int* slot) {
    if (tensor < 0 || tensor > kMostTensor) return NotNumber(key, tensor);
    *slot = static_cast<int>(to_.shapes.size());
    if (!slots_.emplace(tensor, *slot).second) {
      return key + " must be a tensor that nothing else writes; given " + std::to_string(tensor);
    }
    to_.shapes.push_back(std::move(shape));
    return "";
  }

  std::string Inputs(const std::vector<Shape>& given) {
    if (!given.empty() && given.size() != program_.inputs.size()) {
      return "the program takes " + std::to_string(program_.inputs.size()) + " inputs; given " +
             std::to_string(given.size());
    }
    for (size_t i = 0; i < program_.inputs.size(); ++i) {
      const ProgramInput& input = program_.inputs[i];
      const std::string what = "input " + Quote(input.name);
      std::vector<int64_t> shape = input.shape;
      if (shape.empty() || !IsShape(shape)) {
        return what + ": shape must be a batch and sizes >= 0 whose product fits; given " + ShowShape(shape);
      }
      if (!given.empty() && given[i].sizes) {
        const std::vector<int64_t>& sizes = *given[i].sizes;
        if (!std::equal(sizes.begin(), sizes.end(), shape.begin(), shape.end(), Agree)) {
          return what + " must have shape " + ShowShape(shape) + ", but its shape is " + ShowShape(sizes);
        }
        for (size_t axis = 0; axis < shape.size(); ++axis) {
          if (shape[axis] == kUnknown) shape[axis] = sizes[axis];
        }
        if (!IsShape(shape)) return what + " is too large: its shape is " + ShowShape(shape);
      }
      int slot;
      const std::string error = Define(what, input.tensor, std::move(shape), &slot);
      if (!error.empty()) return error;
    }
    return "";
  }

  std::string OneStep(const Step& step) {
    InferredStep inferred;
    if (step.xs.empty()) return "x must be given";
    std::string error;
    for (int64_t tensor : step.xs) {
      int slot = -1;
      error = Find(step.kind == StepKind::kConcatenate ? "xs" : "x", tensor, &slot);
      if (!error.empty()) return error;
      inferred.xs.push_back(slot);
    }
    const struct {
      const char* key;
      int64_t tensor;
      int* slot;
    } others[] = {{"y", step.y, &inferred.y},
                  {"gate", step.gate, &inferred.gate},
                  {"residual", step.residual, &inferred.residual}};
    for (const auto& other : others) {
      if (other.tensor == kNone) continue;
      error = Find(other.key, other.tensor, other.slot);
      if (!error.empty()) return error;
    }
    for (size_t role = 0; role < kRoles; ++role) {
      const int64_t index = step.weights[role];
      if (index == kNone || (index >= 0 && index < static_cast<int64_t>(program_.weights.size()))) continue;
      return std::string("weights.") + kRoleWords[role] + " must be an index into weights.tensors, 0 to " +
             std::to_string(static_cast<int64_t>(program_.weights.size()) - 1) + "; given " + std::to_string(index);
    }
    std::vector<int64_t> shape;
    error = InferStep(program_, step, to_.shapes, &inferred, &shape);
    if (error.empty() && !IsShape(shape)) error = "the output is too large: its shape is " + ShowShape(shape);
    if (error.empty()) error = Define("output", step.output, std::move(shape), &inferred.output);
    to_.steps.push_back(std::move(inferred));
    return error;
  }

  std::string Outputs() {
    for (const ProgramOutput& output : program_.outputs) {
      int slot = -1;
      const std::string error = Find("tensor", output.tensor, &slot);
      if (!error.empty()) return "output " + Quote(output.name) + ": " + error;
      to_.outputs.push_back(slot);
    }
    return "";
  }

  const Program& program_;
  InferredProgram& to_;
  std::unordered_map<int64_t, int> slots_;  // by the tensor's number
};

}  // namespace

std::string InferProgram(const Program& program, const std::vector<Shape>& inputs, InferredProgram* inferred) {
  *inferred = InferredProgram();
  return ProgramInference(program, inferred).Run(inputs);
}

int64_t Elements(const std::vector<int64_t>& shape) {
  int64_t product = 1;
  for (int64_t size : shape) {
    if (size == kUnknown) return kUnknown;
    product *= size;
  }
  return product;
}

std::string ShowShape(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i > 0 ? "," : "") + (shape[i] == kUnknown ? std::string("?") : std::to_string(shape[i]));
  }
  return text + "]";
}

std::string WrongSizes(const char* key, const std::string& allowed, const std::vector<int64_t>& given) {
  return std::string(key) + " must " + allowed + "; given " + ShowShape(given);
}

StepCost CostOf(const Program& program, const InferredProgram& inferred, size_t index) {
  const Step& step = program.steps[index];
  const InferredStep& at = inferred.steps[index];
  const auto elements = [&](int slot) { return slot < 0 ? 0.0 : static_cast<double>(Elements(inferred.shapes[slot])); };
  double moved = elements(at.output) + elements(at.y) + elements(at.gate) + elements(at.residual);
  // Of what is cut off nothing is read.
  const bool cuts = step.kind == StepKind::kCrop || step.kind == StepKind::kDepthToSpace;
  for (int x : at.xs) moved += elements(cuts ? at.output : x);
  for (int64_t weight : step.weights) {
    if (weight != kNone) moved += static_cast<double>(Elements(program.weights[weight].shape));
  }
  StepCost cost;
  cost.bytes = moved * static_cast<double>(SizeOf(program.dtype));
  const bool convolves = step.kind == StepKind::kChain || step.kind == StepKind::kDense || IsPool(step.kind);
  if (step.kind == StepKind::kMatmul) {
    const std::vector<int64_t>& x = inferred.shapes[at.xs[0]];
    cost.flops = 2 * elements(at.output) * static_cast<double>(x[x.size() - (step.transpose_x ? 2 : 1)]);
    return cost;
  }
  cost.flops = convolves ? static_cast<double>(Flops(at.chain)) : moved;
  return cost;
}

}  // namespace dwsconv
