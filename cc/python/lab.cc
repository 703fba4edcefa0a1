// The module tf_dwsconv._lab: the ladder and the simulated caches, which tf_dwsconv/native loads when they are asked
// for. Users do not import it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>

#include "cc/lab/ladder.h"
#include "cc/lab/openmp_runtime.h"
#include "cc/lab/traffic.h"
#include "cc/plan/plan.h"
#include "cc/python/question.h"

namespace dwsconv {
namespace py = pybind11;
namespace {

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
py::dict TrafficOf(const FilterSizes& sizes, const std::string& dtype, const LayerOptions& options,
                   const py::object& plan, const CacheBytes& caches) {
  Question question = Ask(sizes, dtype, options, py::int_(1));
  if (question.chain.E > 0 || !question.chain.has_project) {
    throw py::value_error("the simulation takes layers of a depthwise and a pointwise filter alone");
  }
  if (question.empty) throw py::value_error("x has no elements or gives no output, so nothing is moved");
  // Nobody can stop it once it runs.
  constexpr double kMostFlops = 2e12;
  const double flops = static_cast<double>(Flops(question.chain));
  if (flops > kMostFlops) {
    throw py::value_error("x_shape and the filters make " + std::to_string(flops) +
                          " FLOPs, too many to simulate: at most 2e12");
  }
  const Machine machine = MachineWith(question, caches);
  Plan chosen = MakePlan(question.chain, machine);
  if (const std::optional<PlanChoice> given = ToPlanChoice(plan, false)) {
    const std::string wrong = ApplyPlanChoice(question.chain, machine, *given, &chosen);
    if (!wrong.empty()) throw py::value_error("plan: " + wrong);
  }
  const PlanChoice choice = ChoiceOf(chosen);
  question.forward.choice = &choice;
  Traffic traffic;
  std::string wrong;
  {
    py::gil_scoped_release release;
    wrong = SimulateTraffic(question.chain, question.forward, CachesOf(machine), &traffic);
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
  result["modelled_bytes"] = ModelledBytes(question.chain, machine, chosen);
  result["beyond_l2"] = ToDict(traffic.beyond_l2);
  result["memory"] = ToDict(traffic.memory);
  return result;
}

PYBIND11_MODULE(_lab, m) {
  m.doc() = "The ladder and the simulated caches of tf_dwsconv; use tf_dwsconv.native.";
  static LadderCapsule ladder{&ForwardLadderStep};
  m.attr("ladder") = py::capsule(&ladder);
  m.def("traffic", &TrafficOf);
  m.def("load_openmp", &LoadOpenMp);
}

}  // namespace
}  // namespace dwsconv
