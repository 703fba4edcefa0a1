#include "cc/python/layer.h"

#include <atomic>
#include <cstring>
#include <new>
#include <vector>

#include "cc/core/aligned_buffer.h"
#include "cc/core/parallel.h"
#include "cc/cpu/kernels/bf16_products.h"

namespace dwsconv {
namespace py = pybind11;
namespace {

// More threads than any machine has cores only cost memory, and OpenMP's runtime ends the process where it cannot start
// one.
constexpr long kMostThreads = 1024;

std::string Join(const std::vector<Isa>& isas) {
  std::string text;
  for (Isa isa : isas) text += (text.empty() ? "" : ", ") + std::string(IsaName(isa));
  return text;
}

// A copy that nobody else can write into.
DenseArray PrivateCopy(const DenseArray& from) {
  DenseArray copy = from;
  copy.array = py::array(from.array.dtype(), from.shape());
  std::memcpy(copy.array.mutable_data(), from.data(), static_cast<size_t>(from.array.nbytes()));
  return copy;
}

std::atomic<ForwardFunction> the_ladder{nullptr};

}  // namespace

void UseLadder(ForwardFunction ladder) { the_ladder = ladder; }

ForwardOptions ToForwardOptions(const LayerOptions& options) {
  ForwardOptions forward;
  if (!ParseVariant(options.variant, &forward.variant)) {
    throw py::value_error("variant must be one of " + VariantWords() + ", but is \"" + options.variant + "\"");
  }
  forward.ladder = the_ladder;
  if (IsLadderStep(forward.variant) && forward.ladder == nullptr) {
    throw py::value_error("variant \"" + options.variant + "\" needs tf_dwsconv._lab, which is not loaded");
  }
  const std::string error = options.isa ? CpuFeaturesError() : ChooseKernelIsa(&forward.isa);
  if (!error.empty()) throw py::value_error(error);
  if (options.isa && (!ParseIsa(*options.isa, &forward.isa) || !IsaSupported(forward.isa))) {
    throw py::value_error("isa must be None or one that this CPU has (" + Join(SupportedIsas()) + "), but is \"" +
                          *options.isa + "\"");
  }
  if (IsLadderStep(forward.variant)) forward.isa = WithoutTiles(forward.isa);  // its steps are of vectors
  return forward;
}

int ToThreads(py::handle num_threads) {
  PyObject* const index = PyNumber_Index(num_threads.ptr());
  if (index == nullptr) {
    PyErr_Clear();
    throw py::type_error(std::string("num_threads must be an integer, but is a ") +
                         Py_TYPE(num_threads.ptr())->tp_name);
  }
  int overflow = 0;
  const long value = PyLong_AsLongAndOverflow(index, &overflow);
  Py_DECREF(index);
  if (overflow != 0 || value < 0 || value > kMostThreads) {
    throw py::value_error("num_threads must be 0 (as many as there are cores) to " + std::to_string(kMostThreads) +
                          ", but is " + py::repr(num_threads).cast<std::string>());
  }
  return ResolveThreads(static_cast<int>(value));
}

std::optional<PlanChoice> ToPlanChoice(py::handle plan, bool expanded) {
  if (plan.is_none()) return std::nullopt;
  if (!PyDict_Check(plan.ptr())) {
    throw py::type_error(std::string("plan must be None or a dict, but is a ") + Py_TYPE(plan.ptr())->tp_name);
  }
  const py::dict dict = py::reinterpret_borrow<py::dict>(plan);
  PlanChoice choice;
  int64_t stream = 0, by_channels = 0;
  struct Field {
    const char* name;
    int64_t* value;
  };
  const std::vector<Field> fields = expanded ? std::vector<Field>{{"rows", &choice.rows},
                                                                  {"channels", &choice.channels},
                                                                  {"by_channels", &by_channels},
                                                                  {"threads", &choice.threads},
                                                                  {"stream", &stream}}
                                             : std::vector<Field>{{"block_pixels", &choice.block_pixels},
                                                                  {"block_channels", &choice.block_channels},
                                                                  {"threads", &choice.threads},
                                                                  {"stream", &stream}};
  for (const Field& field : fields) {
    if (!dict.contains(field.name)) {
      std::string names;
      for (const Field& f : fields) {
        names += (&f == &fields.front() ? "" : &f == &fields.back() ? " and " : ", ") + std::string(f.name);
      }
      throw py::value_error("plan must have " + names + ", but lacks " + field.name);
    }
    const py::object value = dict[field.name];
    PyObject* const index = PyNumber_Index(value.ptr());
    if (index == nullptr) {
      PyErr_Clear();
      throw py::type_error(std::string("plan[\"") + field.name + "\"] must be an integer, but is a " +
                           Py_TYPE(value.ptr())->tp_name);
    }
    int overflow = 0;
    *field.value = PyLong_AsLongLongAndOverflow(index, &overflow);
    Py_DECREF(index);
    if (overflow != 0) throw py::value_error(std::string("plan[\"") + field.name + "\"] does not fit 64 bits");
    const bool truth = field.value == &stream || field.value == &by_channels;
    if (truth && *field.value != 0 && *field.value != 1) {
      throw py::value_error(std::string("plan[\"") + field.name + "\"] must be True or False, but is " +
                            std::to_string(*field.value));
    }
  }
  choice.stream = stream != 0;
  choice.by_channels = by_channels != 0;
  return choice;
}

void PutPlan(const Plan& plan, bool expanded, py::dict* result) {
  py::dict& to = *result;
  if (expanded) {
    to["rows"] = plan.rows;
    to["channels"] = plan.channels;
    to["by_channels"] = plan.by_channels;
  } else {
    to["block_pixels"] = plan.block_pixels;
    to["block_channels"] = plan.block_channels;
  }
  to["tasks"] = plan.tasks;
  to["threads"] = plan.threads;
  to["stream"] = plan.stream;
  to["scratch_bytes_per_thread"] = plan.scratch_bytes;
}

Layer::Layer(const Weights& weights, const LayerOptions& options, bool pack)
    : request_(options.attributes), options_(ToForwardOptions(options)) {
  request_.input_name = "x";
  const struct {
    const char* name;
    py::handle given;
    std::optional<Shape> Request::* shape;
    const void* Buffers::* buffer;
  } all[] = {
      {"depthwise_filter", weights.depthwise_filter, &Request::depthwise_filter, &Buffers::depthwise_filter},
      {"pointwise_filter", weights.pointwise_filter, &Request::pointwise_filter, &Buffers::pointwise_filter},
      {"depthwise_bias", weights.depthwise_bias, &Request::depthwise_bias, &Buffers::depthwise_bias},
      {"bias", weights.bias, &Request::bias, &Buffers::bias},
      {"expand_filter", weights.expand_filter, &Request::expand_filter, &Buffers::expand_filter},
      {"expand_bias", weights.expand_bias, &Request::expand_bias, &Buffers::expand_bias},
  };
  for (const auto& weight : all) {
    if (weight.given.is_none()) continue;
    const bool first = weights_.empty();  // the depthwise filter, which is always there: all have its dtype
    weights_.push_back(
        {weight.name, first ? ToDense(weight.given, weight.name) : ToDense(weight.given, weight.name, request_.dtype)});
    const DenseArray& array = weights_.back().array;
    if (first) request_.dtype = array.dtype;
    request_.*weight.shape = array.shape();
  }
  Chain chain;  // as far as it can be told without x
  const std::string error = Infer(request_, &chain);
  if (!error.empty()) throw py::value_error(error);

  if (IsLadderStep(options_.variant) && (chain.E > 0 || !chain.has_project)) {
    throw py::value_error("variant \"" + options.variant +
                          "\" goes with a depthwise and a pointwise filter, and no expansion");
  }
  const bool plain = ReadsPlainFilters(options_.variant);  // reads filters as they are
  for (Weight& weight : weights_) {
    if (pack && plain) weight.array = PrivateCopy(weight.array);
    for (const auto& known : all) {
      if (known.name == weight.name) buffers_.*known.buffer = weight.array.data();
    }
  }
  if (!pack || plain) return;
  {
    py::gil_scoped_release release;
    packed_ = PackedFilters::Make(chain, options_.isa, buffers_, /*may_repeat=*/!IsLadderStep(options_.variant));
  }
  if (packed_ == nullptr) ThrowOutOfMemory("out of memory for the packed filters");
  weights_.clear();
  buffers_ = Buffers{};
}

py::object Layer::Call(py::handle x, py::handle out, py::handle residual, py::handle num_threads,
                       py::handle plan) const {
  ForwardOptions options = options_;
  options.num_threads = ToThreads(num_threads);
  const std::optional<PlanChoice> choice = ToPlanChoice(plan, request_.expand_filter.has_value());
  const DenseArray input = ToDense(x, "x");
  if (input.dtype != request_.dtype) {
    throw py::type_error(std::string("x must have the dtype of depthwise_filter, ") + DTypeName(request_.dtype) +
                         ", but has " + DTypeName(input.dtype));
  }
  Request request = request_;
  request.input = input.shape();
  DenseArray addend;
  if (!residual.is_none()) {
    addend = ToDense(residual, "residual", request_.dtype);
    request.residual = addend.shape();
  }
  Chain chain;
  const std::string error = Infer(request, &chain);
  if (!error.empty()) throw py::value_error(error);
  if (choice) {
    if (options.variant != Variant::kAuto && options.variant != Variant::kFused) {
      throw py::value_error("plan goes with variant \"auto\" or \"fused\", but variant is \"" +
                            std::string(VariantName(options.variant)) + "\"");
    }
    options.choice = &*choice;
    const std::string wrong = chain.empty() ? "" : CheckPlanChoice(chain, options);
    if (!wrong.empty()) throw py::value_error("plan: " + wrong);
  }
  if (packed_ != nullptr && packed_->key() != PackKeyOf(chain, options.isa, !IsLadderStep(options.variant))) {
    throw std::runtime_error("the packed filters do not fit the call: a defect of tf_dwsconv");
  }

  const std::vector<int64_t> shape = OutputShape(chain);
  py::array output = NoArray();
  if (out.is_none()) {
    output = NewOutput(input.array.dtype(), shape);
  } else {
    output = ToOutput(out, request_.dtype, shape);
    if (Overlap(output, input.array)) throw py::value_error("out must not share memory with x");
    for (const Weight& weight : weights_) {
      if (Overlap(output, weight.array.array)) {
        throw py::value_error(std::string("out must not share memory with ") + weight.name);
      }
    }
    if (chain.has_residual && addend.data() != output.data() && Overlap(output, addend.array)) {
      throw py::value_error("out must be residual itself or not share memory with it");
    }
  }

  Buffers buffers = buffers_;
  buffers.input = input.data();
  buffers.residual = chain.has_residual ? addend.data() : nullptr;
  // The kernels write whole elements, which an array viewed out of a byte buffer may not be aligned to.
  void* const target = output.mutable_data();
  const size_t bytes = static_cast<size_t>(output.nbytes());
  const bool aligned = reinterpret_cast<uintptr_t>(target) % static_cast<uintptr_t>(SizeOf(chain.dtype)) == 0;
  AlignedBuffer<char> copy;
  if (!aligned) {
    copy = AllocateAligned<char>(static_cast<int64_t>(bytes));
    if (copy == nullptr) ThrowOutOfMemory("out of memory for an aligned copy of out");
  }
  buffers.output = aligned ? target : copy.get();
  std::string failure;
  {
    py::gil_scoped_release release;
    failure = Forward(chain, buffers, packed_.get(), options);
    if (failure.empty() && !aligned) std::memcpy(target, copy.get(), bytes);
  }
  if (!failure.empty()) ThrowOutOfMemory(failure);
  return std::move(output);
}

}  // namespace dwsconv
