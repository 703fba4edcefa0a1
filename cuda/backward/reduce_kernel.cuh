// Sums of columns in two stages of fixed order: parts of them by many blocks, as floats, then the parts in order.
#ifndef DWSCONV_CUDA_BACKWARD_REDUCE_KERNEL_CUH_
#define DWSCONV_CUDA_BACKWARD_REDUCE_KERNEL_CUH_

#include <cstdint>

#include "cuda/backward/derivative.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

constexpr int kColumnThreads = 256;
constexpr int kColumnUnits = 32;  // of a block, at most

struct ColumnArgs {
  const void *gradient, *y;     // [pixels, columns]; y null: the activation is none
  void* to;                     // gradient * activation', or null
  float* sums;                  // [parts, columns], or null
  int64_t pixels, part_pixels;  // of a part
  int64_t items;                // parts * groups
  int64_t units, groups;        // columns in units of kUnit, and blocks of units
  DeviceActivation activation;
};

// One element, or 16 bytes of them, as they lie in memory.
template <typename T, int kUnit>
struct Unit {
  uint4 four;

  DWS_DEVICE void Load(const T* from) { four = *reinterpret_cast<const uint4*>(from); }
  DWS_DEVICE void Widened(float (&values)[kUnit]) const {
    constexpr int kElements = Word<T>::kElements;
    const uint32_t words[4] = {four.x, four.y, four.z, four.w};
    DWS_UNROLL
    for (int w = 0; w < 4; ++w) {
      float some[kElements];
      WidenWord(words[w], some, T());
      DWS_UNROLL
      for (int e = 0; e < kElements; ++e) values[w * kElements + e] = some[e];
    }
  }
  DWS_DEVICE static void Store(T* to, const float (&values)[kUnit]) {
    constexpr int kElements = Word<T>::kElements;
    uint32_t words[4];
    DWS_UNROLL
    for (int w = 0; w < 4; ++w) {
      float some[kElements];
      DWS_UNROLL
      for (int e = 0; e < kElements; ++e) some[e] = values[w * kElements + e];
      words[w] = NarrowWord(some, T());
    }
    *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
  }
};
template <typename T>
struct Unit<T, 1> {
  T one;

  DWS_DEVICE void Load(const T* from) { one = *from; }
  DWS_DEVICE void Widened(float (&values)[1]) const { values[0] = Widen(one); }
  DWS_DEVICE static void Store(T* to, const float (&values)[1]) { *to = Narrow<T>(values[0]); }
};

template <typename T, int kUnit>
DWS_DEVICE void LoadUnit(const T* from, float (&values)[kUnit]) {
  Unit<T, kUnit> unit;
  unit.Load(from);
  unit.Widened(values);
}
template <typename T, int kUnit>
DWS_DEVICE void StoreUnit(T* to, const float (&values)[kUnit]) {
  Unit<T, kUnit>::Store(to, values);
}

constexpr int kColumnRows = 4;  // of a thread, that are on their way at a time

