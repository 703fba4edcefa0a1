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

// Everything of a call but its arrays, with words already checked by tf_dwsconv/native (and again by Infer).
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

// None, or a dict of block_pixels, block_channels, threads and stream; behind an expansion of rows, channels,
// by_channels, threads and stream. What else `plan` returns may be in it too, and is not read. TypeError, ValueError
// otherwise.
std::optional<PlanChoice> ToPlanChoice(pybind11::handle plan, bool expanded);

// What ToPlanChoice reads, with all that `plan` tells of a plan's cut.
void PutPlan(const Plan& plan, bool expanded, pybind11::dict* result);

// The filters and biases of a layer as they come from Python; None where there is none.
struct Weights {
  pybind11::handle expand_filter, expand_bias, depthwise_filter, depthwise_bias, pointwise_filter, bias;
};

// Immutable after construction, so any number of threads may call it at once.
class Layer {
 public:
  // Filters and biases are checked against one another; biases may be None. With `pack` they are copied, so a later
  // change of the arrays is not seen; without, they are read in each call.
  Layer(const Weights& weights, const LayerOptions& options, bool pack);

  // Returns `out`, or a new array where that is None. Other Python threads run meanwhile. `plan` as in ToPlanChoice.
  pybind11::object Call(pybind11::handle x, pybind11::handle out, pybind11::handle residual,
                        pybind11::handle num_threads, pybind11::handle plan) const;

 private:
  Request request_;  // but the shapes of input and residual
  ForwardOptions options_;
  // A filter or bias that is there and not packed.
  struct Weight {
    const char* name;
    DenseArray array;
  };
  std::vector<Weight> weights_;
  Buffers buffers_;  // into those
  PackedFiltersPtr packed_;
};

}  // namespace dwsconv

#endif  // DWSCONV_PYTHON_LAYER_H_
