// The shapes of a step's output: a part of InferProgram (program_infer.h), a function for each op.
#include <algorithm>
#include <utility>

#include "cc/core/program_infer.h"
#include "cc/core/words.h"

namespace dwsconv {
namespace {

using Sizes = std::vector<int64_t>;

int64_t Merge(int64_t a, int64_t b) { return a == kUnknown ? b : a; }
bool Agree(int64_t a, int64_t b) { return a == kUnknown || b == kUnknown || a == b; }

class StepInference {
 public:
  StepInference(const Program& program, const Step& step, const std::vector<Sizes>& shapes, InferredStep* inferred)
      : program_(program), step_(step), shapes_(shapes), inferred_(*inferred), x_(shapes[inferred->xs[0]]) {}

  std::string Run(Sizes* output) {
    std::string error = Keys();
    if (error.empty()) error = Shape(output);
    return error;
  }

 private:
  // What the text's reader does not tell apart by the op.
  std::string Keys() {
    const bool has_y = step_.y != kNone || step_.weight(Role::kY) != kNone;
    if (IsBinary(step_.kind) && (step_.y != kNone) == (step_.weight(Role::kY) != kNone)) {
      return has_y ? "y must be a tensor or a weight, not both" : "y must be given";
    }
    const std::string& word = step_.activation.word;
    const bool prelu_fits = step_.kind == StepKind::kChain || step_.kind == StepKind::kActivation;
    if (!prelu_fits && word == "prelu") return "activation must not be prelu in a " + Word();
    if (step_.kind == StepKind::kActivation && (word == "prelu") != (step_.weight(Role::kSlopes) != kNone)) {
      return word == "prelu" ? "weights.slopes must be given with prelu" : "weights.slopes goes with prelu alone";
    }
    return "";
  }

  std::string Word() const { return StepWord(step_.kind); }

  std::string Shape(Sizes* output) {
    switch (step_.kind) {
      case StepKind::kChain:
        return AsChain(output);
      case StepKind::kDense:
        return Dense(output);
      case StepKind::kMaxPool:
      case StepKind::kAveragePool:
        return Pool(output);
      case StepKind::kMean:
      case StepKind::kMax:
        return Reduce(output);
      case StepKind::kActivation:
        *output = x_;
        return Activation();
      case StepKind::kNormalize:
        *output = x_;
        return Normalize();
      case StepKind::kPower:
        *output = x_;
        return step_.exponent ? "" : "exponent must be given";
      case StepKind::kSoftmax:
        *output = x_;
        return x_.size() >= 2 ? "" : WrongSizes("x", "have a batch and a last axis", x_);
      case StepKind::kMatmul:
        return Multiply(output);
      case StepKind::kConcatenate:
        return Concatenate(output);
      case StepKind::kResize:
        return Resize(output);
      case StepKind::kPad:
      case StepKind::kReshape:
      case StepKind::kCrop:
      case StepKind::kTranspose:
      case StepKind::kDepthToSpace:
        return InferMove(step_, x_, output);
      default:
        return Binary(output);
    }
  }

  std::optional<dwsconv::Shape> WeightShape(Role role) const {
    const int64_t index = step_.weight(role);
    if (index == kNone) return std::nullopt;
    return dwsconv::Shape(program_.weights[static_cast<size_t>(index)].shape);
  }

  // Strides, dilations, padding and dtype into a request; `own` is the padding where the text has none.
  std::string Geometry(const Sizes& strides, const char* own, Request* request) const {
    if (!strides.empty()) request->strides = strides;
    if (!step_.dilations.empty()) request->dilations = step_.dilations;
    const std::string padding = step_.padding.empty() ? own : step_.padding;
    if (padding == "explicit") {
      const Sizes& p = step_.explicit_padding;
      if (p.size() != 4 || std::any_of(p.begin(), p.end(), [](int64_t n) { return n < 0; })) {
        return WrongSizes("padding", "be [[top, bottom], [left, right]], each >= 0", p);
      }
      request->padding = "EXPLICIT";
      request->explicit_paddings = {0, 0, p[0], p[1], p[2], p[3], 0, 0};
    } else if (padding == "same" || padding == "valid") {
      request->padding = padding == "same" ? "SAME" : "VALID";
    } else {
      return "padding must be \"same\", \"valid\" or [[top, bottom], [left, right]]; given " + Quote(padding);
    }
    request->dtype = program_.dtype;
    request->input_name = "x";
    request->gate_name = "gate";
    return "";
  }

