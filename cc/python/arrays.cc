#include "cc/python/arrays.h"

#include <atomic>
#include <cstdlib>
#include <new>
#include <string>

#include "cc/core/aligned_buffer.h"
#include "cc/core/words.h"

namespace dwsconv {
namespace py = pybind11;
namespace {

using Flags = py::detail::npy_api::constants;

// ml_dtypes registers its type at run time, so NumPy's number for it is found once by name.
std::atomic<int> bfloat16_number{-1};

bool IsBfloat16(const py::dtype& dtype) {
  const int known = bfloat16_number.load(std::memory_order_relaxed);
  if (known >= 0) return dtype.num() == known;
  if (dtype.num() < Flags::NPY_VOID_ || dtype.itemsize() != 2) return false;
  if (dtype.attr("name").cast<std::string>() != "bfloat16") return false;
  bfloat16_number.store(dtype.num(), std::memory_order_relaxed);
  return true;
}

std::string Describe(py::handle object) { return py::repr(object).cast<std::string>(); }

bool IsAligned(const py::array& array) {
  return reinterpret_cast<uintptr_t>(array.data()) % static_cast<uintptr_t>(array.itemsize()) == 0;
}

}  // namespace

void ThrowOutOfMemory(const std::string& message) {
  PyErr_SetString(PyExc_MemoryError, message.c_str());
  throw py::error_already_set();
}

DType DTypeOf(const py::array& array, const char* name) {
  const py::dtype dtype = array.dtype();
  const char order = dtype.byteorder();
  if (order == '=' || order == '|') {
    if (dtype.num() == Flags::NPY_FLOAT_) return DType::kFloat32;
    if (dtype.kind() == 'f' && dtype.itemsize() == 2) return DType::kFloat16;
    if (IsBfloat16(dtype)) return DType::kBFloat16;
  }
  throw py::type_error(std::string(name) +
                       " must have dtype float32, float16 or bfloat16 (ml_dtypes), in native byte order, but has " +
                       Describe(dtype));
}

const char* DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat16:
      return "float16";
  }
  return "?";
}

DenseArray ToDense(py::handle object, const char* name) {
  DenseArray dense;
  if (py::isinstance<py::array>(object)) {
    dense.array = py::reinterpret_borrow<py::array>(object);
  } else {
    dense.array = py::array::ensure(object);
    if (!dense.array) {
      throw py::type_error(std::string(name) + " must be a NumPy array, but is a " + Py_TYPE(object.ptr())->tp_name);
    }
  }
  dense.dtype = DTypeOf(dense.array, name);
  if ((dense.array.flags() & py::array::c_style) == 0 || !IsAligned(dense.array)) {
    dense.array = py::array::ensure(dense.array, py::array::c_style | Flags::NPY_ARRAY_ALIGNED_);
    if (!dense.array) throw std::bad_alloc();
  }
  return dense;
}

DenseArray ToDense(py::handle object, const char* name, DType dtype) {
  DenseArray dense = ToDense(object, name);
  if (dense.dtype != dtype) {
    throw py::type_error(std::string(name) + " must have the dtype of the other arrays, " + DTypeName(dtype) +
                         ", but has " + DTypeName(dense.dtype));
  }
  return dense;
}

py::array ToOutput(py::handle object, DType dtype, const std::vector<int64_t>& shape) {
  if (!py::isinstance<py::array>(object)) {
    throw py::type_error(std::string("out must be None or a NumPy array, but is a ") + Py_TYPE(object.ptr())->tp_name);
  }
  py::array array = py::reinterpret_borrow<py::array>(object);
  const DType given = DTypeOf(array, "out");
  if (given != dtype) {
    throw py::type_error(std::string("out must have the dtype of x, ") + DTypeName(dtype) + ", but has " +
                         DTypeName(given));
  }
  const std::vector<int64_t> given_shape(array.shape(), array.shape() + array.ndim());
  if (given_shape != shape) {
    throw py::value_error("out must have shape " + Show(shape) + ", but its shape is " + Show(given_shape));
  }
  if ((array.flags() & py::array::c_style) == 0) throw py::value_error("out must be C-contiguous, but is not");
  if (!array.writeable()) throw py::value_error("out must be writeable, but is read-only");
  return array;
}

py::array NewOutput(const py::dtype& dtype, const std::vector<int64_t>& shape) {
  constexpr int64_t kLargeBytes = 1 << 20;
  int64_t bytes = dtype.itemsize();
  for (int64_t size : shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) throw std::bad_alloc();
  }
  if (bytes < kLargeBytes) return py::array(dtype, shape);
  AlignedBuffer<char> memory = AllocateAligned<char>(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  char* const data = memory.get();
  const py::capsule owner(data, [](void* p) { std::free(p); });
  memory.release();
  return py::array(dtype, shape, data, owner);
}

bool Overlap(const py::array& a, const py::array& b) {
  const auto a_begin = reinterpret_cast<uintptr_t>(a.data()), b_begin = reinterpret_cast<uintptr_t>(b.data());
  const auto a_bytes = static_cast<uintptr_t>(a.nbytes()), b_bytes = static_cast<uintptr_t>(b.nbytes());
  return a_bytes > 0 && b_bytes > 0 && a_begin < b_begin + b_bytes && b_begin < a_begin + a_bytes;
}

}  // namespace dwsconv
