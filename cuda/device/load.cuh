// From global to shared memory. Copies are started and not committed.
#ifndef DWSCONV_CUDA_DEVICE_LOAD_CUH_
#define DWSCONV_CUDA_DEVICE_LOAD_CUH_

#include <cstdint>

#include "cuda/device/async_copy.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

// Floats of a bias to shared memory, zeros past its end and where there is none.
template <typename T>
DWS_DEVICE void LoadBias(float* shared, const void* bias, int size, int padded) {
  for (int i = threadIdx.x; i < padded; i += blockDim.x) {
    shared[i] = bias != nullptr && i < size ? Widen(static_cast<const T*>(bias)[i]) : 0.f;
  }
}

// The taps of a depthwise filter to shared memory, zeros past its channels. Whether this thread saw one that is
// infinite or no number.
template <typename T, int kTaps>
DWS_DEVICE bool LoadDepthwise(T* shared, const void* d, int channels, int padded) {
  bool infinite = false;
  for (int i = threadIdx.x; i < kTaps * padded; i += blockDim.x) {
    const int tap = i / padded, channel = i - tap * padded;
    const T weight = channel < channels ? static_cast<const T*>(d)[tap * channels + channel] : Narrow<T>(0.f);
    shared[i] = weight;
    infinite = infinite || !IsFinite(Widen(weight));
  }
  return infinite;
}

// P to shared memory, zeros where row >= valid_rows or column >= valid_columns: columns where Policy::Column puts them.
// `columns` is a multiple of what that permutes. The copies are not committed.
template <typename Policy>
DWS_DEVICE void LoadPointwise(typename Policy::Element* shared, int shared_pitch,
                              const typename Policy::Element* global, int64_t global_pitch, int rows, int columns,
                              int valid_rows, int valid_columns, bool vector) {
  using T = typename Policy::Element;
  constexpr int kVector = 16 / sizeof(T);
  if (vector && Policy::kPermuted) {
    const int pieces = columns / kVector;
    for (int i = threadIdx.x; i < rows * pieces; i += blockDim.x) {
      const int row = i / pieces, column = (i - row * pieces) * kVector;
      const bool valid = row < valid_rows && column < valid_columns;
      const uint4 four =
          valid ? *reinterpret_cast<const uint4*>(global + row * global_pitch + column) : make_uint4(0, 0, 0, 0);
      const uint32_t words[4] = {four.x, four.y, four.z, four.w};
      DWS_UNROLL
      for (int w = 0; w < 4; ++w) {
        *reinterpret_cast<uint32_t*>(shared + row * shared_pitch + Policy::Column(column + 2 * w)) = words[w];
      }
    }
  } else if (vector) {
    const int pieces = columns / kVector;
    for (int i = threadIdx.x; i < rows * pieces; i += blockDim.x) {
      const int row = i / pieces, column = (i - row * pieces) * kVector;
      const bool valid = row < valid_rows && column < valid_columns;
      CopyAsync16(shared + row * shared_pitch + column, global + row * global_pitch + column, valid);
    }
  } else {
    for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) {
      const int row = i / columns, column = i - row * columns;
      const bool valid = row < valid_rows && column < valid_columns;
      shared[row * shared_pitch + Policy::Column(column)] =
          valid ? global[row * global_pitch + column] : Narrow<T>(0.f);
    }
  }
}

// Starts the copy of kRows x kColumns elements to shared memory, zeros past rows_left and columns_left. `vector`: rows
// are whole 16-byte vectors, and the pointer is aligned to them.
template <typename T, int kRows, int kColumns, int kThreads>
DWS_DEVICE void LoadBlock(T* shared, int shared_pitch, const T* global, int global_pitch, int rows_left,
                          int columns_left, bool vector) {
  constexpr int kVector = 16 / sizeof(T), kPieces = kColumns / kVector;
  static_assert(kRows * kPieces % kThreads == 0, "every thread copies as much");
  if (vector) {
    DWS_UNROLL
    for (int i = 0; i < kRows * kPieces / kThreads; ++i) {
      const int piece = i * kThreads + threadIdx.x;
      const int row = piece / kPieces, column = piece % kPieces * kVector;
      const bool valid = row < rows_left && column < columns_left;
      CopyAsync16(shared + row * shared_pitch + column, valid ? global + int64_t{row} * global_pitch + column : global,
                  valid);
    }
  } else {
    for (int i = threadIdx.x; i < kRows * kColumns; i += kThreads) {
      const int row = i / kColumns, column = i % kColumns;
      const bool valid = row < rows_left && column < columns_left;
      shared[row * shared_pitch + column] = valid ? global[int64_t{row} * global_pitch + column] : Narrow<T>(0.f);
    }
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEVICE_LOAD_CUH_
