// What a warp multiplies with: its registers' share of a tile, and the instructions of tensor cores.
#ifndef DWSCONV_CUDA_DEVICE_FRAGMENTS_CUH_
#define DWSCONV_CUDA_DEVICE_FRAGMENTS_CUH_

#include <cstdint>

#include "cuda/device/async_copy.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

#if !defined(DWSCONV_SHIM)

// Four 8x8 matrices of 16-bit elements from shared memory: lane l gives the address of row l % 8 of matrix l / 8 (16
// bytes, aligned), and gets of each matrix elements 2 * (l % 4) and the next of row l / 4.
DWS_DEVICE void LoadMatrices(uint32_t (&words)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(SharedAddress(row))
               : "memory");
}

// The same of the transposed matrices.
DWS_DEVICE void LoadMatricesTransposed(uint32_t (&words)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(SharedAddress(row))
               : "memory");
}

// sums[16 x 8] += a[16 x 16] * b[16 x 8]. Lane l, with g = l / 4 and t = l % 4, holds of the sums rows g and g + 8,
// columns 2t and 2t + 1; of a the same rows, and columns 2t, 2t + 1, then 2t + 8, 2t + 9; of b these as rows, column g.
DWS_DEVICE void MultiplyAdd(float* sums, const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Float16) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

DWS_DEVICE void MultiplyAdd(float* sums, const uint32_t (&a)[4], uint32_t b0, uint32_t b1, BFloat16) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  __trap();  // the planner gives such cards the direct kernel
#endif
}

// The same, but sums = from + a * b.
DWS_DEVICE void MultiplyAddTo(float* sums, const float* from, const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                              Float16) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};\n"
      : "=f"(sums[0]), "=f"(sums[1]), "=f"(sums[2]), "=f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(from[0]), "f"(from[1]), "f"(from[2]),
        "f"(from[3]));
#else
  for (int i = 0; i < 4; ++i) sums[i] = from[i];
  MultiplyAdd(sums, a, b0, b1, Float16());
#endif
}
DWS_DEVICE void MultiplyAddTo(float* sums, const float* from, const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                              BFloat16) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};\n"
      : "=f"(sums[0]), "=f"(sums[1]), "=f"(sums[2]), "=f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(from[0]), "f"(from[1]), "f"(from[2]),
        "f"(from[3]));
#else
  for (int i = 0; i < 4; ++i) sums[i] = from[i];
  MultiplyAdd(sums, a, b0, b1, BFloat16());
#endif
}

// The same with half the depth, 8: a's and b's first halves.
DWS_DEVICE void MultiplyAddHalf(float* sums, uint32_t a0, uint32_t a1, uint32_t b0, Float16) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a0), "r"(a1), "r"(b0));
}

DWS_DEVICE void MultiplyAddHalf(float* sums, uint32_t a0, uint32_t a1, uint32_t b0, BFloat16) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a0), "r"(a1), "r"(b0));
#else
  __trap();
#endif
}

// Words of shared memory, aligned to all of them, in lanes that take part; the others keep what they have. By one
// instruction: a choice would need registers for both, or a move for each word.
DWS_DEVICE void LoadWordsIf(uint32_t (&words)[4], const void* from, bool takes_part) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.s32 p, %5, 0;\n@p ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];\n}\n"
               : "+r"(words[0]), "+r"(words[1]), "+r"(words[2]), "+r"(words[3])
               : "r"(SharedAddress(from)), "r"(static_cast<int>(takes_part))
               : "memory");
}
DWS_DEVICE void LoadWordsIf(uint32_t (&words)[2], const void* from, bool takes_part) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.s32 p, %3, 0;\n@p ld.shared.v2.b32 {%0,%1}, [%2];\n}\n"
               : "+r"(words[0]), "+r"(words[1])
               : "r"(SharedAddress(from)), "r"(static_cast<int>(takes_part))
               : "memory");
}

// sums[16 x 8] += a[16 x 8] * b[8 x 8] in TF32. Lane l holds of a rows g, g + 8, g, g + 8 of columns t, t, t + 4, t +
// 4; of b rows t and t + 4, column g.
DWS_DEVICE void MultiplyAddTf32(float* sums, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  __trap();
#endif
}

