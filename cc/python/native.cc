// The module tf_dwsconv._native: what tf_dwsconv/native is made of. Users do not import it.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cc/core/cpu_features.h"
#include "cc/cpu/kernels/bf16_products.h"
#include "cc/cpu/run/forward.h"
#include "cc/cpu/run/program.h"
#include "cc/cpu/run/program_products.h"
#include "cc/plan/plan.h"
#include "cc/plan/tuned_plans.h"
#include "cc/python/layer.h"
#include "cc/python/network.h"
#include "cc/python/question.h"

namespace dwsconv {
namespace py = pybind11;
namespace {

// tf_dwsconv.activations.Fused: word, alpha, max_value, threshold.
using FusedTuple = std::tuple<std::string, float, float, float>;

ActivationRequest FromTuple(const FusedTuple& fused) {
  ActivationRequest request;
  std::tie(request.word, request.alpha, request.max_value, request.threshold) = fused;
  return request;
}

LayerOptions MakeOptions(Sizes strides, Sizes dilations, std::string padding, Sizes explicit_paddings,
                         std::string data_format, const FusedTuple& depthwise_activation, const FusedTuple& activation,
                         const FusedTuple& expand_activation, std::optional<std::string> isa, std::string variant) {
  LayerOptions options;
  options.attributes.strides = std::move(strides);
  options.attributes.dilations = std::move(dilations);
  options.attributes.padding = std::move(padding);
  options.attributes.explicit_paddings = std::move(explicit_paddings);
  options.attributes.data_format = std::move(data_format);
  options.attributes.depthwise_activation = FromTuple(depthwise_activation);
  options.attributes.activation = FromTuple(activation);
  options.attributes.expand_activation = FromTuple(expand_activation);
  options.isa = std::move(isa);
  options.variant = std::move(variant);
  return options;
}

py::dict PlanOf(const FilterSizes& sizes, const std::string& dtype, const LayerOptions& options,
                const py::object& num_threads) {
  const Question question = Ask(sizes, dtype, options, num_threads);
  py::dict result;
  result["output_shape"] = py::tuple(py::cast(OutputShape(question.chain)));
  result["flops"] = Flops(question.chain);
  result["isa"] = IsaName(question.forward.isa);
  const Plan plan = question.empty ? Plan{} : ForwardPlan(question.chain, question.forward);
  const bool expanded = question.chain.E > 0;
  PutPlan(plan, expanded, &result);
  result["repeats"] = plan.repeat_bytes > 0;
  result["tuned"] = plan.tuned;
  if (expanded) return result;  // which the model of what is moved does not know
  const Machine machine = ForwardMachine(question.chain, question.forward);
  result["modelled_bytes"] = question.empty ? 0.0 : ModelledBytes(question.chain, machine, plan);
  return result;
}

// What the planner would do on a machine with other caches and by the kernels of any instruction set, for it computes
// nothing: for tests and for what docs/analysis.md says of it.
py::dict PlanForMachine(const FilterSizes& sizes, const std::string& dtype, const LayerOptions& options,
                        const py::object& num_threads, const CacheBytes& caches, const std::string& isa) {
  Question question = Ask(sizes, dtype, options, num_threads);
  if (question.empty) throw py::value_error("x has no elements or gives no output, so there is nothing to plan");
  if (!ParseIsa(isa, &question.forward.isa)) throw py::value_error("isa must be a word, but is \"" + isa + "\"");
  for (int64_t bytes : caches) {
    if (bytes < 0) throw py::value_error("caches must not be negative, but one is " + std::to_string(bytes));
  }
  const Machine machine = MachineWith(question, caches);
  const Plan plan = MakePlan(question.chain, machine);
  py::dict result;
  PutPlan(plan, question.chain.E > 0, &result);
  result["z_bytes"] = machine.z_bytes;
  result["z_stride"] = plan.z_stride;
  result["tile_pixels"] = machine.tile_pixels;
  result["tile_channels"] = machine.tile_channels;
  if (question.chain.E == 0) result["modelled_bytes"] = ModelledBytes(question.chain, machine, plan);
  return result;
}

// What the tuner has to know: the limits of a plan's choices and the line that puts one into the file.
py::dict TuningOf(const FilterSizes& sizes, const std::string& dtype, const LayerOptions& options,
                  const py::object& num_threads, const py::object& plan) {
  const Question question = Ask(sizes, dtype, options, num_threads);
  if (question.empty) throw py::value_error("x has no elements or gives no output, so there is nothing to tune");
  const Machine machine = ForwardMachine(question.chain, question.forward);
  py::dict result;
  result["tile_pixels"] = machine.tile_pixels;
  result["tile_channels"] = machine.tile_channels;
  result["threads_limit"] = machine.threads;
  result["l3_bytes"] = machine.l3_bytes;
  const std::optional<PlanChoice> choice = ToPlanChoice(plan, question.chain.E > 0);
  if (!choice) return result;
  ForwardOptions forward = question.forward;
  forward.choice = &*choice;
  result["wrong"] = CheckPlanChoice(question.chain, forward);
  result["line"] = TunedPlanLine(question.chain, machine, *choice);
  return result;
}

py::dict CpuInfo() {
  Isa chosen;
  const std::string error = ChooseKernelIsa(&chosen);
  if (!error.empty()) throw py::value_error(error);
  py::list isas;
  for (Isa isa : SupportedIsas()) isas.append(IsaName(isa));
  const CpuFeatures& cpu = GetCpuFeatures();
  py::dict result;
  result["isas"] = isas;
  result["isa"] = IsaName(chosen);
  result["bf16"] = Bf16Dots();
  const Bf16Choice choice = Bf16ChoiceOf(chosen);
  result["bf16_products"] = Bf16ProductsName(choice.products);
  result["bf16_reason"] = choice.why;
  result["cores"] = cpu.cores;
  result["l1d_bytes"] = cpu.l1d_bytes;
  result["l2_bytes"] = cpu.l2_bytes;
  result["l3_bytes"] = cpu.l3_bytes;
  return result;
}

py::dict Calls() {
  py::dict result;
  for (Isa isa : kIsas) result[IsaName(isa)] = ForwardCalls(isa);
  result["pack"] = PackCalls();
  result["network"] = ProgramCalls();
  result["network_by_image"] = ByImageCalls();
  result["network_means_of_rows"] = MeansOfRows();
  result["network_parts_in_place"] = PartsInPlace();
  result["network_products"] = ProductSteps();
  return result;
}

PYBIND11_MODULE(_native, m) {
  m.doc() = "The kernels of tf_dwsconv on NumPy arrays; use tf_dwsconv.native.";

  py::class_<LayerOptions>(m, "Options")
      .def(py::init(&MakeOptions), py::kw_only(), py::arg("strides"), py::arg("dilations"), py::arg("padding"),
           py::arg("explicit_paddings"), py::arg("data_format"), py::arg("depthwise_activation"), py::arg("activation"),
           py::arg("expand_activation"), py::arg("isa"), py::arg("variant"));

  py::class_<Layer>(m, "Layer")
      .def(py::init([](const py::object& depthwise_filter, const py::object& pointwise_filter,
                       const py::object& depthwise_bias, const py::object& bias, const py::object& expand_filter,
                       const py::object& expand_bias, const LayerOptions& options) {
        return new Layer({expand_filter, expand_bias, depthwise_filter, depthwise_bias, pointwise_filter, bias},
                         options,
                         /*pack=*/true);
      }))
      .def("__call__", &Layer::Call, py::arg("x"), py::arg("out") = py::none(), py::arg("residual") = py::none(),
           py::arg("num_threads") = 0, py::arg("plan") = py::none());

  DefineNetwork(&m);

  m.def("forward",
        [](const py::object& x, const py::object& depthwise_filter, const py::object& pointwise_filter,
           const py::object& depthwise_bias, const py::object& bias, const py::object& residual, const py::object& out,
           const py::object& num_threads, const LayerOptions& options, const py::object& plan) {
          const Layer layer({py::none(), py::none(), depthwise_filter, depthwise_bias, pointwise_filter, bias}, options,
                            /*pack=*/false);
          return layer.Call(x, out, residual, num_threads, plan);
        });
  m.def("plan", &PlanOf);
  m.def("plan_for_machine", &PlanForMachine);
  m.def("use_ladder", [](const py::capsule& ladder) { UseLadder(ladder.get_pointer<LadderCapsule>()->run); });
  m.def("tuning", &TuningOf);
  m.def("reload_tuned_plans", [] { return ReloadTunedPlans(/*warn=*/true); });
  m.attr("TUNED_PLANS_HEADER") = kTunedPlansHeader;
  m.attr("TUNED_PLANS_CPU") = TunedPlansCpu();
  m.def("cpu_info", &CpuInfo);
  m.def("calls", &Calls);
}

}  // namespace
}  // namespace dwsconv
