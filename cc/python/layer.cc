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

[[noreturn]] void ThrowOutOfMemory(const std::string& message) {
  PyErr_SetString(PyExc_MemoryError, message.c_str());
  throw py::error_already_set();
}

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
  if (!options.isa) return forward;
  if (!ParseIsa(*options.isa, &forward.isa) || !IsaSupported(forward.isa)) {
    throw py::value_error("isa must be None or one that this CPU has (" + Join(SupportedIsas()) + "), but is \"" +
                          *options.isa + "\"");
  }
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

std::optional<PlanChoice> ToPlanChoice(py::handle plan) {
  if (plan.is_none()) return std::nullopt;
  if (!PyDict_Check(plan.ptr())) {
    throw py::type_error(std::string("plan must be None or a dict, but is a ") + Py_TYPE(plan.ptr())->tp_name);
  }
  const py::dict dict = py::reinterpret_borrow<py::dict>(plan);
  PlanChoice choice;
  int64_t stream = 0;
  const struct {
    const char* name;
    int64_t* value;
  } fields[] = {{"block_pixels", &choice.block_pixels},
                {"block_channels", &choice.block_channels},
                {"threads", &choice.threads},
                {"stream", &stream}};
  for (const auto& field : fields) {
    if (!dict.contains(field.name)) {
      throw py::value_error(std::string("plan must have block_pixels, block_channels, threads and stream, but lacks ") +
                            field.name);
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
  }
  if (stream != 0 && stream != 1) {
    throw py::value_error("plan[\"stream\"] must be True or False, but is " + std::to_string(stream));
  }
  choice.stream = stream != 0;
  return choice;
}

Layer::Layer(py::handle depthwise_filter, py::handle pointwise_filter, py::handle depthwise_bias, py::handle bias,
             const LayerOptions& options, bool pack)
    : request_(options.attributes), options_(ToForwardOptions(options)) {
  request_.input_name = "x";
  depthwise_filter_ = ToDense(depthwise_filter, "depthwise_filter");
  request_.dtype = depthwise_filter_.dtype;
  request_.depthwise_filter = depthwise_filter_.shape();
  pointwise_filter_ = ToDense(pointwise_filter, "pointwise_filter", request_.dtype);
  request_.pointwise_filter = pointwise_filter_.shape();
  if (!depthwise_bias.is_none()) {
    depthwise_bias_ = ToDense(depthwise_bias, "depthwise_bias", request_.dtype);
    request_.depthwise_bias = depthwise_bias_.shape();
  }
  if (!bias.is_none()) {
    bias_ = ToDense(bias, "bias", request_.dtype);
    request_.bias = bias_.shape();
  }
  Chain chain;  // as far as it can be told without x
  const std::string error = Infer(request_, &chain);
  if (!error.empty()) throw py::value_error(error);

  if (pack && ReadsPlainFilters(options_.variant)) {  // reads filters as they are
    depthwise_filter_ = PrivateCopy(depthwise_filter_);
    pointwise_filter_ = PrivateCopy(pointwise_filter_);
    if (request_.depthwise_bias) depthwise_bias_ = PrivateCopy(depthwise_bias_);
    if (request_.bias) bias_ = PrivateCopy(bias_);
  }
  buffers_.depthwise_filter = depthwise_filter_.data();
  buffers_.pointwise_filter = pointwise_filter_.data();
  if (request_.depthwise_bias) buffers_.depthwise_bias = depthwise_bias_.data();
  if (request_.bias) buffers_.bias = bias_.data();
  if (!pack || ReadsPlainFilters(options_.variant)) return;
  {
    py::gil_scoped_release release;
    packed_ = PackedFilters::Make(chain, options_.isa, buffers_, /*may_repeat=*/!IsLadderStep(options_.variant));
  }
  if (packed_ == nullptr) ThrowOutOfMemory("out of memory for the packed filters");
  depthwise_filter_ = pointwise_filter_ = depthwise_bias_ = bias_ = DenseArray{};
  buffers_ = Buffers{};
}

py::object Layer::Call(py::handle x, py::handle out, py::handle residual, py::handle num_threads,
                       py::handle plan) const {
  ForwardOptions options = options_;
  options.num_threads = ToThreads(num_threads);
  const std::optional<PlanChoice> choice = ToPlanChoice(plan);
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
    const struct {
      const char* name;
      const DenseArray& array;
      const void* used;
    } inputs[] = {{"x", input, input.data()},
                  {"depthwise_filter", depthwise_filter_, buffers_.depthwise_filter},
                  {"pointwise_filter", pointwise_filter_, buffers_.pointwise_filter},
                  {"depthwise_bias", depthwise_bias_, buffers_.depthwise_bias},
                  {"bias", bias_, buffers_.bias}};
    for (const auto& other : inputs) {
      if (other.used != nullptr && Overlap(output, other.array.array)) {
        throw py::value_error(std::string("out must not share memory with ") + other.name);
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