  std::string AsChain(Sizes* output) {
    Request request;
    const std::string error = Geometry(step_.strides, "same", &request);
    if (!error.empty()) return error;
    request.input = x_;
    request.expand_filter = WeightShape(Role::kExpandFilter);
    request.expand_bias = WeightShape(Role::kExpandBias);
    request.depthwise_filter = WeightShape(Role::kDepthwiseFilter);
    request.depthwise_bias = WeightShape(Role::kDepthwiseBias);
    request.pointwise_filter = WeightShape(Role::kPointwiseFilter);
    request.groups = step_.groups;
    request.bias = WeightShape(Role::kBias);
    request.expand_activation = step_.expand_activation;
    request.expand_activation.slopes = WeightShape(Role::kExpandSlopes);
    request.depthwise_activation = step_.depthwise_activation;
    request.depthwise_activation.slopes = WeightShape(Role::kDepthwiseSlopes);
    request.activation = step_.activation;
    request.activation.slopes = WeightShape(Role::kSlopes);
    request.normalize = step_.normalize;
    request.epsilon = step_.epsilon;
    if (inferred_.gate >= 0) request.gate = shapes_[inferred_.gate];
    if (inferred_.residual >= 0) request.residual = shapes_[inferred_.residual];
    return ByInfer(request, output);
  }

  std::string ByInfer(const Request& request, Sizes* output) {
    const std::string error = Infer(request, &inferred_.chain);
    if (error.empty()) *output = OutputShape(inferred_.chain);
    return error;
  }

  std::string Dense(Sizes* output) {
    const std::optional<dwsconv::Shape> filter = WeightShape(Role::kFilter);
    if (!filter) return "weights.filter must be given";
    const Sizes& f = *filter->sizes;
    if (f.size() != 2 || x_.size() < 2 || !Agree(x_.back(), f[0])) {
      return "weights.filter must be [C,K] with C the last axis of x, " + ShowShape(x_) + "; given " + ShowShape(f);
    }
    const int64_t rows = Elements(Sizes(x_.begin(), x_.end() - 1));
    Request request;
    const std::string error = Geometry({}, "valid", &request);
    if (!error.empty()) return error;
    request.input = {rows, 1, 1, x_.back()};
    request.pointwise_filter = {1, 1, f[0], f[1]};
    request.bias = WeightShape(Role::kBias);
    request.activation = step_.activation;
    *output = x_;
    output->back() = f[1];
    if (inferred_.residual >= 0) {
      const Sizes& residual = shapes_[inferred_.residual];
      if (!std::equal(residual.begin(), residual.end(), output->begin(), output->end(), Agree)) {
        return WrongSizes("residual", "have the output's shape, " + ShowShape(*output), residual);
      }
      request.residual = {rows, 1, 1, f[1]};
    }
    Sizes flat;
    return ByInfer(request, &flat);
  }

  std::string Rank4() const { return x_.size() == 4 ? "" : WrongSizes("x", "have rank 4, [N,H,W,C]", x_); }