// gradient * activation' of a matrix, and the first stage of the sums of its columns. A block has some units of columns
// of a part's rows, kColumnThreads / units of them at a time.
template <typename T, int kUnit>
__global__ void __launch_bounds__(kColumnThreads) ColumnKernel(const ColumnArgs args) {
  float* const shared = reinterpret_cast<float*>(SharedMemory());
  const int group_units = static_cast<int>((args.units + args.groups - 1) / args.groups);
  const int lanes = kColumnThreads / group_units;
  const int lane = static_cast<int>(threadIdx.x) / group_units, unit_of_group = threadIdx.x % group_units;
  const int64_t columns = args.units * kUnit;
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    const int64_t part = item / args.groups, unit = item % args.groups * group_units + unit_of_group;
    const int64_t begin = part * args.part_pixels;
    const int64_t end = begin + args.part_pixels < args.pixels ? begin + args.part_pixels : args.pixels;
    float sums[kUnit];
    DWS_UNROLL
    for (int e = 0; e < kUnit; ++e) sums[e] = 0.f;
    if (lane < lanes && unit < args.units) {
      const int64_t step = lanes * columns;
      int64_t at = (begin + lane) * columns + unit * kUnit;
      for (int64_t pixel = begin + lane; pixel < end; pixel += kColumnRows * lanes, at += kColumnRows * step) {
        Unit<T, kUnit> gradients[kColumnRows] = {}, ys[kColumnRows] = {};
        DWS_UNROLL
        for (int i = 0; i < kColumnRows; ++i) {
          if (pixel + i * lanes >= end) continue;
          gradients[i].Load(static_cast<const T*>(args.gradient) + at + i * step);
          if (args.y != nullptr) ys[i].Load(static_cast<const T*>(args.y) + at + i * step);
        }
        DWS_UNROLL
        for (int i = 0; i < kColumnRows; ++i) {
          if (pixel + i * lanes >= end) continue;
          float gradient[kUnit];
          gradients[i].Widened(gradient);
          if (args.y != nullptr) {
            float y[kUnit];
            ys[i].Widened(y);
            ScaleAllFromOutput(gradient, y, args.activation);
          }
          DWS_UNROLL
          for (int e = 0; e < kUnit; ++e) sums[e] += gradient[e];
          if (args.to != nullptr) Unit<T, kUnit>::Store(static_cast<T*>(args.to) + at + i * step, gradient);
        }
      }
      DWS_UNROLL
      for (int e = 0; e < kUnit; ++e) shared[(lane * group_units + unit_of_group) * kUnit + e] = sums[e];
    }
    if (args.sums == nullptr) continue;
    SyncBlock();
    for (int i = threadIdx.x; i < group_units * kUnit; i += kColumnThreads) {
      const int64_t column = item % args.groups * group_units * kUnit + i;
      if (column >= columns) continue;
      float sum = shared[i];
      for (int other = 1; other < lanes; ++other) sum += shared[other * group_units * kUnit + i];
      args.sums[part * columns + column] = sum;
    }
    SyncBlock();
  }
}

constexpr int kReduceColumns = 32;  // of a block, at least
constexpr int kMostReduceLanes = 32, kFewestReduceLanes = 8;
constexpr int kMostReductions = 4;
constexpr int kLanesParts = 16;  // that a lane adds up, more or less

// Threads that add up a column's parts: a power of 2 that depends on their number alone.
inline int ReduceLanes(int64_t count) {
  int lanes = 1;
  while (lanes < kMostReduceLanes && lanes * kLanesParts < count) lanes *= 2;
  return lanes;
}

// Sums of parts, of several matrices in one launch.
struct ReduceArgs {
  struct Matrix {
    const float* parts;  // [count, size]
    void* to;            // [size]
    int64_t size, count;
    int64_t blocks;  // that it takes
    int lanes;       // ReduceLanes(count); the block's threads have as many columns as that leaves
  };
  Matrix matrices[kMostReductions];
  int64_t items;  // blocks of all
};

template <typename T>
__global__ void __launch_bounds__(kReduceColumns* kMostReduceLanes) ReduceKernel(const ReduceArgs args) {
  float* const shared = reinterpret_cast<float*>(SharedMemory());
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    int64_t block = item;
    ReduceArgs::Matrix matrix = args.matrices[0];
    DWS_UNROLL
    for (int i = 1; i < kMostReductions; ++i) {
      if (block < matrix.blocks) continue;
      block -= matrix.blocks;
      matrix = args.matrices[i];
    }
    const int columns = static_cast<int>(blockDim.x) / matrix.lanes;
    const int lane = static_cast<int>(threadIdx.x) / columns, column = static_cast<int>(threadIdx.x) - lane * columns;
    const int64_t at = block * columns + column;
    float sum = 0.f;
    if (at < matrix.size) {
      // Four loads under way at a time.
      for (int64_t part = lane; part < matrix.count; part += 4 * matrix.lanes) {
        float four[4];
        DWS_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int64_t one = part + i * matrix.lanes;
          four[i] = one < matrix.count ? matrix.parts[one * matrix.size + at] : 0.f;
        }
        DWS_UNROLL
        for (int i = 0; i < 4; ++i) sum += four[i];
      }
    }
    shared[threadIdx.x] = sum;
    SyncBlock();
    for (int half = matrix.lanes / 2; half > 0; half /= 2) {
      if (lane < half) shared[threadIdx.x] += shared[threadIdx.x + half * columns];
      SyncBlock();
    }
    if (lane == 0 && at < matrix.size) static_cast<T*>(matrix.to)[at] = Narrow<T>(shared[column]);
    SyncBlock();
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_BACKWARD_REDUCE_KERNEL_CUH_
