// The instructions by which a warp loads matrices and multiplies them.
#include <cstdint>
#include <cstring>

#include "cc/core/half.h"
#include "cuda/testing/shim_state.h"

namespace dwsconv {
namespace cuda {
namespace shim {

float WidenHalf(uint32_t word, int half, Product product) {
  const uint16_t bits = static_cast<uint16_t>(word >> (16 * half));
  return product == Product::kFloat16 ? ToFloat(Float16{bits}) : ToFloat(BFloat16{bits});
}

namespace {

int64_t bank_conflicts = 0, repairs = 0;

float AsFloat(uint32_t word) {
  float value;
  memcpy(&value, &word, 4);
  return value;
}

// Element (row, k) of a, of which lane (row % 8) * 4 + t holds its share: see MultiplyAdd in fragments.cuh.
float ElementOfA(const Deposit* warp, int row, int k, Product product) {
  if (product == Product::kTf32) return AsFloat(warp[row % 8 * 4 + k % 4].words[row / 8 + k / 4 * 2]);
  return WidenHalf(warp[row % 8 * 4 + k % 8 / 2].words[row / 8 + k / 8 * 2], k % 2, product);
}

float ElementOfB(const Deposit* warp, int k, int column, Product product) {
  if (product == Product::kTf32) return AsFloat(warp[column * 4 + k % 4].words[4 + k / 4]);
  return WidenHalf(warp[column * 4 + k % 8 / 2].words[4 + k / 8], k % 2, product);
}

}  // namespace

void LoadMatrices(uint32_t* words, const void* row, bool transposed) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0 || !IsShared(row, 16)) {
    Fail("a row of a matrix that is outside shared memory, or askew");
  }
  const Deposit* const warp = Exchange({transposed ? "ldmatrix.trans" : "ldmatrix", {}, row});
  const int lane = Current() % kWarp;
  for (int matrix = 0; matrix < 4; ++matrix) {
    const Deposit* const rows = warp + matrix * 8;
    const auto element = [rows](int i, int j) {
      uint16_t bits;
      memcpy(&bits, static_cast<const char*>(rows[i].address) + 2 * j, 2);
      return static_cast<uint32_t>(bits);
    };
    const int i = lane / 4, j = lane % 4 * 2;
    words[matrix] = transposed ? element(j, i) | element(j + 1, i) << 16 : element(i, j) | element(i, j + 1) << 16;
    if (lane == 0) {
      uint32_t banks = 0;
      for (int r = 0; r < 8; ++r) {
        const uint32_t bank = 1u << reinterpret_cast<uintptr_t>(rows[r].address) / 16 % 8;
        if ((banks & bank) != 0) ++bank_conflicts;
        banks |= bank;
      }
    }
  }
  // The matrices must not be written before all have read them.
  Exchange({"ldmatrix", {}, nullptr});
}

void MultiplyAdd(float* sums, const uint32_t* a, uint32_t b0, uint32_t b1, Product product) {
  const Deposit* const warp = Exchange({"mma", {a[0], a[1], a[2], a[3], b0, b1}, nullptr});
  const int lane = Current() % kWarp, depth = product == Product::kTf32 ? 8 : 16;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    double sum = sums[i];
    for (int k = 0; k < depth; ++k) {
      sum += static_cast<double>(ElementOfA(warp, row, k, product)) * ElementOfB(warp, k, column, product);
    }
    sums[i] = static_cast<float>(sum);
  }
}

void NoteRepair() { ++repairs; }

}  // namespace shim
}  // namespace cuda
}  // namespace dwsconv

extern "C" {

// Matrices loaded so far of which two rows lay in the same banks.
int64_t dwsconv_shim_bank_conflicts() { return dwsconv::cuda::shim::bank_conflicts; }

// How often so far somebody computed again what was not finite.
int64_t dwsconv_shim_repairs() { return dwsconv::cuda::shim::repairs; }

}  // extern "C"
