#include "cc/python/network.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "cc/core/program_text.h"
#include "cc/core/words.h"
#include "cc/python/arrays.h"
#include "cc/python/layer.h"

namespace dwsconv {
namespace py = pybind11;
namespace {

// "image, mask": for messages.
std::string Names(const std::vector<ProgramInput>& inputs) {
  std::string names;
  for (const ProgramInput& input : inputs) names += (names.empty() ? "" : ", ") + input.name;
  return names;
}

// What a caller gave as x, in the program's order.
std::vector<py::object> InOrder(const Program& program, py::handle x) {
  const size_t count = program.inputs.size();
  std::vector<py::object> ordered;
  if (PyDict_Check(x.ptr())) {
    const py::dict dict = py::reinterpret_borrow<py::dict>(x);
    for (const ProgramInput& input : program.inputs) {
      if (dict.contains(input.name)) ordered.push_back(dict[py::str(input.name)]);
    }
    if (ordered.size() == count && dict.size() == count) return ordered;
    throw py::value_error("x must have the network's inputs as keys, " + Names(program.inputs) + ", but has " +
                          py::repr(py::list(dict)).cast<std::string>());
  }
  if (PyList_Check(x.ptr()) || PyTuple_Check(x.ptr())) {
    for (const py::handle item : x) ordered.push_back(py::reinterpret_borrow<py::object>(item));
  } else {
    ordered.push_back(py::reinterpret_borrow<py::object>(x));
  }
  if (ordered.size() == count) return ordered;
  throw py::value_error("x must be " + std::to_string(count) + " arrays (" + Names(program.inputs) + "), but is " +
                        std::to_string(ordered.size()));
}

// A call's arrays, kept alive, and their addresses.
struct Arrays {
  std::vector<DenseArray> inputs;
  std::vector<py::array> outputs;
  std::vector<std::vector<int64_t>> shapes;  // of the inputs
  std::vector<const void*> from;
  std::vector<void*> to;
};

Arrays ReadInputs(const Program& program, py::handle x) {
  Arrays arrays;
  const std::vector<py::object> ordered = InOrder(program, x);
  for (size_t i = 0; i < ordered.size(); ++i) {
    const std::string& name = program.inputs[i].name;
    DenseArray array = ToDense(ordered[i], name.c_str());
    if (array.dtype != program.dtype) {
      throw py::type_error(name + " must have the network's dtype, " + DTypeName(program.dtype) + ", but has " +
                           DTypeName(array.dtype));
    }
    arrays.shapes.push_back(array.shape());
    arrays.from.push_back(array.data());
    arrays.inputs.push_back(std::move(array));
  }
  return arrays;
}

// The arrays that the caller wants written, or new ones.
void MakeOutputs(const PreparedProgram& prepared, py::handle out, Arrays* arrays) {
  const size_t count = prepared.program->outputs.size();
  std::vector<py::object> given;
  if (PyList_Check(out.ptr()) || PyTuple_Check(out.ptr())) {
    for (const py::handle item : out) given.push_back(py::reinterpret_borrow<py::object>(item));
  } else if (!out.is_none()) {
    given.push_back(py::reinterpret_borrow<py::object>(out));
  }
  if (!out.is_none() && given.size() != count) {
    throw py::value_error("out must be None or " + std::to_string(count) + " arrays, but is " +
                          std::to_string(given.size()));
  }
  for (size_t i = 0; i < count; ++i) {
    const std::vector<int64_t>& shape = prepared.inferred.shapes[static_cast<size_t>(prepared.inferred.outputs[i])];
    const py::dtype dtype = arrays->inputs[0].array.dtype();
    py::array array = given.empty() ? NewOutput(dtype, shape) : ToOutput(given[i], prepared.program->dtype, shape);
    for (const DenseArray& input : arrays->inputs) {
      if (Overlap(array, input.array)) throw py::value_error("out must not share memory with x");
    }
    for (const py::array& other : arrays->outputs) {
      if (Overlap(array, other)) throw py::value_error("out must be arrays that share no memory");
    }
    if (reinterpret_cast<uintptr_t>(array.data()) % static_cast<uintptr_t>(dtype.itemsize()) != 0) {
      throw py::value_error("out must be aligned to its elements, but is not");
    }
    arrays->to.push_back(array.mutable_data());
    arrays->outputs.push_back(std::move(array));
  }
}

std::shared_ptr<const PreparedProgram> Prepare(const Network& network, const Arrays& arrays, int threads) {
  std::shared_ptr<const PreparedProgram> prepared;
  std::string error;
  {
    const py::gil_scoped_release release;  // it waits for other threads that prepare
    error = network.Prepare(arrays.shapes, threads, &prepared);
  }
  if (!error.empty()) throw py::value_error(error);
  return prepared;
}

py::dict Describe(const std::string& name, const std::vector<int64_t>& shape, DType dtype) {
  py::list sizes;
  for (int64_t size : shape) sizes.append(size == kUnknown ? py::object(py::none()) : py::object(py::int_(size)));
  py::dict described;
  described["name"] = name;
  described["shape"] = py::tuple(sizes);
  described["dtype"] = DTypeName(dtype);
  return described;
}

}  // namespace

std::unique_ptr<PythonNetwork> PythonNetwork::Make(LoadedProgram loaded, const std::optional<std::string>& isa) {
  LayerOptions options;
  options.isa = isa;
  auto made = std::make_unique<PythonNetwork>();
  std::string error;
  const Isa chosen = ToForwardOptions(options).isa;
  {
    const py::gil_scoped_release release;
    error = Network::Make(std::move(loaded), chosen, &made->network_);
  }
  if (!error.empty()) ThrowOutOfMemory(error);
  return made;
}

std::unique_ptr<PythonNetwork> PythonNetwork::FromFile(const std::string& path, const std::optional<std::string>& isa) {
  LoadedProgram loaded;
  std::string error;
  {
    const py::gil_scoped_release release;
    error = ReadProgramFile(path, &loaded);
  }
  if (!error.empty()) throw py::value_error(error);
  return Make(std::move(loaded), isa);
}

std::unique_ptr<PythonNetwork> PythonNetwork::FromProgram(const std::string& text, py::handle weights,
                                                          const std::optional<std::string>& isa) {
  LoadedProgram loaded;
  std::string error = ParseProgram(text, &loaded.program);
  if (error.empty()) error = CheckLoaded(loaded.program);
  if (!error.empty()) throw py::value_error(error);
  const DenseArray flat = ToDense(weights, "weights");
  if (flat.dtype != loaded.program.dtype) {
    throw py::type_error(std::string("weights must have the program's dtype, ") + DTypeName(loaded.program.dtype) +
                         ", but has " + DTypeName(flat.dtype));
  }
  if (flat.shape() != std::vector<int64_t>{loaded.program.weight_count}) {
    throw py::value_error("weights must have shape [" + std::to_string(loaded.program.weight_count) +
                          "], but its shape is " + Show(flat.shape()));
  }
  loaded.weights = AllocateAligned<char>(flat.array.nbytes());
  if (loaded.weights == nullptr) ThrowOutOfMemory("out of memory for the weights");
  if (flat.array.nbytes() > 0) std::memcpy(loaded.weights.get(), flat.data(), static_cast<size_t>(flat.array.nbytes()));
  return Make(std::move(loaded), isa);
}

py::object PythonNetwork::Call(py::handle x, py::handle out, py::handle num_threads) const {
  const int threads = ToThreads(num_threads);
  Arrays arrays = ReadInputs(network_->program(), x);
  const std::shared_ptr<const PreparedProgram> prepared = Prepare(*network_, arrays, threads);
  MakeOutputs(*prepared, out, &arrays);
  std::string error;
  {
    const py::gil_scoped_release release;
    error = network_->Run(*prepared, arrays.from, arrays.to, threads);
  }
  if (!error.empty()) ThrowOutOfMemory(error);
  if (arrays.outputs.size() == 1) return std::move(arrays.outputs[0]);
  py::list results;
  for (py::array& output : arrays.outputs) results.append(std::move(output));
  return std::move(results);
}

py::list PythonNetwork::Profile(py::handle x, py::handle num_threads, int repeats) const {
  if (repeats < 1) throw py::value_error("repeats must be at least 1, but is " + std::to_string(repeats));
  const int threads = ToThreads(num_threads);
  Arrays arrays = ReadInputs(network_->program(), x);
  const std::shared_ptr<const PreparedProgram> prepared = Prepare(*network_, arrays, threads);
  MakeOutputs(*prepared, py::none(), &arrays);
  const Program& program = network_->program();
  std::vector<double> least(program.steps.size(), std::numeric_limits<double>::infinity());
  std::string error;
  {
    const py::gil_scoped_release release;
    for (int i = 0; i <= repeats && error.empty(); ++i) {  // once to warm up
      std::vector<double> seconds(program.steps.size(), 0.0);
      error = network_->Run(*prepared, arrays.from, arrays.to, threads, &seconds);
      for (size_t s = 0; s < seconds.size() && i > 0; ++s) least[s] = std::min(least[s], seconds[s]);
    }
  }
  if (!error.empty()) ThrowOutOfMemory(error);
  py::list steps;
  for (size_t i = 0; i < program.steps.size(); ++i) {
    const InferredProgram& inferred = prepared->inferred;
    const StepCost cost = CostOf(program, inferred, i);
    const double rate = least[i] > 0 ? 1e-9 / least[i] : 0.0;  // 0: a step that another one has taken in
    py::dict step;
    step["step"] = i;
    step["op"] = StepWord(program.steps[i].kind);
    step["name"] = program.steps[i].name;
    step["shape"] = py::tuple(py::cast(inferred.shapes[static_cast<size_t>(inferred.steps[i].output)]));
    step["ms"] = least[i] * 1e3;
    step["gflops"] = cost.flops * rate;
    step["gbs"] = cost.bytes * rate;
    steps.append(step);
  }
  return steps;
}

py::list PythonNetwork::Inputs() const {
  py::list inputs;
  for (const ProgramInput& input : network_->program().inputs) {
    inputs.append(Describe(input.name, input.shape, network_->program().dtype));
  }
  return inputs;
}

py::list PythonNetwork::Outputs() const {
  const Program& program = network_->program();
  InferredProgram inferred;
  const std::string error = InferProgram(program, {}, &inferred);
  if (!error.empty()) throw std::runtime_error(error);
  py::list outputs;
  for (size_t i = 0; i < program.outputs.size(); ++i) {
    const std::vector<int64_t>& shape = inferred.shapes[static_cast<size_t>(inferred.outputs[i])];
    outputs.append(Describe(program.outputs[i].name, shape, program.dtype));
  }
  return outputs;
}

std::string PythonNetwork::Text() const { return PrintProgram(network_->program()); }

void DefineNetwork(py::module_* module) {
  py::class_<PythonNetwork>(*module, "Network")
      .def(py::init(&PythonNetwork::FromFile), py::arg("path"), py::arg("isa") = py::none())
      .def(py::init(&PythonNetwork::FromProgram), py::arg("text"), py::arg("weights"), py::arg("isa") = py::none())
      .def("__call__", &PythonNetwork::Call, py::arg("x"), py::arg("out") = py::none(), py::arg("num_threads") = 0)
      .def("profile", &PythonNetwork::Profile, py::arg("x"), py::arg("num_threads") = 0, py::arg("repeats") = 10)
      .def_property_readonly("inputs", &PythonNetwork::Inputs)
      .def_property_readonly("outputs", &PythonNetwork::Outputs)
      .def("__str__", &PythonNetwork::Text);
}

}  // namespace dwsconv