  std::string Pool(Sizes* output) {
    std::string error = Rank4();
    if (!error.empty()) return error;
    const Sizes& w = step_.window;
    if (w.size() != 2 || w[0] < 1 || w[1] < 1) return WrongSizes("window", "be two numbers >= 1", w);
    Request request;
    error = Geometry(step_.strides.empty() ? w : step_.strides, "valid", &request);
    if (!error.empty()) return error;
    if (request.padding == "EXPLICIT") {
      const Sizes& p = step_.explicit_padding;
      if (std::max(p[0], p[1]) >= w[0] || std::max(p[2], p[3]) >= w[1]) {
        return WrongSizes("padding", "be less than the window, " + ShowShape(w), p);
      }
    }
    request.input = x_;
    request.depthwise_filter = {w[0], w[1], x_[3], 1};
    request.window_name = "window";
    if (x_[3] == 0) return WrongSizes("x", "have channels", x_);
    return ByInfer(request, output);
  }

  std::string Reduce(Sizes* output) {
    std::string error = Rank4();
    if (!error.empty()) return error;
    *output = step_.keepdims ? Sizes{x_[0], 1, 1, x_[3]} : Sizes{x_[0], x_[3]};
    // One window, all of it.
    Chain& c = inferred_.chain;
    c.N = x_[0];
    c.H = c.R = x_[1];
    c.W = c.S = x_[2];
    c.C = c.K = x_[3];
    c.Ho = c.Wo = 1;
    c.dtype = program_.dtype;
    c.has_project = false;
    return "";
  }

  std::string Activation() {
    const std::optional<dwsconv::Shape> slopes = WeightShape(Role::kSlopes);
    return slopes ? LastAxis("weights.slopes", *slopes->sizes) : CheckWord();
  }

  // The words of an activation are checked where chains are.
  std::string CheckWord() {
    Request request;
    request.input = {1, 1, 1, 1};
    request.pointwise_filter = {1, 1, 1, 1};
    request.activation = step_.activation;
    request.dtype = program_.dtype;
    return Infer(request, &inferred_.chain);
  }

  std::string LastAxis(const char* key, const Sizes& shape) const {
    const bool fits = !x_.empty() && shape.size() == 1 && Agree(shape[0], x_.back());
    return fits ? "" : WrongSizes(key, "have the size of x's last axis (x is " + ShowShape(x_) + ")", shape);
  }

  std::string Normalize() {
    if (x_.size() < 2) return WrongSizes("x", "have a batch and a last axis", x_);
    if (!(step_.epsilon >= 0) || step_.epsilon > std::numeric_limits<float>::max()) {
      return "epsilon must be a finite number >= 0; given " + std::to_string(step_.epsilon);
    }
    std::string error;
    if (const auto gamma = WeightShape(Role::kGamma)) error = LastAxis("weights.gamma", *gamma->sizes);
    if (!error.empty()) return error;
    if (const auto beta = WeightShape(Role::kBeta)) error = LastAxis("weights.beta", *beta->sizes);
    return error;
  }

  std::string Binary(Sizes* output) {
    const Sizes y = inferred_.y >= 0 ? shapes_[inferred_.y] : *WeightShape(Role::kY)->sizes;
    const size_t rank = std::max(x_.size(), y.size());
    if (rank > kMostAxes) return WrongSizes("x and y", "have at most 8 axes", x_.size() > y.size() ? x_ : y);
    output->assign(rank, 1);
    const auto put = [&](const Sizes& of) {
      for (size_t i = 0; i < of.size(); ++i) {
        int64_t& size = (*output)[rank - of.size() + i];
        if (size == 1) {
          size = of[i];
        } else if (of[i] != 1 && !Agree(size, of[i])) {
          return false;
        } else if (of[i] != 1) {
          size = Merge(size, of[i]);
        }
      }
      return true;
    };
    if (!put(x_) || !put(y)) {
      return "y must have sizes that broadcast with those of x, " + ShowShape(x_) + "; given " + ShowShape(y);
    }
    return CheckWord();
  }