// Rounded to TF32, to nearest.
DWS_DEVICE uint32_t ToTf32(float value) {
  uint32_t bits = 0;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(value));
#endif
  return bits;
}

#endif  // DWSCONV_SHIM

// The way a warp holds its sums of 32 rows (pixels) x up to 64 columns (output channels): kSums of them in kTiles tiles
// of 16 columns. A policy has
//   Multiply   sums += rows of Z (in shared memory, from the warp's first) * P (from the warp's first column), over
//              `channels` channels, a multiple of 16, for the first `tiles` tiles. Without a branch where that is a
//              constant;
//   Row(i)     the warp's row that this lane holds as its i-th, for i < kRows;
//   ForEach    f(i, column, pointer to sums): two sums side by side in row i;
//   kPermuted  whether it can take P with its columns permuted, such that a lane's sums of a row are of channels side
//   by
//              side: Column(channel) is where the channel's column lies then.
constexpr int kWarpRows = 32;
constexpr int kTiles = 4;
constexpr int kTileSums = 16;
constexpr int kTileColumns = 16;
template <int kCount>
using TileSums = float[kCount][kTileSums];
using Sums = TileSums<kTiles>;

template <int kCount>
DWS_DEVICE void ClearSums(float (&sums)[kCount][kTileSums]) {
  DWS_UNROLL
  for (int j = 0; j < kCount; ++j) {
    DWS_UNROLL
    for (int i = 0; i < kTileSums; ++i) sums[j][i] = 0.f;
  }
}

// Rows and columns of a 16 x 8 tile's sums, as the tensor cores hold them.
struct TensorCoreSums {
  static constexpr int kRows = 4;

  DWS_DEVICE static int Row(int lane, int i) { return (i >> 1) * 16 + (i & 1) * 8 + (lane >> 2); }

  template <typename F>
  DWS_DEVICE static void ForEach(Sums& sums, int lane, int tiles, F f) {
    DWS_UNROLL
    for (int j = 0; j < kTiles; ++j) {
      if (j >= tiles) continue;
      DWS_UNROLL
      for (int half = 0; half < 2; ++half) {
        DWS_UNROLL
        for (int m = 0; m < 2; ++m) {
          float* const tile = &sums[j][(half * 2 + m) * 4];
          const int column = j * kTileColumns + half * 8 + 2 * (lane & 3);
          f(2 * m, column, tile);
          f(2 * m + 1, column, tile + 2);
        }
      }
    }
  }
};

// float16 and bfloat16 on tensor cores.
template <typename T>
struct TensorCores16 : TensorCoreSums {
  using Element = T;
  static constexpr bool kPermuted = true;

  // Of 32 channels a lane's sums of four tiles of 8 columns hold columns 2t and 2t + 1 each: they get channels 8t to 8t
  // + 7.
  DWS_DEVICE static int Column(int channel) {
    return (channel & ~31) + (channel >> 1 & 3) * 8 + (channel >> 3 & 3) * 2 + (channel & 1);
  }

  DWS_DEVICE static void Multiply(Sums& sums, const T* z, int z_pitch, const T* p, int p_pitch, int channels, int tiles,
                                  int lane) {
    const T* z_row = z + (lane & 15) * z_pitch + (lane >> 4) * 8;
    const T* p_row = p + (lane & 15) * p_pitch + (lane >> 4) * 8;
    // More of it at a time would take registers from the rest of the kernel. There is a first one always.
    DWS_UNROLL_TWICE
    for (int left = channels;; z_row += 16, p_row += 16 * p_pitch) {
      uint32_t a[2][4];
      LoadMatrices(a[0], z_row);
      LoadMatrices(a[1], z_row + 16 * z_pitch);
      DWS_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        if (j >= tiles) continue;
        uint32_t b[4];
        LoadMatricesTransposed(b, p_row + j * kTileColumns);
        DWS_UNROLL
        for (int m = 0; m < 2; ++m) {
          MultiplyAdd(&sums[j][m * 4], a[m], b[0], b[1], T());
          MultiplyAdd(&sums[j][(2 + m) * 4], a[m], b[2], b[3], T());
        }
      }
      left -= 16;
      if (left <= 0) break;
    }
  }
};

