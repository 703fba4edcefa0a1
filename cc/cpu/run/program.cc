#include "cc/cpu/run/program.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <new>
#include <utility>

#include "cc/core/huge_pages.h"
#include "cc/core/team.h"
#include "cc/core/whole.h"
#include "cc/cpu/run/executor.h"
#include "cc/cpu/run/forward.h"
#include "cc/cpu/run/program_ops.h"
#include "cc/cpu/run/program_products.h"
#include "cc/cpu/run/scaled_filter.h"
#include "cc/cpu/run/scratch_pool.h"
#include "cc/plan/program_scales.h"

namespace dwsconv {
namespace {

std::atomic<int64_t> program_calls{0}, by_image_calls{0}, means_of_rows{0}, parts_in_place{0};

bool IsChain(const Step& step) { return step.kind == StepKind::kChain || step.kind == StepKind::kDense; }

// The weights of a chain or of a dense step, which is a chain of pixels.
Buffers FiltersOf(const Program& program, const Step& step, const void* weights) {
  const auto at = [&](Role role) -> const void* {
    const int64_t index = step.weight(role);
    if (index == kNone) return nullptr;
    return static_cast<const char*>(weights) +
           program.weights[static_cast<size_t>(index)].offset * SizeOf(program.dtype);
  };
  Buffers buffers;
  buffers.expand_filter = at(Role::kExpandFilter);
  buffers.expand_bias = at(Role::kExpandBias);
  buffers.expand_slopes = at(Role::kExpandSlopes);
  buffers.depthwise_filter = at(Role::kDepthwiseFilter);
  buffers.depthwise_bias = at(Role::kDepthwiseBias);
  buffers.depthwise_slopes = at(Role::kDepthwiseSlopes);
  buffers.pointwise_filter = at(step.kind == StepKind::kDense ? Role::kFilter : Role::kPointwiseFilter);
  buffers.bias = at(Role::kBias);
  buffers.slopes = at(Role::kSlopes);
  return buffers;
}

// The filter of step `index` with the scale and the shift of another step; false where it stays as it is.
bool ScaledBy(const Program& program, const InferredProgram& inferred, size_t index, int scale, const void* weights,
              ScaledFilter* scaled) {
  if (scale < 0) return false;
  const Buffers before = FiltersOf(program, program.steps[static_cast<size_t>(scale)], weights);
  return ScaleFilter(inferred.steps[index].chain, FiltersOf(program, program.steps[index], weights),
                     before.depthwise_filter, before.depthwise_bias, scaled);
}

void SetFilter(const ScaledFilter& scaled, Buffers* buffers) {
  buffers->pointwise_filter = scaled.filter.data();
  buffers->float_bias = scaled.bias.data();
}

// A program, or a part of one whose steps begin with `first_step` of what is packed.
class Run {
 public:
  Run(const PreparedProgram& prepared, const PackedProgram* packed, size_t first_step, const void* weights,
      const ProgramOptions& options)
      : program_(*prepared.program),
        inferred_(prepared.inferred),
        plan_(prepared.plan),
        scales_(prepared.scales),
        packed_(packed),
        first_step_(first_step),
        weights_(weights),
        options_(options),
        arena_(plan_.arena_bytes),
        at_(plan_.places.size()),
        outside_(program_.steps.size(), nullptr),
        taken_(program_.steps.size(), false) {
    for (size_t i = 0; i < program_.steps.size(); ++i) {
      if (scales_[i] < 0) continue;
      if (Fits(i)) {
        outside_[i] = packed->outside(first_step + i);
      } else if (ScaledFilter& own = own_[i]; ScaledBy(program_, inferred_, i, scales_[i], weights, &own)) {
        outside_[i] = own.outside.data();
      }
      taken_[static_cast<size_t>(scales_[i])] = outside_[i] != nullptr;
    }
  }

