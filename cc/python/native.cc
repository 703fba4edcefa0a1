// The module tf_dwsconv._native: what tf_dwsconv/native.py is made of. Users do not import it.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cc/core/cpu_features.h"
#include "cc/core/make_problem.h"
#include "cc/cpu/forward.h"
#include "cc/cpu/traffic.h"
#include "cc/plan/plan.h"
#include "cc/plan/tuned_plans.h"
#include "cc/python/layer.h"

namespace dwsconv {
namespace py = pybind11;
namespace {

using Sizes = std::vector<int64_t>;

LayerOptions MakeOptions(Sizes strides, Sizes dilations, std::string padding, Sizes explicit_paddings,
                         std::string data_format, std::string depthwise_activation, float depthwise_alpha,
                         std::string activation, float alpha, std::optional<std::string> isa, std::string variant) {
  LayerOptions options;
  options.attributes.strides = std::move(strides);
  options.attributes.dilations = std::move(dilations);
  options.attributes.padding = std::move(padding);
  options.attributes.explicit_paddings = std::move(explicit_paddings);
  options.attributes.data_format = std::move(data_format);
  options.attributes.depthwise_activation = std::move(depthwise_activation);
  options.attributes.depthwise_alpha = depthwise_alpha;
  options.attributes.activation = std::move(activation);
  options.attributes.alpha = alpha;
  options.isa = std::move(isa);
  options.variant = std::move(variant);
  return options;
}

DType ParseDType(const std::string& word) {
  for (DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    if (word == DTypeName(dtype)) return dtype;
  }
  throw py::type_error("dtype must be float32, float16 or bfloat16, but is " + word);
}

// What is asked about a layer that is not there: its shapes and options.
struct Question {
  Problem problem;
  ForwardOptions forward;
  bool empty = false;  // no output, so no plan
};

Question Ask(const Sizes& x, const Sizes& depthwise_filter, const Sizes& pointwise_filter, const std::string& dtype,
             const LayerOptions& options, const py::object& num_threads) {
  Request request = options.attributes;
  request.input_name = "x";
  request.input = x;
  request.depthwise_filter = depthwise_filter;
  request.pointwise_filter = pointwise_filter;
  request.dtype = ParseDType(dtype);
  Question question;
  const std::string error = MakeProblem(request, &question.problem);
  if (!error.empty()) throw py::value_error(error);
  question.forward = ToForwardOptions(options);
  question.forward.num_threads = ToThreads(num_threads);
  question.empty = question.problem.N == 0 || question.problem.output_pixels() == 0;
  return question;
}

py::dict PlanOf(const Sizes& x, const Sizes& depthwise_filter, const Sizes& pointwise_filter, const std::string& dtype,
                const LayerOptions& options, const py::object& num_threads) {
  const Question question = Ask(x, depthwise_filter, pointwise_filter, dtype, options, num_threads);
  py::dict result;
  result["output_shape"] = py::tuple(py::cast(OutputShape(question.problem)));
  result["flops"] = Flops(question.problem);
  result["isa"] = IsaName(question.forward.isa);
  const Plan plan = question.empty ? Plan{} : ForwardPlan(question.problem, question.forward);
  result["block_pixels"] = plan.block_pixels;
  result["block_channels"] = plan.block_channels;
  result["tasks"] = plan.tasks;
  result["threads"] = plan.threads;
  result["scratch_bytes_per_thread"] = plan.scratch_bytes;
  result["repeats"] = plan.repeat_bytes > 0;
  result["stream"] = plan.stream;
  result["tuned"] = plan.tuned;
  const Machine machine = ForwardMachine(question.problem, question.forward);
  result["modelled_bytes"] = question.empty ? 0.0 : ModelledBytes(question.problem, machine, plan);
  return result;
}

// What the planner would do on a machine with another L2: for tests and for what docs/analysis.md says of it.
py::dict PlanForL2(const Sizes& x, const Sizes& depthwise_filter, const Sizes& pointwise_filter,
                   const std::string& dtype, const LayerOptions& options, const py::object& num_threads,
                   int64_t l2_bytes) {
  const Question question = Ask(x, depthwise_filter, pointwise_filter, dtype, options, num_threads);
  if (question.empty) throw py::value_error("x has no elements or gives no output, so there is nothing to plan");
  if (l2_bytes < 1) throw py::value_error("l2_bytes must be at least 1, but is " + std::to_string(l2_bytes));
  Machine machine = ForwardMachine(question.problem, question.forward);
  machine.l2_bytes = l2_bytes;
  const Plan plan = MakePlan(question.problem, machine);
  py::dict result;
  result["block_pixels"] = plan.block_pixels;
  result["block_channels"] = plan.block_channels;
  result["tasks"] = plan.tasks;
  result["threads"] = plan.threads;
  result["stream"] = plan.stream;
  result["scratch_bytes_per_thread"] = plan.scratch_bytes;
  result["z_bytes"] = machine.z_bytes;
  result["z_stride"] = plan.z_stride;
  result["tile_pixels"] = machine.tile_pixels;
  result["tile_channels"] = machine.tile_channels;
  result["modelled_bytes"] = ModelledBytes(question.problem, machine, plan);
  return result;
}

py::dict ToDict(const Moved& moved) {
  const char* const names[kRegions] = {"x", "filters", "y", "z"};
  py::dict read, written, result;
  for (size_t i = 0; i < kRegions; ++i) {
    read[names[i]] = moved.read[i];
    written[names[i]] = moved.written[i];
  }
  result["read"] = read;
  result["written"] = written;
  return result;
}

// A layer simulated on one thread by a plan, or by the planner's where that is None, on this machine or one with other
// caches (0: this one's).
py::dict TrafficOf(const Sizes& x, const Sizes& depthwise_filter, const Sizes& pointwise_filter,
                   const std::string& dtype, const LayerOptions& options, const py::object& plan,
                   const std::array<int64_t, 3>& cache_bytes) {
  Question question = Ask(x, depthwise_filter, pointwise_filter, dtype, options, py::int_(1));
  if (question.empty) throw py::value_error("x has no elements or gives no output, so nothing is moved");
  // Nobody can stop it once it runs.
  constexpr double kMostFlops = 2e12;
  const double flops = static_cast<double>(Flops(question.problem));
  if (flops > kMostFlops) {
    throw py::value_error("x_shape and the filters make " + std::to_string(flops) +
                          " FLOPs, too many to simulate: at most 2e12");
  }
  Machine machine = ForwardMachine(question.problem, question.forward);
  int64_t* const levels[] = {&machine.l1d_bytes, &machine.l2_bytes, &machine.l3_bytes};
  for (size_t i = 0; i < cache_bytes.size(); ++i) {
    if (cache_bytes[i] != 0) *levels[i] = cache_bytes[i];
  }
  Plan chosen = MakePlan(question.problem, machine);
  if (const std::optional<PlanChoice> given = ToPlanChoice(plan)) {
    const std::string wrong = ApplyPlanChoice(question.problem, machine, *given, &chosen);
    if (!wrong.empty()) throw py::value_error("plan: " + wrong);
  }
  const PlanChoice choice{chosen.block_pixels, chosen.block_channels, chosen.threads, chosen.stream};
  question.forward.choice = &choice;
  Traffic traffic;
  std::string wrong;
  {
    py::gil_scoped_release release;
    wrong = SimulateTraffic(question.problem, question.forward, CachesOf(machine), &traffic);
  }
  if (!wrong.empty()) {
    PyErr_SetString(PyExc_MemoryError, wrong.c_str());
    throw py::error_already_set();
  }
  py::dict result;
  result["isa"] = IsaName(question.forward.isa);
  result["block_pixels"] = chosen.block_pixels;
  result["block_channels"] = chosen.block_channels;
  result["threads"] = chosen.threads;
  result["stream"] = chosen.stream;
  result["modelled_bytes"] = ModelledBytes(question.problem, machine, chosen);
  result["beyond_l2"] = ToDict(traffic.beyond_l2);
  result["memory"] = ToDict(traffic.memory);
  return result;
}

// What the tuner has to know: the limits of a plan's choices and the line that puts one into the file.
py::dict TuningOf(const Sizes& x, const Sizes& depthwise_filter, const Sizes& pointwise_filter,
                  const std::string& dtype, const LayerOptions& options, const py::object& num_threads,
                  const py::object& plan) {
  const Question question = Ask(x, depthwise_filter, pointwise_filter, dtype, options, num_threads);
  if (question.empty) throw py::value_error("x has no elements or gives no output, so there is nothing to tune");
  const Machine machine = ForwardMachine(question.problem, question.forward);
  py::dict result;
  result["tile_pixels"] = machine.tile_pixels;
  result["tile_channels"] = machine.tile_channels;
  result["threads_limit"] = machine.threads;
  result["l3_bytes"] = machine.l3_bytes;
  const std::optional<PlanChoice> choice = ToPlanChoice(plan);
  if (!choice) return result;
  ForwardOptions forward = question.forward;
  forward.choice = &*choice;
  result["wrong"] = CheckPlanChoice(question.problem, forward);
  result["line"] = TunedPlanLine(question.problem, machine, *choice);
  return result;
}

py::dict CpuInfo() {
  Isa chosen;
  const std::string error = ChooseIsa(&chosen);
  if (!error.empty()) throw py::value_error(error);
  py::list isas;
  for (Isa isa : SupportedIsas()) isas.append(IsaName(isa));
  const CpuFeatures& cpu = GetCpuFeatures();
  py::dict result;
  result["isas"] = isas;
  result["isa"] = IsaName(chosen);
  result["bf16"] = cpu.avx512_bf16;
  result["cores"] = cpu.cores;
  result["l1d_bytes"] = cpu.l1d_bytes;
  result["l2_bytes"] = cpu.l2_bytes;
  result["l3_bytes"] = cpu.l3_bytes;
  return result;
}

py::dict Calls() {
  py::dict result;
  for (Isa isa : {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512}) result[IsaName(isa)] = ForwardCalls(isa);
  result["pack"] = PackCalls();
  return result;
}

PYBIND11_MODULE(_native, m) {
  m.doc() = "The kernels of tf_dwsconv on NumPy arrays; use tf_dwsconv.native.";

  py::class_<LayerOptions>(m, "Options")
      .def(py::init(&MakeOptions), py::kw_only(), py::arg("strides"), py::arg("dilations"), py::arg("padding"),
           py::arg("explicit_paddings"), py::arg("data_format"), py::arg("depthwise_activation"),
           py::arg("depthwise_alpha"), py::arg("activation"), py::arg("alpha"), py::arg("isa"), py::arg("variant"));

  py::class_<Layer>(m, "Layer")
      .def(py::init([](const py::object& depthwise_filter, const py::object& pointwise_filter,
                       const py::object& depthwise_bias, const py::object& bias, const LayerOptions& options) {
        return new Layer(depthwise_filter, pointwise_filter, depthwise_bias, bias, options, /*pack=*/true);
      }))
      .def("__call__", &Layer::Call, py::arg("x"), py::arg("out") = py::none(), py::arg("residual") = py::none(),
           py::arg("num_threads") = 0, py::arg("plan") = py::none());

  m.def("forward",
        [](const py::object& x, const py::object& depthwise_filter, const py::object& pointwise_filter,
           const py::object& depthwise_bias, const py::object& bias, const py::object& residual, const py::object& out,
           const py::object& num_threads, const LayerOptions& options, const py::object& plan) {
          const Layer layer(depthwise_filter, pointwise_filter, depthwise_bias, bias, options, /*pack=*/false);
          return layer.Call(x, out, residual, num_threads, plan);
        });
  m.def("plan", &PlanOf);
  m.def("plan_for_l2", &PlanForL2);
  m.def("traffic", &TrafficOf);
  m.def("tuning", &TuningOf);
  m.def("reload_tuned_plans", [] { return ReloadTunedPlans(/*warn=*/true); });
  m.attr("TUNED_PLANS_HEADER") = kTunedPlansHeader;
  m.attr("TUNED_PLANS_CPU") = TunedPlansCpu();
  m.def("cpu_info", &CpuInfo);
  m.def("calls", &Calls);
}

}  // namespace
}  // namespace dwsconv
