// What is asked about a layer that is not there: its shapes and options.
#ifndef DWSCONV_PYTHON_QUESTION_H_
#define DWSCONV_PYTHON_QUESTION_H_

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <string>
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

// TypeError, ValueError for what is not allowed.
Question Ask(const Sizes& x, const Sizes& depthwise_filter, const Sizes& pointwise_filter, const std::string& dtype,
             const LayerOptions& options, const pybind11::object& num_threads);

// Bytes of L1, L2 and L3; 0 for this machine's.
using CacheBytes = std::array<int64_t, 3>;

// The machine that plans are made for, with these caches.
Machine MachineWith(const Question& question, const CacheBytes& caches);

}  // namespace dwsconv

#endif  // DWSCONV_PYTHON_QUESTION_H_
