#include "cc/plan/program_plan.h"

#include <algorithm>
#include <limits>
#include <map>

#include "cc/core/whole.h"
#include "cc/plan/program_parts.h"

namespace dwsconv {
namespace {

constexpr int64_t kLine = 64;
constexpr int64_t kForEver = std::numeric_limits<int64_t>::max();

// Memory that is given out and taken back, the lowest that fits first: what was used last is still in a cache.
class FreeList {
 public:
  // False where the end is past 62 bits.
  bool Take(int64_t bytes, int64_t* at) {
    for (auto gap = gaps_.begin(); gap != gaps_.end(); ++gap) {
      if (gap->second < bytes) continue;
      *at = gap->first;
      const int64_t left = gap->second - bytes;
      gaps_.erase(gap);
      if (left > 0) gaps_[*at + bytes] = left;
      return true;
    }
    // The last gap may reach the end: then it grows.
    *at = end_;
    if (!gaps_.empty() && std::prev(gaps_.end())->first + std::prev(gaps_.end())->second == end_) {
      *at = std::prev(gaps_.end())->first;
      gaps_.erase(std::prev(gaps_.end()));
    }
    if (*at > (int64_t{1} << 62) - bytes) return false;
    end_ = *at + bytes;
    return true;
  }

  void Give(int64_t at, int64_t bytes) {
    auto next = gaps_.lower_bound(at);
    if (next != gaps_.end() && at + bytes == next->first) {
      bytes += next->second;
      next = gaps_.erase(next);
    }
    if (next != gaps_.begin()) {
      const auto before = std::prev(next);
      if (before->first + before->second == at) {
        before->second += bytes;
        return;
      }
    }
    gaps_[at] = bytes;
  }

  int64_t end() const { return end_; }

 private:
  std::map<int64_t, int64_t> gaps_;  // by where they begin
  int64_t end_ = 0;
};

// Tensors that share memory are one store: a reshaped tensor and what it was, a result that is written in place, a
// larger tensor and its parts.
class Stores {
 public:
  Stores(const Program& program, const InferredProgram& inferred, const std::vector<Part>& parts)
      : program_(program),
        inferred_(inferred),
        parts_(parts),
        store_(inferred.shapes.size()),
        last_(inferred.shapes.size(), -1),
        first_part_(inferred.shapes.size(), -1) {
    for (size_t i = 0; i < inferred.steps.size(); ++i) {
      for (int slot : Reads(inferred.steps[i])) last_[Index(slot)] = static_cast<int64_t>(i);
    }
    for (int slot : inferred.outputs) last_[Index(slot)] = kForEver;
    for (size_t slot = 0; slot < store_.size(); ++slot) store_[slot] = static_cast<int>(slot);
    for (size_t i = 0; i < inferred.steps.size(); ++i) Join(i);
  }

  // The first slot of a store stands for it.
  int of(int slot) const { return store_[Index(slot)]; }
  int64_t last_read(int store) const { return last_[Index(store)]; }

 private:
  static size_t Index(int slot) { return static_cast<size_t>(slot); }

  void Join(size_t i) {
    const InferredStep& step = inferred_.steps[i];
    const int slot = step.output, inputs = static_cast<int>(program_.inputs.size());
    const auto join = [&](int with) {
      store_[Index(slot)] = of(with);
      last_[Index(of(with))] = std::max(last_[Index(of(with))], last_[Index(slot)]);
    };
    if (parts_[Index(slot)].is_view) return join(step.xs[0]);
    if (const int whole = parts_[Index(slot)].of; whole >= 0) {
      // The first part brings memory for all of it.
      int& first = first_part_[Index(whole)];
      if (first < 0) first = slot;
      return join(first);
    }
    if (first_part_[Index(slot)] >= 0) return join(first_part_[Index(slot)]);
    if (program_.steps[i].kind == StepKind::kReshape) return join(step.xs[0]);
    for (int read : Reads(step)) {
      // The only one of the step that lies there, as nobody reads it later.
      const std::vector<int> reads = Reads(step);
      const auto same = [&](int other) { return of(other) == of(read); };
      const bool alone = std::count_if(reads.begin(), reads.end(), same) == 1;
      const bool dies = of(read) >= inputs && last_[Index(of(read))] == static_cast<int64_t>(i);
      const bool dense = parts_[Index(read)].of < 0;  // the result is
      if (alone && dies && dense && MayShare(program_, inferred_, i, read)) return join(read);
    }
  }