  std::string Multiply(Sizes* output) {
    if (inferred_.y < 0) return "y must be given";
    const Sizes& y = shapes_[inferred_.y];
    const size_t rank = x_.size();
    if (rank < 3) return WrongSizes("x", "have rank 3 or more, [N,...,M,C]", x_);
    *output = x_;
    bool fits = y.size() == rank;
    for (size_t i = 0; fits && i + 2 < rank; ++i) {
      fits = Agree(x_[i], y[i]);
      (*output)[i] = Merge(x_[i], y[i]);
    }
    if (!fits) return WrongSizes("y", "agree with x, " + ShowShape(x_) + ", in all axes but the last two", y);
    const size_t rows = step_.transpose_x ? rank - 1 : rank - 2, columns = step_.transpose_y ? rank - 2 : rank - 1;
    const size_t x_sum = 2 * rank - 3 - rows, y_sum = 2 * rank - 3 - columns;
    if (!Agree(x_[x_sum], y[y_sum])) {
      return WrongSizes("y", "have as many rows as x, " + ShowShape(x_) + ", has columns, transposed as they are", y);
    }
    (*output)[rank - 2] = x_[rows];
    (*output)[rank - 1] = y[columns];
    return "";
  }

  std::string Concatenate(Sizes* output) {
    const int64_t rank = static_cast<int64_t>(x_.size());
    if (!step_.axis || *step_.axis < 1 || *step_.axis >= rank) {
      return "axis must be 1 to " + std::to_string(rank - 1) + "; given " +
             (step_.axis ? std::to_string(*step_.axis) : "none");
    }
    const size_t axis = static_cast<size_t>(*step_.axis);
    *output = x_;
    for (size_t i = 1; i < inferred_.xs.size(); ++i) {
      const Sizes& x = shapes_[inferred_.xs[i]];
      bool fits = x.size() == x_.size();
      for (size_t a = 0; fits && a < x.size(); ++a) {
        if (a == axis) continue;
        fits = Agree(x[a], (*output)[a]);
        (*output)[a] = Merge((*output)[a], x[a]);
      }
      if (!fits)
        return WrongSizes("xs", "have equal sizes but along axis " + std::to_string(axis) + ", " + ShowShape(x_), x);
      int64_t& size = (*output)[axis];
      if (size == kUnknown || x[axis] == kUnknown) {
        size = kUnknown;
      } else if (__builtin_add_overflow(size, x[axis], &size)) {
        return "xs are too large along axis " + std::to_string(axis);
      }
    }
    return "";
  }

  std::string Resize(Sizes* output) {
    const std::string error = Rank4();
    if (!error.empty()) return error;
    const Sizes& given = step_.size.empty() ? step_.scale : step_.size;
    const char* const key = step_.size.empty() ? "scale" : "size";
    if (step_.size.empty() == step_.scale.empty()) return "one of scale and size must be given";
    if (given.size() != 2 || given[0] < 1 || given[1] < 1) return WrongSizes(key, "be two numbers >= 1", given);
    if (step_.method != "nearest" && step_.method != "bilinear") {
      return "method must be \"nearest\" or \"bilinear\"; given " + Quote(step_.method);
    }
    *output = x_;
    for (size_t i = 0; i < 2; ++i) {
      int64_t& size = (*output)[1 + i];
      if (size == 0) return WrongSizes("x", "have rows and columns", x_);
      if (!step_.size.empty()) {
        size = given[i];
      } else if (size != kUnknown && __builtin_mul_overflow(size, given[i], &size)) {
        return WrongSizes(key, "fit 64 bits with x, " + ShowShape(x_), given);
      }
    }
    return "";
  }

  const Program& program_;
  const Step& step_;
  const std::vector<Sizes>& shapes_;
  InferredStep& inferred_;
  const Sizes& x_;
};

}  // namespace

std::string InferStep(const Program& program, const Step& step, const std::vector<std::vector<int64_t>>& shapes,
                      InferredStep* inferred, std::vector<int64_t>* output) {
  return StepInference(program, step, shapes, inferred).Run(output);
}

}  // namespace dwsconv
