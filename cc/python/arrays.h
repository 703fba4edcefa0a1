// NumPy arrays as the kernels want them: a known element type, dense, aligned.
#ifndef DWSCONV_PYTHON_ARRAYS_H_
#define DWSCONV_PYTHON_ARRAYS_H_

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "cc/core/chain.h"

namespace dwsconv {

// No array at all: pybind11::array's own default is an empty one, made by a call into NumPy.
inline pybind11::array NoArray() { return pybind11::reinterpret_steal<pybind11::array>(pybind11::handle()); }

// A dense array and its element type. Keeps the array alive.
struct DenseArray {
  pybind11::array array = NoArray();
  DType dtype = DType::kFloat32;

  const void* data() const { return array.data(); }
  std::vector<int64_t> shape() const { return {array.shape(), array.shape() + array.ndim()}; }
};

// The element type, or TypeError that names the argument. bfloat16 is that of ml_dtypes.
DType DTypeOf(const pybind11::array& array, const char* name);
// "float32", "float16", "bfloat16".
const char* DTypeName(DType dtype);

// What a caller passed as `name`, copied where it is not dense or not aligned to its elements. TypeError for anything
// that is no array of a type that the kernels know.
DenseArray ToDense(pybind11::handle object, const char* name);
// The same, of the element type that x has.
DenseArray ToDense(pybind11::handle object, const char* name, DType dtype);

// `out` as a caller passed it: an array to be written in place, so never a copy. TypeError or ValueError where it is
// not of this type and shape, dense and writeable.
pybind11::array ToOutput(pybind11::handle object, DType dtype, const std::vector<int64_t>& shape);

// A new array for a result: large ones start on a cache line, which lets the kernels write around the caches.
pybind11::array NewOutput(const pybind11::dtype& dtype, const std::vector<int64_t>& shape);

[[noreturn]] void ThrowOutOfMemory(const std::string& message);

bool Overlap(const pybind11::array& a, const pybind11::array& b);

}  // namespace dwsconv

#endif  // DWSCONV_PYTHON_ARRAYS_H_
