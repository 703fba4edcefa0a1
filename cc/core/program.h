// A whole network, or a large part of one: steps over numbered tensors, as docs/program.md has it. Plain data that
// nobody has checked yet; InferProgram (program_infer.h) does. The text of a program is read in program_text.h, its
// file in program_file.h.
#ifndef DWSCONV_CORE_PROGRAM_H_
#define DWSCONV_CORE_PROGRAM_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "cc/core/chain.h"
#include "cc/core/infer.h"

namespace dwsconv {

enum class StepKind : int {
  kChain = 0,
  kDense,
  kMaxPool,
  kAveragePool,
  kMean,
  kMax,
  kAdd,
  kSubtract,
  kMultiply,
  kMaximum,
  kMinimum,
  kActivation,
  kNormalize,
  kSoftmax,
  kConcatenate,
  kPad,
  kResize,
  kReshape,
  kCrop,
  kTranspose,
  kDepthToSpace,
  kPower,
  kMatmul,
};

// The words of the text, in the order of the enum.
constexpr const char* kStepWords[] = {
    "chain",    "dense",   "max_pool", "average_pool", "mean",           "max",     "add",         "subtract",
    "multiply", "maximum", "minimum",  "activation",   "normalize",      "softmax", "concatenate", "pad",
    "resize",   "reshape", "crop",     "transpose",    "depth_to_space", "power",   "matmul"};
constexpr int kSteps = static_cast<int>(std::size(kStepWords));

inline const char* StepWord(StepKind kind) { return kStepWords[static_cast<int>(kind)]; }

constexpr bool IsBinary(StepKind kind) { return kind >= StepKind::kAdd && kind <= StepKind::kMinimum; }
constexpr bool IsPool(StepKind kind) { return kind == StepKind::kMaxPool || kind == StepKind::kAveragePool; }

// What a weight is to its step.
enum class Role : int {
  kExpandFilter = 0,
  kExpandBias,
  kExpandSlopes,
  kDepthwiseFilter,
  kDepthwiseBias,
  kDepthwiseSlopes,
  kPointwiseFilter,
  kBias,
  kSlopes,
  kFilter,
  kY,
  kGamma,
  kBeta,
};
constexpr size_t kRoles = 13;
constexpr const char* kRoleWords[kRoles] = {"expand_filter",
                                            "expand_bias",
                                            "expand_slopes",
                                            "depthwise_filter",
                                            "depthwise_bias",
                                            "depthwise_slopes",
                                            "pointwise_filter",
                                            "bias",
                                            "slopes",
                                            "filter",
                                            "y",
                                            "gamma",
                                            "beta"};

constexpr int64_t kNone = -1;  // no tensor, no weight

struct Step {
  StepKind kind = StepKind::kChain;
  std::string name;
  std::vector<int64_t> xs;  // tensors: x, or the list of `concatenate`
  int64_t y = kNone, gate = kNone, residual = kNone, output = kNone;
  std::array<int64_t, kRoles> weights;  // by Role, into Program::weights

  int64_t groups = 1;
  std::vector<int64_t> strides, dilations, window;  // height, width; empty where the text has none
  std::string padding;                              // "same", "valid", "explicit", or "" for the step's own default
  std::vector<int64_t> explicit_padding;            // top, bottom, left, right
  ActivationRequest expand_activation, depthwise_activation, activation;
  bool normalize = false, keepdims = false, transpose_x = false, transpose_y = false;
  float epsilon = 0.001f, value = 0;
  std::optional<int64_t> axis;
  std::optional<float> exponent;
  std::vector<int64_t> paddings, croppings;  // before and after, of each axis
  std::vector<int64_t> axes, block;
  std::vector<int64_t> scale, size;
  std::string method;
  std::optional<std::vector<int64_t>> shape;
  std::vector<int64_t> pictures;  // of a reshape: so many of x become so many; empty: as many as there were

  Step() { weights.fill(kNone); }
  int64_t weight(Role role) const { return weights[static_cast<size_t>(role)]; }
};

struct ProgramInput {
  std::string name;
  int64_t tensor = kNone;
  std::vector<int64_t> shape;  // kUnknown for what each call brings
};

struct ProgramOutput {
  std::string name;
  int64_t tensor = kNone;
};

struct ProgramWeight {
  std::string name;
  int64_t offset = 0;  // elements
  std::vector<int64_t> shape;
};

struct Program {
  DType dtype = DType::kFloat32;
  std::vector<ProgramInput> inputs;
  std::vector<ProgramOutput> outputs;
  int64_t weight_count = 0;  // elements of the flat weights
  std::vector<ProgramWeight> weights;
  std::vector<Step> steps;
};

}  // namespace dwsconv

#endif  // DWSCONV_CORE_PROGRAM_H_