// float32 on tensor cores, by the 10 highest bits of the mantissa.
struct TensorCoresTf32 : TensorCoreSums {
  using Element = float;
  static constexpr bool kPermuted = false;
  DWS_DEVICE static int Column(int channel) { return channel; }

  DWS_DEVICE static void Multiply(Sums& sums, const float* z, int z_pitch, const float* p, int p_pitch, int channels,
                                  int tiles, int lane) {
    const int g = lane >> 2, t = lane & 3;
    const float* z_row = z + g * z_pitch + t;
    const float* p_row = p + t * p_pitch + g;
    for (int c = 0; c < channels; c += 8, z_row += 8, p_row += 8 * p_pitch) {
      uint32_t a[2][4];
      DWS_UNROLL
      for (int m = 0; m < 2; ++m) {
        const float* const from = z_row + m * 16 * z_pitch;
        a[m][0] = ToTf32(from[0]);
        a[m][1] = ToTf32(from[8 * z_pitch]);
        a[m][2] = ToTf32(from[4]);
        a[m][3] = ToTf32(from[8 * z_pitch + 4]);
      }
      DWS_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        if (j >= tiles) continue;
        DWS_UNROLL
        for (int half = 0; half < 2; ++half) {
          const float* const from = p_row + j * kTileColumns + half * 8;
          const uint32_t b0 = ToTf32(from[0]), b1 = ToTf32(from[4 * p_pitch]);
          DWS_UNROLL
          for (int m = 0; m < 2; ++m) MultiplyAddTf32(&sums[j][(half * 2 + m) * 4], a[m], b0, b1);
        }
      }
    }
  }
};

// float32 by fused multiply-adds: the lane at (lane / 8, lane % 8) holds rows 4 apart and two columns of each tile,
// side by side.
struct ExactFloat {
  using Element = float;
  static constexpr bool kPermuted = false;
  DWS_DEVICE static int Column(int channel) { return channel; }
  static constexpr int kRows = 8;

  DWS_DEVICE static int Row(int lane, int i) { return (lane >> 3) + 4 * i; }

  DWS_DEVICE static void Multiply(Sums& sums, const float* z, int z_pitch, const float* p, int p_pitch, int channels,
                                  int tiles, int lane) {
    const float* z_row = z + (lane >> 3) * z_pitch;
    const float* p_row = p + (lane & 7) * 2;
    DWS_ROLLED
    for (int c = 0; c < channels; c += 4, z_row += 4) {
      float a[kRows][4];
      DWS_UNROLL
      for (int i = 0; i < kRows; ++i) {
        const float4 four = *reinterpret_cast<const float4*>(z_row + 4 * i * z_pitch);
        a[i][0] = four.x;
        a[i][1] = four.y;
        a[i][2] = four.z;
        a[i][3] = four.w;
      }
      DWS_UNROLL
      for (int e = 0; e < 4; ++e, p_row += p_pitch) {
        DWS_UNROLL
        for (int j = 0; j < kTiles; ++j) {
          if (j >= tiles) continue;
          // Never so. Without a branch the compiler loads ahead more of P than there are registers for.
          if (c + e + j >= channels + kTiles) continue;
          const float2 b = *reinterpret_cast<const float2*>(p_row + j * kTileColumns);
          DWS_UNROLL
          for (int i = 0; i < kRows; ++i) {
            sums[j][2 * i] = fmaf(a[i][e], b.x, sums[j][2 * i]);
            sums[j][2 * i + 1] = fmaf(a[i][e], b.y, sums[j][2 * i + 1]);
          }
        }
      }
    }
  }

  template <typename F>
  DWS_DEVICE static void ForEach(Sums& sums, int lane, int tiles, F f) {
    DWS_UNROLL
    for (int j = 0; j < kTiles; ++j) {
      if (j >= tiles) continue;
      DWS_UNROLL
      for (int i = 0; i < kRows; ++i) f(i, j * kTileColumns + (lane & 7) * 2, &sums[j][2 * i]);
    }
  }
};

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEVICE_FRAGMENTS_CUH_
