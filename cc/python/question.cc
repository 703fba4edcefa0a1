#include "cc/python/question.h"

#include <algorithm>

#include "cc/core/infer.h"
#include "cc/python/arrays.h"

namespace dwsconv {
namespace py = pybind11;
namespace {

DType ParseDType(const std::string& word) {
  for (DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    if (word == DTypeName(dtype)) return dtype;
  }
  throw py::type_error("dtype must be float32, float16 or bfloat16, but is " + word);
}

// Nothing is unknown here: every negative size is as wrong as any other.
Shape ToShape(Sizes sizes) {
  for (int64_t& size : sizes) size = std::max<int64_t>(size, -1);
  return sizes;
}

}  // namespace

Question Ask(const FilterSizes& sizes, const std::string& dtype, const LayerOptions& options,
             const py::object& num_threads) {
  const auto& [x, depthwise_filter, pointwise_filter, expand_filter] = sizes;
  Request request = options.attributes;
  request.input_name = "x";
  request.input = ToShape(x);
  request.depthwise_filter = ToShape(depthwise_filter);
  if (pointwise_filter) request.pointwise_filter = ToShape(*pointwise_filter);
  if (expand_filter) request.expand_filter = ToShape(*expand_filter);
  request.dtype = ParseDType(dtype);
  Question question;
  const std::string error = Infer(request, &question.chain);
  if (!error.empty()) throw py::value_error(error);
  question.forward = ToForwardOptions(options);
  question.forward.num_threads = ToThreads(num_threads);
  question.empty = question.chain.empty();
  return question;
}

Machine MachineWith(const Question& question, const CacheBytes& caches) {
  Machine machine = ForwardMachine(question.chain, question.forward);
  int64_t* const levels[] = {&machine.l1d_bytes, &machine.l2_bytes, &machine.l3_bytes};
  for (size_t i = 0; i < caches.size(); ++i) {
    if (caches[i] != 0) *levels[i] = caches[i];
  }
  machine.stream_share = Machine().stream_share;  // whatever this CPU is
  return machine;
}

}  // namespace dwsconv
