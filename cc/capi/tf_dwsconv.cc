#include "cc/capi/tf_dwsconv.h"

#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cc/core/cpu_features.h"
#include "cc/core/parallel.h"
#include "cc/core/program_file.h"
#include "cc/cpu/run/network.h"

struct dwsconv_network {
  std::unique_ptr<dwsconv::Network> network;
};

namespace dwsconv {
namespace {

constexpr int kMostRank = 8, kMostThreads = 1024;

std::string& LastError() {
  thread_local std::string error;
  return error;
}

// What `work` returns, or `failed` with the message that it gives or throws.
template <typename Result, typename Work>
Result Guarded(Result failed, const Work& work) {
  try {
    std::string error;
    const Result result = work(&error);
    if (error.empty()) return result;
    LastError() = error;
  } catch (const std::exception& error) {
    LastError() = std::string("out of memory: ") + error.what();
  }
  return failed;
}

// The shapes and the plan of a call.
std::string Prepare(const dwsconv_network* network, const dwsconv_tensor* inputs, int input_count, int threads,
                    std::shared_ptr<const PreparedProgram>* prepared) {
  if (network == nullptr) return "network must not be NULL";
  if (inputs == nullptr || input_count < 0) return "inputs must be an array of input_count tensors, but is NULL";
  std::vector<std::vector<int64_t>> shapes;
  for (int i = 0; i < input_count; ++i) {
    if (inputs[i].rank < 1 || inputs[i].rank > kMostRank || inputs[i].shape == nullptr) {
      return "input " + std::to_string(i) + " must have a shape of 1 to 8 sizes; given rank " +
             std::to_string(inputs[i].rank) + (inputs[i].shape == nullptr ? " and NULL" : "");
    }
    shapes.emplace_back(inputs[i].shape, inputs[i].shape + inputs[i].rank);
  }
  return network->network->Prepare(shapes, threads, prepared);
}

// The shape of an output by the shapes of the inputs.
std::string ShapeOf(const dwsconv_network* network, const dwsconv_tensor* inputs, int input_count, int index,
                    std::vector<int64_t>* shape) {
  std::shared_ptr<const PreparedProgram> prepared;
  const std::string error = Prepare(network, inputs, input_count, ResolveThreads(0), &prepared);
  if (!error.empty()) return error;
  const std::vector<int>& outputs = prepared->inferred.outputs;
  if (index < 0 || index >= static_cast<int>(outputs.size())) {
    return "index must be 0 to " + std::to_string(outputs.size() - 1) + "; given " + std::to_string(index);
  }
  *shape = prepared->inferred.shapes[static_cast<size_t>(outputs[static_cast<size_t>(index)])];
  return "";
}

std::string CheckPointer(const char* what, int index, const void* data, int64_t item) {
  if (data != nullptr && reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(item) == 0) return "";
  return std::string(what) + " " + std::to_string(index) + " must have memory that is aligned to " +
         std::to_string(item) + " bytes";
}

std::string RunNetwork(const dwsconv_network* network, const dwsconv_tensor* inputs, int input_count,
                       void* const* outputs, int output_count, int num_threads) {
  if (num_threads < 0 || num_threads > kMostThreads) {
    return "num_threads must be 0 (as many as there are cores) to 1024; given " + std::to_string(num_threads);
  }
  const int threads = ResolveThreads(num_threads);
  std::shared_ptr<const PreparedProgram> prepared;
  std::string error = Prepare(network, inputs, input_count, threads, &prepared);
  if (!error.empty()) return error;
  const Program& program = network->network->program();
  if (outputs == nullptr || output_count != static_cast<int>(program.outputs.size())) {
    return "outputs must be " + std::to_string(program.outputs.size()) + " pointers; given " +
           (outputs == nullptr ? "NULL" : std::to_string(output_count));
  }
  std::vector<const void*> from;
  for (int i = 0; i < input_count && error.empty(); ++i) {
    from.push_back(inputs[i].data);
    const bool empty = Elements(prepared->inferred.shapes[static_cast<size_t>(i)]) == 0;
    if (!empty) error = CheckPointer("input", i, inputs[i].data, SizeOf(program.dtype));
  }
  const std::vector<void*> to(outputs, outputs + output_count);
  for (int i = 0; i < output_count && error.empty(); ++i) {
    const int slot = prepared->inferred.outputs[static_cast<size_t>(i)];
    const bool empty = Elements(prepared->inferred.shapes[static_cast<size_t>(slot)]) == 0;
    if (!empty) error = CheckPointer("output", i, to[static_cast<size_t>(i)], SizeOf(program.dtype));
  }
  return error.empty() ? network->network->Run(*prepared, from, to, threads) : error;
}

// The name of one of the inputs or outputs.
template <typename Named>
const char* NameOf(const std::vector<Named>& all, int index) {
  return index >= 0 && index < static_cast<int>(all.size()) ? all[static_cast<size_t>(index)].name.c_str() : nullptr;
}

}  // namespace
}  // namespace dwsconv

