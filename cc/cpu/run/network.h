// A program with its weights, ready to run: what `native` and the C interface hold.
#ifndef DWSCONV_CPU_RUN_NETWORK_H_
#define DWSCONV_CPU_RUN_NETWORK_H_

#include <memory>
#include <string>
#include <vector>

#include "cc/core/program_file.h"
#include "cc/cpu/run/program.h"

namespace dwsconv {

// Immutable but for what it remembers of shapes, so any number of threads may run it at once.
class Network {
 public:
  // Packs the filters. Fills *network and returns "", or says what is wrong. The program has been checked.
  static std::string Make(LoadedProgram loaded, Isa isa, std::unique_ptr<Network>* network);

  const Program& program() const { return *program_; }
  Isa isa() const { return isa_; }

  // The shapes and the plan of a call, or what is wrong with the inputs' shapes.
  std::string Prepare(const std::vector<std::vector<int64_t>>& shapes, int threads,
                      std::shared_ptr<const PreparedProgram>* prepared) const {
    return prepared_.Get(shapes, threads, prepared);
  }

  // As RunProgram.
  std::string Run(const PreparedProgram& prepared, const std::vector<const void*>& inputs,
                  const std::vector<void*>& outputs, int threads, std::vector<double>* step_seconds = nullptr) const;

 private:
  Network(LoadedProgram loaded, Isa isa);

  const Isa isa_;
  const std::shared_ptr<const Program> program_;
  const AlignedBuffer<char> weights_;
  std::shared_ptr<const PackedProgram> packed_;
  mutable PreparedPrograms prepared_;
};

}  // namespace dwsconv

#endif  // DWSCONV_CPU_RUN_NETWORK_H_
