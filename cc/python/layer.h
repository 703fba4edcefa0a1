// One layer on NumPy arrays: filters packed at construction, or per call.
#ifndef DWSCONV_PYTHON_LAYER_H_
#define DWSCONV_PYTHON_LAYER_H_

#include <pybind11/pybind11.h>

#include <optional>
#include <string>

#include "cc/core/infer.h"
#include "cc/cpu/run/forward.h"
#include "cc/python/arrays.h"

namespace dwsconv {

// Everything of a call but its arrays, with words already checked by tf_dwsconv/native.py (and again by Infer).
struct LayerOptions {
  Request attributes;
  std::optional<std::string> isa;  // none: DWSCONV_ISA, else the best
  std::string variant = "auto";
};

// What the module _lab hands over to this one: both come out of one build.
struct LadderCapsule {
  ForwardFunction run;
};

// The function that computes the steps of the ladder, once the module _lab is there.
void UseLadder(ForwardFunction ladder);

// From words to what Forward takes, without the number of threads. ValueError for what is not allowed.
ForwardOptions ToForwardOptions(const LayerOptions& options);

// 0 or more of a Python integer, resolved: see ResolveThreads. TypeError, ValueError otherwise.
int ToThreads(pybind11::handle num_threads);

// None, or a dict of block_pixels, block_channels, threads and stream; what else `plan` returns may be in it too, and
// is not read. TypeError, ValueError otherwise.
std::optional<PlanChoice> ToPlanChoice(pybind11::handle plan);

// Immutable after construction, so any number of threads may call it at once.
class Layer {
 public:
  // Filters and biases are checked against one another; biases may be None. With `pack` they are copied, so a later
  // change of the arrays is not seen; without, they are read in each call.
  Layer(pybind11::handle depthwise_filter, pybind11::handle pointwise_filter, pybind11::handle depthwise_bias,
        pybind11::handle bias, const LayerOptions& options, bool pack);

  // Returns `out`, or a new array where that is None. Other Python threads run meanwhile. `plan` as in ToPlanChoice.
  pybind11::object Call(pybind11::handle x, pybind11::handle out, pybind11::handle residual,
                        pybind11::handle num_threads, pybind11::handle plan) const;

 private:
  Request request_;  // but the shapes of input and residual
  ForwardOptions options_;
  DenseArray depthwise_filter_, pointwise_filter_, depthwise_bias_, bias_;  // empty where they are packed or absent
  Buffers buffers_;                                                         // into those
  PackedFiltersPtr packed_;
};

}  // namespace dwsconv

#endif  // DWSCONV_PYTHON_LAYER_H_