  std::string Steps(const std::vector<const void*>& inputs, const std::vector<void*>& outputs, const Workers& workers) {
    if (arena_.data() == nullptr) return kOutOfMemory;
    for (size_t slot = 0; slot < at_.size(); ++slot) {
      const Place& place = plan_.places[slot];
      const size_t index = static_cast<size_t>(place.index);
      at_[slot] = place.in == Place::In::kInput    ? static_cast<char*>(const_cast<void*>(inputs[index])) + place.offset
                  : place.in == Place::In::kOutput ? static_cast<char*>(outputs[index]) + place.offset
                                                   : arena_.data() + place.offset;
    }
    for (size_t i = 0; i < program_.steps.size(); ++i) {
      if (taken_[i]) continue;
      if (options_.cancelled && options_.cancelled()) return kCancelled;
      const auto start = std::chrono::steady_clock::now();
      const std::string error = OneStep(i, workers);
      if (!error.empty()) return error;
      if (options_.step_seconds == nullptr) continue;
      (*options_.step_seconds)[i] += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    for (const auto& [slot, output] : plan_.copies) {
      const int64_t bytes = Elements(inferred_.shapes[static_cast<size_t>(slot)]) * SizeOf(program_.dtype);
      if (bytes > 0) {
        std::memcpy(outputs[static_cast<size_t>(output)], at_[static_cast<size_t>(slot)], static_cast<size_t>(bytes));
      }
    }
    return "";
  }

 private:
  // Sums of the rows of a chain's output that a later step takes the mean of.
  struct RowSums {
    Scratch sums;               // [N][Ho][K] floats
    std::atomic<int64_t> left;  // how many are not there yet
    RowsDone add;

    RowSums(const StepCall& call, int64_t count) : sums(count * int64_t{sizeof(float)}), left(count) {
      add = [this, call](int64_t n, int64_t row, int64_t rows, int64_t c, int64_t channels) {
        SumRows(call, n, row, rows, c, channels, data());
        left.fetch_sub(rows * channels, std::memory_order_relaxed);
      };
    }
    float* data() { return reinterpret_cast<float*>(sums.data()); }
    bool whole() const { return left.load(std::memory_order_relaxed) == 0; }
  };

  std::string OneStep(size_t i, const Workers& workers) {
    const InferredStep& step = inferred_.steps[i];
    if (Elements(inferred_.shapes[static_cast<size_t>(step.output)]) == 0) return "";
    StepCall call = {program_, inferred_, plan_, i, at_, static_cast<const char*>(weights_), StepKernels(options_.isa),
                     workers};
    const int sums = plan_.sums[i];
    if (program_.steps[i].kind == StepKind::kMatmul) return MultiplyStep(call, options_.isa);
    if (!IsChain(program_.steps[i])) {
      const auto rows = sums < 0 ? row_sums_.end() : row_sums_.find(static_cast<size_t>(sums));
      if (rows != row_sums_.end() && rows->second->whole()) {
        call.row_sums = rows->second->data();
        means_of_rows.fetch_add(1, std::memory_order_relaxed);
      }
      RunStep(call);
      if (program_.steps[i].kind == StepKind::kConcatenate) {
        const auto inside = [&](int slot) { return IsInside(plan_, slot, step.output); };
        parts_in_place.fetch_add(std::count_if(step.xs.begin(), step.xs.end(), inside), std::memory_order_relaxed);
      }
      if (program_.steps[i].kind == StepKind::kCrop && plan_.places[static_cast<size_t>(step.output)].row_step > 0) {
        parts_in_place.fetch_add(1, std::memory_order_relaxed);
      }
      if (rows != row_sums_.end()) row_sums_.erase(rows);
      return "";
    }
    Buffers buffers = FiltersOf(program_, program_.steps[i], weights_);
    const bool scales = outside_[i] != nullptr;
    buffers.outside = outside_[i];
    const int x = scales ? inferred_.steps[static_cast<size_t>(scales_[i])].xs[0] : step.xs[0];
    buffers.input = At(x);
    buffers.input_step = plan_.places[static_cast<size_t>(x)].row_step;
    buffers.gate = At(step.gate);
    buffers.residual = At(step.residual);
    buffers.output = At(step.output);
    buffers.output_step = plan_.places[static_cast<size_t>(step.output)].row_step;
    ForwardOptions forward;
    forward.isa = options_.isa;
    forward.num_threads = workers.threads;
    forward.pool = workers.pool;
    if (sums >= 0) {
      const Chain& c = step.chain;
      auto rows = std::make_unique<RowSums>(call, c.N * c.Ho * c.K);
      if (rows->data() != nullptr) {
        forward.rows_done = &rows->add;
        row_sums_[i] = std::move(rows);
      }
    }
    const auto own = own_.find(i);
    if (scales && own != own_.end()) SetFilter(own->second, &buffers);
    const bool is_packed = packed_ != nullptr && own == own_.end();
    return Forward(step.chain, buffers, is_packed ? packed_->filters(first_step_ + i) : nullptr, forward);
  }

  // Whether what is packed of a chain serves this call; Forward packs what does not fit.
  bool Fits(size_t i) const {
    return packed_ != nullptr &&
           packed_->filters(first_step_ + i)->key() == PackKeyOf(inferred_.steps[i].chain, options_.isa);
  }

  char* At(int slot) const { return slot < 0 ? nullptr : at_[static_cast<size_t>(slot)]; }

  const Program& program_;
  const InferredProgram& inferred_;
  const ProgramPlan& plan_;
  const std::vector<int>& scales_;
  const PackedProgram* const packed_;
  const size_t first_step_;
  const void* const weights_;
  const ProgramOptions& options_;
  Scratch arena_;
  std::vector<char*> at_;                                // by slot
  std::map<size_t, std::unique_ptr<RowSums>> row_sums_;  // by the chain's step, until the mean has them
  std::map<size_t, ScaledFilter> own_;                   // of steps that nothing packed serves
  std::vector<const float*> outside_;                    // of steps that take the scale of another one; else null
  std::vector<bool> taken_;                              // steps that have nothing to do, as theirs is
};

// A call in which each thread takes images of its own through the first steps.
std::string RunByImage(const PreparedProgram& prepared, const PackedProgram& packed, const void* weights,
                       const std::vector<const void*>& inputs, const std::vector<void*>& outputs,
                       const ProgramOptions& options, const Workers& workers) {
  const PreparedProgram::ByImage& by_image = *prepared.by_image;
  const ProgramSplit& split = by_image.split;
  const int64_t images = prepared.inferred.shapes[0][0];
  // Of a tensor of `first`, whose batch is 1.
  const auto bytes = [&](int slot) {
    return Elements(by_image.first->inferred.shapes[static_cast<size_t>(slot)]) * SizeOf(prepared.program->dtype);
  };
  // What `first` writes for all images: outputs, and what `rest` alone reads.
  const std::vector<int>& slots = by_image.first->inferred.outputs;
  int64_t between = 0;
  for (size_t i = 0; i < slots.size(); ++i) {
    if (split.first_outputs[i] < 0) between += RoundUp(images * bytes(slots[i]), 64);
  }
  Scratch memory(between);
  if (memory.data() == nullptr) return kOutOfMemory;
  char* next = memory.data();
  std::vector<char*> made;
  for (size_t i = 0; i < slots.size(); ++i) {
    const int output = split.first_outputs[i];
    made.push_back(output < 0 ? next : static_cast<char*>(outputs[static_cast<size_t>(output)]));
    if (output < 0) next += RoundUp(images * bytes(slots[i]), 64);
  }
  std::mutex mutex;
  std::string error;
  ParallelFor(workers, images, [&](int64_t n, int) {
    std::vector<const void*> from;
    std::vector<void*> to;
    for (size_t i = 0; i < inputs.size(); ++i) {
      from.push_back(static_cast<const char*>(inputs[i]) + n * bytes(static_cast<int>(i)));
    }
    for (size_t i = 0; i < slots.size(); ++i) to.push_back(made[i] + n * bytes(slots[i]));
    const std::string wrong = Run(*by_image.first, &packed, 0, weights, options).Steps(from, to, 1);
    if (wrong.empty()) return;
    const std::lock_guard<std::mutex> lock(mutex);
    error = wrong;
  });
  if (!error.empty()) return error;
  std::vector<const void*> from;
  std::vector<void*> to;
  for (const ProgramSplit::Source& source : split.rest_inputs) {
    const size_t index = static_cast<size_t>(source.index);
    from.push_back(source.first ? made[index] : inputs[index]);
  }
  for (int output : split.rest_outputs) to.push_back(outputs[static_cast<size_t>(output)]);
  return Run(*by_image.rest, &packed, split.first.steps.size(), weights, options).Steps(from, to, workers);
}

// The declared shapes as those of a call.
std::string PrepareAll(std::shared_ptr<const Program> program, const std::vector<Shape>& shapes,
                       std::shared_ptr<PreparedProgram>* prepared) {
  *prepared = std::make_shared<PreparedProgram>();
  (*prepared)->program = std::move(program);
  const std::string error = InferProgram(*(*prepared)->program, shapes, &(*prepared)->inferred);
  if (!error.empty()) return error;
  (*prepared)->scales = ScalesTaken(*(*prepared)->program, (*prepared)->inferred);
  return MakeProgramPlan(*(*prepared)->program, (*prepared)->inferred, &(*prepared)->plan);
}

// The two parts of a program for images one at a time, or null.
std::unique_ptr<const PreparedProgram::ByImage> PrepareByImage(const PreparedProgram& whole, int threads) {
  auto by_image = std::make_unique<PreparedProgram::ByImage>();
  ProgramSplit& split = by_image->split;
  if (!SplitProgram(*whole.program, whole.inferred, GetCpuFeatures().l2_bytes, threads, &split)) return nullptr;
  std::shared_ptr<PreparedProgram> first, rest;
  const auto shared = [](const Program& of) { return std::make_shared<const Program>(of); };
  if (!PrepareAll(shared(split.first), {}, &first).empty() || !PrepareAll(shared(split.rest), {}, &rest).empty()) {
    return nullptr;
  }
  by_image->first = std::move(first);
  by_image->rest = std::move(rest);
  return by_image;
}

}  // namespace

std::shared_ptr<const PackedProgram> PackedProgram::Make(const Program& program, const InferredProgram& inferred,
                                                         const void* weights, Isa isa) {
  try {
    auto packed = std::make_shared<PackedProgram>();
    packed->filters_.resize(program.steps.size());
    packed->outside_.resize(program.steps.size());
    const std::vector<int> scales = ScalesTaken(program, inferred);
    for (size_t i = 0; i < program.steps.size(); ++i) {
      if (!IsChain(program.steps[i])) continue;
      packed->filters_[i] = PackedFilters::Lay(inferred.steps[i].chain, isa);
      if (packed->filters_[i] == nullptr ||
          __builtin_add_overflow(packed->bytes_, packed->filters_[i]->bytes(), &packed->bytes_)) {
        return nullptr;
      }
    }
    packed->memory_ = AllocateAligned<float>(packed->bytes_ / static_cast<int64_t>(sizeof(float)));
    if (packed->memory_ == nullptr) return nullptr;
    // In pages of 4 KB a network has more of them than a core remembers the places of.
    PreferHugePages(packed->memory_.get(), packed->bytes_);
    float* next = packed->memory_.get();
    for (size_t i = 0; i < program.steps.size(); ++i) {
      PackedFilters* const filters = packed->filters_[i].get();
      if (filters == nullptr) continue;
      Buffers buffers = FiltersOf(program, program.steps[i], weights);
      ScaledFilter scaled;
      if (ScaledBy(program, inferred, i, scales[i], weights, &scaled)) {
        SetFilter(scaled, &buffers);
        packed->outside_[i] = std::move(scaled.outside);
      }
      filters->Fill(buffers, next);
      next += filters->bytes() / static_cast<int64_t>(sizeof(float));
    }
    return packed;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

std::string PreparedPrograms::Get(const std::vector<std::vector<int64_t>>& shapes, int threads,
                                  std::shared_ptr<const PreparedProgram>* prepared) {
  if (shapes.size() != program_->inputs.size()) {
    return "the program takes " + std::to_string(program_->inputs.size()) + " inputs; given " +
           std::to_string(shapes.size());
  }
  constexpr size_t kKept = 16;  // more shapes than that come from pictures of any size
  std::lock_guard<std::mutex> lock(mutex_);
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    if (entry->threads != threads || entry->shapes != shapes) continue;
    entries_.splice(entries_.begin(), entries_, entry);
    *prepared = entry->prepared;
    return "";
  }
  std::shared_ptr<PreparedProgram> made;
  const std::string error = PrepareAll(program_, {shapes.begin(), shapes.end()}, &made);
  if (!error.empty()) return error;
  made->by_image = PrepareByImage(*made, threads);
  entries_.push_front({shapes, threads, made});
  if (entries_.size() > kKept) entries_.pop_back();
  *prepared = std::move(made);
  return "";
}

std::string RunProgram(const PreparedProgram& prepared, const PackedProgram* packed, const void* weights,
                       const std::vector<const void*>& inputs, const std::vector<void*>& outputs,
                       const ProgramOptions& options) {
  program_calls.fetch_add(1, std::memory_order_relaxed);
  Team team({options.num_threads, options.pool});
  const Workers workers(options.num_threads, &team);
  // Without packed filters each image would pack them; and a profile is of steps that have the whole machine.
  if (prepared.by_image != nullptr && packed != nullptr && options.step_seconds == nullptr) {
    by_image_calls.fetch_add(1, std::memory_order_relaxed);
    return RunByImage(prepared, *packed, weights, inputs, outputs, options, workers);
  }
  return Run(prepared, packed, 0, weights, options).Steps(inputs, outputs, workers);
}

int64_t ProgramCalls() { return program_calls.load(std::memory_order_relaxed); }
int64_t ByImageCalls() { return by_image_calls.load(std::memory_order_relaxed); }
int64_t PartsInPlace() { return parts_in_place.load(std::memory_order_relaxed); }
int64_t MeansOfRows() { return means_of_rows.load(std::memory_order_relaxed); }

}  // namespace dwsconv
