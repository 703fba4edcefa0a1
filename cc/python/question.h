// What is asked about a layer that is not there: its shapes and options.
#ifndef DWSCONV_PYTHON_QUESTION_H_
#define DWSCONV_PYTHON_QUESTION_H_

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cc/cpu/run/forward.h"
#include "cc/python/layer.h"

namespace dwsconv {

using Sizes = std::vector<int64_t>;

struct Question {
  Chain chain;
  ForwardOptions forward;
  bool empty = false;  // no output, so no plan
};

// The shapes of x and of the filters, without a pointwise one where nothing projects, and with an expanding one in the
// end where a chain begins with an expansion.
using FilterSizes = std::tuple<Sizes, Sizes, std::optional<Sizes>, std::optional<Sizes>>;

// TypeError, ValueError for what is not allowed.
Question Ask(const FilterSizes& sizes, const std::string& dtype, const LayerOptions& options,
             const pybind11::object& num_threads);

// Bytes of L1, L2 and L3; 0 for this machine's.
using CacheBytes = std::array<int64_t, 3>;

// The machine that plans are made for, with these caches.
Machine MachineWith(const Question& question, const CacheBytes& caches);

}  // namespace dwsconv

#endif  // DWSCONV_PYTHON_QUESTION_H_
