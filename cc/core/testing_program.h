// A small program with every op, for tests.
#ifndef DWSCONV_CORE_TESTING_PROGRAM_H_
#define DWSCONV_CORE_TESTING_PROGRAM_H_

#include <string>

namespace dwsconv {

// What lies between the lines of the text that tests replace.
inline std::string EveryOp() {
  return R"({"format": "tf_dwsconv.program", "version": 1, "dtype": "float32",
 "inputs": [{"name": "image", "tensor": 0, "shape": [null, 8, 8, 3]}],
 "outputs": [{"name": "probabilities", "tensor": 18}, {"name": "map", "tensor": 7},
  {"name": "pixels", "tensor": 21}],
 "weights": {"count": 400, "tensors": [
  {"name": "stem", "offset": 0, "shape": [3, 3, 3, 4]}, {"name": "bias", "offset": 108, "shape": [4]},
  {"name": "window", "offset": 112, "shape": [3, 3, 4, 1]}, {"name": "point", "offset": 148, "shape": [1, 1, 4, 4]},
  {"name": "gamma", "offset": 164, "shape": [4]}, {"name": "beta", "offset": 168, "shape": [4]},
  {"name": "dense", "offset": 172, "shape": [4, 5]}, {"name": "dense_bias", "offset": 192, "shape": [5]},
  {"name": "shift", "offset": 197, "shape": [5]}]},
 "steps": [
  {"op": "chain", "name": "stem", "x": 0, "output": 1, "weights": {"pointwise_filter": 0, "bias": 1},
   "strides": [2, 2], "padding": [[0, 1], [0, 1]], "activation": {"word": "relu", "max_value": 6.0}},
  {"op": "mean", "name": "squeeze", "x": 1, "output": 2, "keepdims": true},
  {"op": "activation", "name": "factors", "x": 2, "output": 3, "activation": {"word": "sigmoid"}},
  {"op": "chain", "name": "block", "x": 1, "gate": 3, "residual": 1, "output": 4,
   "weights": {"depthwise_filter": 2, "pointwise_filter": 3}, "depthwise_activation": {"word": "silu"}},
  {"op": "normalize", "name": "norm", "x": 4, "output": 5, "weights": {"gamma": 4, "beta": 5}, "epsilon": 0.01},
  {"op": "pad", "name": "pad", "x": 5, "output": 6, "paddings": [[0, 0], [1, 1], [1, 1], [0, 0]], "value": 0.5},
  {"op": "max_pool", "name": "pool", "x": 6, "output": 7, "window": [2, 2]},
  {"op": "average_pool", "name": "smooth", "x": 7, "output": 8, "window": [3, 3], "strides": [1, 1], "padding": "same"},
  {"op": "resize", "name": "up", "x": 8, "output": 9, "scale": [2, 2], "method": "bilinear"},
  {"op": "subtract", "name": "difference", "x": 9, "y": 6, "output": 10},
  {"op": "concatenate", "name": "both", "xs": [9, 10], "output": 11, "axis": 3},
  {"op": "max", "name": "peaks", "x": 11, "output": 12},
  {"op": "reshape", "name": "halves", "x": 12, "output": 13, "shape": [2, -1]},
  {"op": "dense", "name": "logits", "x": 13, "output": 14, "weights": {"filter": 6, "bias": 7}},
  {"op": "add", "name": "shifted", "x": 14, "output": 15, "weights": {"y": 8}, "activation": {"word": "tanh"}},
  {"op": "multiply", "name": "square", "x": 15, "y": 15, "output": 16},
  {"op": "maximum", "name": "larger", "x": 16, "y": 15, "output": 17},
  {"op": "softmax", "name": "probabilities", "x": 17, "output": 18},
  {"op": "crop", "name": "inner", "x": 11, "output": 19, "croppings": [[0, 0], [1, 0], [0, 2], [0, 0]]},
  {"op": "transpose", "name": "turned", "x": 19, "output": 20, "axes": [0, 2, 1, 3]},
  {"op": "depth_to_space", "name": "shuffled", "x": 20, "output": 21, "block": [2, 4], "croppings": [[1, 0], [2, 3]]},
  {"op": "power", "name": "roots", "x": 13, "output": 22, "exponent": 0.5},
  {"op": "matmul", "name": "product", "x": 22, "y": 13, "output": 23, "transpose_y": true}
  ]})";
}

// The text with `from`, which is there once, replaced by `to`.
inline std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  if (at == std::string::npos || text.find(from, at + 1) != std::string::npos) return "not there once: " + from;
  return text.replace(at, from.size(), to);
}

}  // namespace dwsconv

#endif  // DWSCONV_CORE_TESTING_PROGRAM_H_
