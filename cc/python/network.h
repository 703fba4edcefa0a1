// A whole network on NumPy arrays.
#ifndef DWSCONV_PYTHON_NETWORK_H_
#define DWSCONV_PYTHON_NETWORK_H_

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>
#include <string>

#include "cc/cpu/run/network.h"

namespace dwsconv {

// What tf_dwsconv.native.Network is made of. Any number of threads may call it at once.
class PythonNetwork {
 public:
  // Of a file of a program. ValueError for a broken one; other Python threads run meanwhile.
  static std::unique_ptr<PythonNetwork> FromFile(const std::string& path, const std::optional<std::string>& isa);
  // Of a program's text and its flat weights.
  static std::unique_ptr<PythonNetwork> FromProgram(const std::string& text, pybind11::handle weights,
                                                    const std::optional<std::string>& isa);

  // x: an array, a list of arrays or a dict by the inputs' names; out: None, an array or a list. Returns an array, or a
  // list of them where the program has several outputs.
  pybind11::object Call(pybind11::handle x, pybind11::handle out, pybind11::handle num_threads) const;

  // Each step's op, name, shape, and in the fastest of `repeats` calls its ms, GFLOP/s and GB/s.
  pybind11::list Profile(pybind11::handle x, pybind11::handle num_threads, int repeats) const;

  pybind11::list Inputs() const;   // of dicts: name, shape with None for open sizes, dtype
  pybind11::list Outputs() const;  // likewise
  std::string Text() const;

 private:
  static std::unique_ptr<PythonNetwork> Make(LoadedProgram loaded, const std::optional<std::string>& isa);

  std::unique_ptr<Network> network_;
};

// The class, into the module.
void DefineNetwork(pybind11::module_* module);

}  // namespace dwsconv

#endif  // DWSCONV_PYTHON_NETWORK_H_
