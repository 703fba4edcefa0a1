#include "cc/cpu/run/network.h"

#include <exception>
#include <utility>

#include "cc/cpu/run/executor.h"

namespace dwsconv {

Network::Network(LoadedProgram loaded, Isa isa)
    : isa_(isa),
      program_(std::make_shared<const Program>(std::move(loaded.program))),
      weights_(std::move(loaded.weights)),
      prepared_(program_) {}

std::string Network::Make(LoadedProgram loaded, Isa isa, std::unique_ptr<Network>* network) {
  try {
    std::unique_ptr<Network> made(new Network(std::move(loaded), isa));
    InferredProgram inferred;
    const std::string error = InferProgram(made->program(), {}, &inferred);
    if (!error.empty()) return error;
    made->packed_ = PackedProgram::Make(made->program(), inferred, made->weights_.get(), isa);
    if (made->packed_ == nullptr) return "out of memory for the packed filters";
    *network = std::move(made);
    return "";
  } catch (const std::exception& error) {
    return std::string("out of memory: ") + error.what();
  }
}

std::string Network::Run(const PreparedProgram& prepared, const std::vector<const void*>& inputs,
                         const std::vector<void*>& outputs, int threads, std::vector<double>* step_seconds) const {
  ProgramOptions options;
  options.isa = isa_;
  options.num_threads = threads;
  options.step_seconds = step_seconds;
  return RunProgram(prepared, packed_.get(), weights_.get(), inputs, outputs, options);
}

}  // namespace dwsconv
