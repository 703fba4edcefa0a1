#include "cc/plan/program_parts.h"

#include <algorithm>

#include "cc/plan/plan.h"

namespace dwsconv {
namespace {

size_t Index(int slot) { return static_cast<size_t>(slot); }

// Parts that are no whole cache lines fetch and write some lines several times. With more of them than this a copy is
// quicker: cells of NASNet, of 4 to 6 tensors of 44 and 88 channels, took 1.02 times as long with 8 images.
constexpr size_t kFewParts = 3;
constexpr int64_t kLine = 64;

class PartFinder {
 public:
  PartFinder(const Program& program, const InferredProgram& inferred)
      : program_(program), inferred_(inferred), readers_(inferred.shapes.size()), parts_(inferred.shapes.size()) {
    for (size_t i = 0; i < inferred.steps.size(); ++i) {
      for (int slot : Reads(inferred.steps[i])) readers_[Index(slot)].push_back(i);
    }
  }

  std::vector<Part> Run() {
    // Readers come first, as a crop of a crop asks whether that takes it where it lies.
    for (size_t i = program_.steps.size(); i-- > 0;) FindView(i);
    for (size_t i = 0; i < program_.steps.size(); ++i) {
      if (JoinsLastAxis(i)) FindParts(i);
    }
    return parts_;
  }

 private:
  void FindView(size_t i) {
    if (program_.steps[i].kind != StepKind::kCrop) return;
    const std::vector<int64_t>& cuts = program_.steps[i].croppings;
    const int slot = inferred_.steps[i].output;
    const bool channels = std::all_of(cuts.begin(), cuts.end() - 2, [](int64_t n) { return n == 0; });
    if (channels && MayLieApart(slot)) parts_[Index(slot)] = {inferred_.steps[i].xs[0], *(cuts.end() - 2), true};
  }

  void FindParts(size_t i) {
    const InferredStep& step = inferred_.steps[i];
    int64_t first = 0;
    for (int slot : step.xs) {
      const int64_t producer = slot - static_cast<int64_t>(program_.inputs.size());
      const bool lines = inferred_.shapes[Index(slot)].back() * SizeOf(program_.dtype) % kLine == 0;
      const bool fits = producer >= 0 && (lines || step.xs.size() <= kFewParts) &&
                        WritesApart(static_cast<size_t>(producer)) && MayLieApart(slot);
      Part& part = parts_[Index(slot)];
      if (fits && part.of < 0 && std::count(step.xs.begin(), step.xs.end(), slot) == 1) part = {step.output, first};
      first += inferred_.shapes[Index(slot)].back();
    }
  }

  // Whether all that read a tensor can read rows that lie apart.
  bool MayLieApart(int slot) const {
    if (std::count(inferred_.outputs.begin(), inferred_.outputs.end(), slot) > 0) return false;
    const std::vector<size_t>& readers = readers_[Index(slot)];
    return std::all_of(readers.begin(), readers.end(), [&](size_t i) { return ReadsApart(i, slot); });
  }

  bool ReadsApart(size_t i, int slot) const {
    const InferredStep& step = inferred_.steps[i];
    const StepKind kind = program_.steps[i].kind;
    if (kind == StepKind::kChain) {
      // Products read X as it is where it is of their type, floats everywhere. A depthwise convolution copies the rows
      // that it is about to read; one of a pixel may take pixels together.
      const Chain& c = step.chain;
      // Windows of dense ones are copied, too.
      const bool plain = !c.has_depthwise && c.has_project && !c.has_gate && !c.normalize;
      const bool copies = c.has_depthwise && c.R * c.S > 1;
      const bool alone = slot == step.xs[0] && slot != step.gate && slot != step.residual;
      return program_.dtype == DType::kFloat32 && alone && (c.E > 0 || plain || copies);
    }
    if (kind == StepKind::kCrop) return parts_[Index(step.output)].of >= 0;
    return IsPool(kind) || IsBinary(kind) || kind == StepKind::kMean || kind == StepKind::kMax ||
           kind == StepKind::kResize || JoinsLastAxis(i);
  }

  // A chain that only scales may take pixels together.
  bool WritesApart(size_t i) const {
    const StepKind kind = program_.steps[i].kind;
    if (kind == StepKind::kChain) {
      const Chain& c = inferred_.steps[i].chain;
      return c.has_project || c.E > 0 || c.R * c.S > 1;
    }
    return IsPool(kind) || IsBinary(kind) || kind == StepKind::kResize || kind == StepKind::kDepthToSpace;
  }

  bool JoinsLastAxis(size_t i) const {
    const size_t rank = inferred_.shapes[Index(inferred_.steps[i].output)].size();
    return program_.steps[i].kind == StepKind::kConcatenate &&
           *program_.steps[i].axis + 1 == static_cast<int64_t>(rank);
  }

  const Program& program_;
  const InferredProgram& inferred_;
  std::vector<std::vector<size_t>> readers_;  // steps, by slot
  std::vector<Part> parts_;
};

}  // namespace

std::vector<int> Reads(const InferredStep& step) {
  std::vector<int> reads = step.xs;
  for (int slot : {step.y, step.gate, step.residual}) {
    if (slot >= 0) reads.push_back(slot);
  }
  return reads;
}

std::vector<Part> FindParts(const Program& program, const InferredProgram& inferred) {
  return PartFinder(program, inferred).Run();
}

}  // namespace dwsconv