  const Program& program_;
  const InferredProgram& inferred_;
  const std::vector<Part>& parts_;
  std::vector<int> store_;       // by slot
  std::vector<int64_t> last_;    // by slot; of a store at its first slot
  std::vector<int> first_part_;  // of a concatenation; else -1
};

// The bytes of a slot's tensor for so many images of its batch.
int64_t Bytes(const Program& program, const InferredProgram& inferred, int slot) {
  return RoundUp(Elements(inferred.shapes[static_cast<size_t>(slot)]) * SizeOf(program.dtype), kLine);
}

// Smaller images of a tensor are still near when the mean wants them, and their short rows take longer one by one than
// the whole image at once: 7x7x1152 2 us longer, 14x14x480 3 us less.
constexpr int64_t kFewestInRow = 14, kFewestBytes = 256 << 10;

// ProgramPlan::sums. Of two means of one tensor the first.
std::vector<int> Sums(const Program& program, const InferredProgram& inferred) {
  std::vector<int> sums(program.steps.size(), -1);
  for (size_t i = 0; i < sums.size(); ++i) {
    if (program.steps[i].kind != StepKind::kMean) continue;
    for (size_t from = 0; from < i; ++from) {
      if (inferred.steps[from].output != inferred.steps[i].xs[0] || sums[from] >= 0) continue;
      const Chain& chain = inferred.steps[from].chain;
      if (program.steps[from].kind != StepKind::kChain || !chain.has_depthwise || chain.Wo < kFewestInRow) continue;
      if (chain.output_pixels() * chain.K * SizeOf(program.dtype) < kFewestBytes) continue;
      sums[i] = static_cast<int>(from);
      sums[from] = static_cast<int>(i);
    }
  }
  return sums;
}

}  // namespace

bool IsInside(const ProgramPlan& plan, int slot, int whole) { return plan.wholes[static_cast<size_t>(slot)] == whole; }

bool MayShare(const Program& program, const InferredProgram& inferred, size_t index, int slot) {
  const Step& step = program.steps[index];
  const InferredStep& at = inferred.steps[index];
  const auto& shapes = inferred.shapes;
  const bool same = shapes[static_cast<size_t>(slot)] == shapes[static_cast<size_t>(at.output)];
  switch (step.kind) {
    case StepKind::kActivation:
    case StepKind::kNormalize:
    case StepKind::kSoftmax:
    case StepKind::kPower:
      return true;
    case StepKind::kChain:
    case StepKind::kDense:
      return slot == at.residual;
    default:
      return IsBinary(step.kind) && same;
  }
}

std::string MakeProgramPlan(const Program& program, const InferredProgram& inferred, ProgramPlan* plan) {
  *plan = ProgramPlan();
  const std::vector<Part> parts = FindParts(program, inferred);
  const Stores stores(program, inferred, parts);
  const int inputs = static_cast<int>(program.inputs.size());
  std::vector<Place> by_store(inferred.shapes.size());
  for (int i = 0; i < inputs; ++i) by_store[static_cast<size_t>(i)] = {Place::In::kInput, i, 0};
  for (size_t o = 0; o < inferred.outputs.size(); ++o) {
    const int store = stores.of(inferred.outputs[o]);
    Place& place = by_store[static_cast<size_t>(store)];
    if (place.in == Place::In::kArena) {
      place = {Place::In::kOutput, static_cast<int>(o), 0};
    } else {
      plan->copies.emplace_back(inferred.outputs[o], static_cast<int>(o));
    }
  }
  // Step after step: memory for what it writes, and back what it was the last to read.
  FreeList memory;
  std::vector<std::vector<int>> ends(program.steps.size());
  std::vector<int64_t> bytes(inferred.shapes.size(), 0);
  for (int slot = inputs; slot < static_cast<int>(inferred.shapes.size()); ++slot) {
    int64_t& most = bytes[static_cast<size_t>(stores.of(slot))];
    most = std::max(most, Bytes(program, inferred, slot));
  }
  for (size_t i = 0; i < program.steps.size(); ++i) {
    const int slot = inferred.steps[i].output, store = stores.of(slot);
    Place& place = by_store[static_cast<size_t>(store)];
    if (store == slot && place.in == Place::In::kArena) {
      if (!memory.Take(bytes[static_cast<size_t>(store)], &place.offset))
        return "the tensors of the program are too large";
      const int64_t last = std::max<int64_t>(stores.last_read(store), static_cast<int64_t>(i));
      ends[static_cast<size_t>(last)].push_back(store);
    }
    for (int store_at_end : ends[i]) {
      memory.Give(by_store[static_cast<size_t>(store_at_end)].offset, bytes[static_cast<size_t>(store_at_end)]);
    }
  }
  plan->arena_bytes = memory.end();
  plan->sums = Sums(program, inferred);
  for (int slot = 0; slot < static_cast<int>(inferred.shapes.size()); ++slot) {
    Place place = by_store[static_cast<size_t>(stores.of(slot))];
    const Part& part = parts[static_cast<size_t>(slot)];
    if (part.of >= 0) {
      if (part.is_view) place = plan->places[static_cast<size_t>(part.of)];
      place.offset += part.first * SizeOf(program.dtype);
      if (place.row_step == 0) place.row_step = inferred.shapes[static_cast<size_t>(part.of)].back();
    }
    plan->places.push_back(place);
    plan->wholes.push_back(part.is_view ? -1 : part.of);
  }
  return "";
}

}  // namespace dwsconv
