// Checks a program and computes the shapes of its tensors: the only place that does. Chains go through Infer.
#ifndef DWSCONV_CORE_PROGRAM_INFER_H_
#define DWSCONV_CORE_PROGRAM_INFER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "cc/core/chain.h"
#include "cc/core/infer.h"
#include "cc/core/program.h"

namespace dwsconv {

constexpr int64_t kMostTensor = int64_t{1} << 20;    // the largest number of a tensor
constexpr int64_t kMostWeights = int64_t{1} << 40;   // elements
constexpr int64_t kMostElements = int64_t{1} << 58;  // of a tensor: its bytes fit, and so does a sum of some

constexpr size_t kMostAxes = 8;  // of what a step walks along

// Tensors of a program are slots here, numbered from 0: the inputs first, then a slot for each step.
struct InferredStep {
  std::vector<int> xs;
  int y = -1, gate = -1, residual = -1, output = -1;
  // Of `chain`, and of what is one in disguise: a `dense` is the chain of its rows, a pool or `mean` or `max` that of a
  // depthwise convolution with its window.
  Chain chain;
};

struct InferredProgram {
  std::vector<std::vector<int64_t>> shapes;  // by slot; kUnknown where nobody knows a size
  std::vector<int> outputs;                  // slots
  std::vector<InferredStep> steps;
};

// Fills *inferred and returns "", or returns what is wrong: the step, the key, what was given, what is allowed.
// `inputs` are the shapes of a call, in the program's order, or none at all: then the declared ones count alone.
std::string InferProgram(const Program& program, const std::vector<Shape>& inputs, InferredProgram* inferred);

// The elements of a shape; kUnknown where a size is.
int64_t Elements(const std::vector<int64_t>& shape);

// What one step computes and moves, at least: of a profile. All sizes are known.
struct StepCost {
  double flops = 0, bytes = 0;
};
StepCost CostOf(const Program& program, const InferredProgram& inferred, size_t step);

// The shape of a step's output by its inputs. Part of InferProgram (program_infer.cc), in a file of its own.
// `shapes` are those of InferredStep's slots, which are filled but for the output; fills `step->chain`, too.
std::string InferStep(const Program& program, const Step& step, const std::vector<std::vector<int64_t>>& shapes,
                      InferredStep* inferred, std::vector<int64_t>* output);

// The same of what only moves the elements of one tensor: pad, crop, reshape, transpose, depth_to_space.
std::string InferMove(const Step& step, const std::vector<int64_t>& x, std::vector<int64_t>* output);

// "[?,224,224,3]": for messages.
std::string ShowShape(const std::vector<int64_t>& shape);

// "window must be two numbers >= 1; given [2]".
std::string WrongSizes(const char* key, const std::string& allowed, const std::vector<int64_t>& given);

}  // namespace dwsconv

#endif  // DWSCONV_CORE_PROGRAM_INFER_H_
