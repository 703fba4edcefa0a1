// Runs programs (cc/core/program.h): what the op TfDwsconv>Network, the module `native` and the C interface call.
#ifndef DWSCONV_CPU_RUN_PROGRAM_H_
#define DWSCONV_CPU_RUN_PROGRAM_H_

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cc/core/cpu_features.h"
#include "cc/core/parallel.h"
#include "cc/core/program.h"
#include "cc/core/program_infer.h"
#include "cc/cpu/pack.h"
#include "cc/plan/program_plan.h"
#include "cc/plan/program_split.h"

namespace dwsconv {

// The filters of all chains of a program, packed. Immutable once made, so threads may share it.
class PackedProgram {
 public:
  // `inferred` of the program, with whatever sizes; `weights` the flat weights. Null when memory is out.
  static std::shared_ptr<const PackedProgram> Make(const Program& program, const InferredProgram& inferred,
                                                   const void* weights, Isa isa);

  const PackedFilters* filters(size_t step) const { return filters_[step].get(); }  // null where there are none
  // Of a step whose filters took the scale and the shift of its input (ScalesTaken), Buffers::outside; else null.
  const float* outside(size_t step) const { return outside_[step].empty() ? nullptr : outside_[step].data(); }
  int64_t bytes() const { return bytes_; }

 private:
  AlignedBuffer<float> memory_;  // of all filters, on large pages
  std::vector<std::unique_ptr<PackedFilters>> filters_;
  std::vector<std::vector<float>> outside_;
  int64_t bytes_ = 0;
};

// A program with the shapes of a call, and its plan.
struct PreparedProgram {
  std::shared_ptr<const Program> program;
  InferredProgram inferred;
  ProgramPlan plan;
  std::vector<int> scales;  // ScalesTaken

  // Where images go one at a time through the first steps (program_split.h); else null.
  struct ByImage {
    ProgramSplit split;
    std::shared_ptr<const PreparedProgram> first, rest;  // of the split's programs
  };
  std::unique_ptr<const ByImage> by_image;
};

// What was prepared lately, by the inputs' shapes. Any thread may call.
class PreparedPrograms {
 public:
  explicit PreparedPrograms(std::shared_ptr<const Program> program) : program_(std::move(program)) {}

  // Fills *prepared and returns "", or says what is wrong with the shapes.
  std::string Get(const std::vector<std::vector<int64_t>>& shapes, int threads,
                  std::shared_ptr<const PreparedProgram>* prepared);

 private:
  struct Entry {
    std::vector<std::vector<int64_t>> shapes;
    int threads;
    std::shared_ptr<const PreparedProgram> prepared;
  };

  const std::shared_ptr<const Program> program_;
  std::mutex mutex_;
  std::list<Entry> entries_;  // the last used first
};

struct ProgramOptions {
  Isa isa = Isa::kGeneric;                      // from ChooseIsa
  int num_threads = 1;                          // at most this many; from ResolveThreads
  ThreadPool* pool = nullptr;                   // whose threads; null: this library's own
  std::function<bool()> cancelled;              // asked between steps, by any thread; may be empty
  std::vector<double>* step_seconds = nullptr;  // for a profile: the time of each step, all images together
};

constexpr char kCancelled[] = "the call was cancelled";

// Computes `outputs` from `inputs`, dense and in the program's order, which share no memory. `packed` may be null, or
// made for other shapes: what does not fit is packed for this call. Returns "" or what went wrong (memory; kCancelled).
std::string RunProgram(const PreparedProgram& prepared, const PackedProgram* packed, const void* weights,
                       const std::vector<const void*>& inputs, const std::vector<void*>& outputs,
                       const ProgramOptions& options);

// How often this process ran a program: for tests that assert which path ran.
int64_t ProgramCalls();
// Those of them in which images went one at a time through the first steps.
int64_t ByImageCalls();
// How many means were of sums that a chain had made of its rows.
int64_t MeansOfRows();
// How many tensors lay where they were to be concatenated, or were cropped.
int64_t PartsInPlace();

}  // namespace dwsconv

#endif  // DWSCONV_CPU_RUN_PROGRAM_H_
