// How the bulk copy engine of 9.0 finds tiles of a matrix in global memory. Plain C++ but for the type.
#ifndef DWSCONV_CUDA_DEVICE_TENSOR_MAP_H_
#define DWSCONV_CUDA_DEVICE_TENSOR_MAP_H_

#include <cstdint>

namespace dwsconv {
namespace cuda {

// What the driver makes of it: a kernel takes it by value, as a __grid_constant__ argument. Aligned as CUDA 13 has it.
struct alignas(128) TensorMap {
  unsigned char bytes[128];
};

// A tile's row in shared memory: 64 elements of 16 bits, or 32 floats. Its 16-byte pieces lie permuted, piece i of row
// r at i ^ r % 8, so that neither the copy engine nor wgmma finds two of them in the same banks.
constexpr int kMapRowBytes = 128;
constexpr int kMapColumns = kMapRowBytes / 2;

// Tiles of `tile_rows` rows (at most 256) and kMapRowBytes of a matrix [rows, columns] of elements of 2 or 4 bytes,
// whose pointer and rows are whole vectors of 16 bytes. What of a tile is outside the matrix is zeros. "" or what CUDA
// says.
const char* MakeTensorMap(const void* matrix, int64_t rows, int64_t columns, int tile_rows, TensorMap* map,
                          int element_bytes = 2);

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEVICE_TENSOR_MAP_H_
