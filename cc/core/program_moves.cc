// The shapes of steps that only move the elements of one tensor: a part of InferStep (program_steps.cc).
#include <algorithm>

#include "cc/core/program_infer.h"

namespace dwsconv {
namespace {

using Sizes = std::vector<int64_t>;

bool AllAtLeast(const Sizes& numbers, int64_t low) {
  return std::all_of(numbers.begin(), numbers.end(), [low](int64_t n) { return n >= low; });
}

bool IsPairForEachAxis(const Sizes& pairs, size_t axes) {
  return pairs.size() == 2 * axes && AllAtLeast(pairs, 0) && pairs[0] == 0 && pairs[1] == 0;
}

std::string WrongPairs(const char* key, const Sizes& x, const Sizes& given) {
  return WrongSizes(key, "be a pair >= 0 for each of " + std::to_string(x.size()) + " axes, the batch's [0, 0]", given);
}

// Takes `before` and `after` away from a size; false where it has not as many.
bool CutOff(int64_t before, int64_t after, int64_t* size) {
  if (*size == kUnknown) return true;
  if (before > *size || after > *size - before) return false;
  *size -= before + after;
  return true;
}

std::string Pad(const Step& step, const Sizes& x, Sizes* output) {
  const Sizes& p = step.paddings;
  if (!IsPairForEachAxis(p, x.size())) return WrongPairs("paddings", x, p);
  *output = x;
  for (size_t axis = 1; axis < x.size(); ++axis) {
    int64_t& size = (*output)[axis];
    if (size == kUnknown) continue;
    if (__builtin_add_overflow(size, p[2 * axis], &size) || __builtin_add_overflow(size, p[2 * axis + 1], &size)) {
      return WrongSizes("paddings", "fit 64 bits with x, " + ShowShape(x), p);
    }
  }
  return "";
}

// An axis of which all is cut off has the size 0.
std::string Crop(const Step& step, const Sizes& x, Sizes* output) {
  const Sizes& c = step.croppings;
  if (x.size() < 2) return WrongSizes("x", "have a batch and another axis", x);
  if (!IsPairForEachAxis(c, x.size())) return WrongPairs("croppings", x, c);
  *output = x;
  for (size_t axis = 1; axis < x.size(); ++axis) {
    if (!CutOff(c[2 * axis], c[2 * axis + 1], &(*output)[axis])) {
      return WrongSizes("croppings", "take no more than x has, " + ShowShape(x), c);
    }
  }
  return "";
}

std::string Reshape(const Step& step, const Sizes& x, Sizes* output) {
  if (!step.shape) return "shape must be given";
  const Sizes& shape = *step.shape;
  int64_t known = 1, open = 0;
  for (int64_t size : shape) {
    open += size == -1;
    if (size < -1 || (size != -1 && __builtin_mul_overflow(known, size, &known))) {
      return WrongSizes("shape", "be sizes >= 0 whose product fits, or -1", shape);
    }
  }
  if (open > 1) return WrongSizes("shape", "have -1 once at most", shape);
  int64_t batch = x[0], elements = Elements(Sizes(x.begin() + 1, x.end()));
  if (!step.pictures.empty()) {
    const Sizes& p = step.pictures;
    if (p.size() != 2 || !AllAtLeast(p, 1)) return WrongSizes("pictures", "be two numbers >= 1", p);
    // Of so many pictures' elements, each picture that they become has its share.
    if (elements != kUnknown && __builtin_mul_overflow(elements, p[0], &elements)) {
      return WrongSizes("pictures", "fit 64 bits with x, " + ShowShape(x), p);
    }
    if (elements != kUnknown && elements % p[1] != 0) {
      return WrongSizes("pictures", "share the elements of x, " + ShowShape(x), p);
    }
    if (elements != kUnknown) elements /= p[1];
    if (batch != kUnknown && (batch % p[0] != 0 || __builtin_mul_overflow(batch / p[0], p[1], &batch))) {
      return WrongSizes("pictures", "divide the batch of x, " + ShowShape(x), p);
    }
  }
  output->assign(1, batch);
  output->insert(output->end(), shape.begin(), shape.end());
  const bool fits = elements == kUnknown || (open == 0 ? elements == known : known > 0 && elements % known == 0);
  if (!fits) return WrongSizes("shape", "hold the elements behind x's batch, " + ShowShape(x), shape);
  std::replace(output->begin() + 1, output->end(), int64_t{-1},
               elements == kUnknown ? kUnknown : elements / std::max<int64_t>(known, 1));
  return "";
}

std::string Transpose(const Step& step, const Sizes& x, Sizes* output) {
  const Sizes& axes = step.axes;
  if (x.size() > kMostAxes) return WrongSizes("x", "have at most " + std::to_string(kMostAxes) + " axes", x);
  Sizes sorted = axes;
  std::sort(sorted.begin(), sorted.end());
  bool fits = axes.size() == x.size() && axes[0] == 0;
  for (size_t i = 0; i < sorted.size(); ++i) fits = fits && sorted[i] == static_cast<int64_t>(i);
  if (!fits) {
    return WrongSizes("axes", "be the numbers 0 to " + std::to_string(x.size() - 1) + " in any order, 0 first", axes);
  }
  output->clear();
  for (int64_t axis : axes) output->push_back(x[static_cast<size_t>(axis)]);
  return "";
}

std::string DepthToSpace(const Step& step, const Sizes& x, Sizes* output) {
  const Sizes &block = step.block, &c = step.croppings;
  if (x.size() != 4) return WrongSizes("x", "have rank 4, [N,H,W,C]", x);
  int64_t pixels = 0;
  if (block.size() != 2 || !AllAtLeast(block, 1) || __builtin_mul_overflow(block[0], block[1], &pixels)) {
    return WrongSizes("block", "be two numbers >= 1 whose product fits", block);
  }
  if (!c.empty() && (c.size() != 4 || !AllAtLeast(c, 0))) {
    return WrongSizes("croppings", "be [[top, bottom], [left, right]], each >= 0", c);
  }
  *output = x;
  if (x[3] != kUnknown) {
    if (x[3] % pixels != 0) {
      return WrongSizes("block", "divide the channels of x, " + ShowShape(x) + ", among its pixels", block);
    }
    (*output)[3] = x[3] / pixels;
  }
  for (size_t i = 0; i < 2; ++i) {
    int64_t& size = (*output)[1 + i];
    if (size != kUnknown && __builtin_mul_overflow(size, block[i], &size)) {
      return WrongSizes("block", "fit 64 bits with x, " + ShowShape(x), block);
    }
    if (!c.empty() && !CutOff(c[2 * i], c[2 * i + 1], &size)) {
      return WrongSizes("croppings",
                        "take no more than there is, blocks " + ShowShape(block) + " of x, " + ShowShape(x), c);
    }
  }
  return "";
}

}  // namespace

std::string InferMove(const Step& step, const std::vector<int64_t>& x, std::vector<int64_t>* output) {
  switch (step.kind) {
    case StepKind::kPad:
      return Pad(step, x, output);
    case StepKind::kCrop:
      return Crop(step, x, output);
    case StepKind::kTranspose:
      return Transpose(step, x, output);
    case StepKind::kDepthToSpace:
      return DepthToSpace(step, x, output);
    default:
      return Reshape(step, x, output);
  }
}

}  // namespace dwsconv