extern "C" {

dwsconv_network* dwsconv_load(const char* path) {
  return dwsconv::Guarded<dwsconv_network*>(nullptr, [&](std::string* error) -> dwsconv_network* {
    dwsconv::LoadedProgram loaded;
    dwsconv::Isa isa = dwsconv::Isa::kGeneric;
    *error = path == nullptr ? "path must not be NULL" : dwsconv::ChooseIsa(&isa);
    if (error->empty()) *error = dwsconv::ReadProgramFile(path, &loaded);
    if (!error->empty()) return nullptr;
    auto network = std::make_unique<dwsconv_network>();
    *error = dwsconv::Network::Make(std::move(loaded), isa, &network->network);
    return error->empty() ? network.release() : nullptr;
  });
}

int dwsconv_dtype_of(const dwsconv_network* network) {
  return network == nullptr ? -1 : static_cast<int>(network->network->program().dtype);
}

int dwsconv_input_count(const dwsconv_network* network) {
  return network == nullptr ? -1 : static_cast<int>(network->network->program().inputs.size());
}

int dwsconv_output_count(const dwsconv_network* network) {
  return network == nullptr ? -1 : static_cast<int>(network->network->program().outputs.size());
}

const char* dwsconv_input_name(const dwsconv_network* network, int index) {
  return network == nullptr ? nullptr : dwsconv::NameOf(network->network->program().inputs, index);
}

const char* dwsconv_output_name(const dwsconv_network* network, int index) {
  return network == nullptr ? nullptr : dwsconv::NameOf(network->network->program().outputs, index);
}

int dwsconv_output_shape(const dwsconv_network* network, const dwsconv_tensor* inputs, int input_count, int index,
                         int64_t* shape, int rank) {
  return dwsconv::Guarded<int>(-1, [&](std::string* error) {
    std::vector<int64_t> sizes;
    *error = dwsconv::ShapeOf(network, inputs, input_count, index, &sizes);
    for (size_t i = 0; i < sizes.size() && shape != nullptr && static_cast<int>(i) < rank; ++i) shape[i] = sizes[i];
    return static_cast<int>(sizes.size());
  });
}

int64_t dwsconv_output_elements(const dwsconv_network* network, const dwsconv_tensor* inputs, int input_count,
                                int index) {
  return dwsconv::Guarded<int64_t>(-1, [&](std::string* error) {
    std::vector<int64_t> sizes;
    *error = dwsconv::ShapeOf(network, inputs, input_count, index, &sizes);
    return dwsconv::Elements(sizes);
  });
}

int dwsconv_run(const dwsconv_network* network, const dwsconv_tensor* inputs, int input_count, void* const* outputs,
                int output_count, int num_threads) {
  return dwsconv::Guarded<int>(-1, [&](std::string* error) {
    *error = dwsconv::RunNetwork(network, inputs, input_count, outputs, output_count, num_threads);
    return 0;
  });
}

void dwsconv_free(dwsconv_network* network) { delete network; }

const char* dwsconv_last_error(void) { return dwsconv::LastError().c_str(); }

}  // extern "C"
