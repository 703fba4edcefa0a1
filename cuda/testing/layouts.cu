// A program that holds the card to what the kernels take for granted of its matrix instructions: which lane has what of
// ldmatrix and of mma's operands, and what the byte permutations, the clamps and the barriers of groups do. Small whole
// numbers, so every result is exact. Says what is off, and returns 1 then. Compiled over shim.h it holds that to the
// same.
#include <cstdint>
#include <cstring>
#include <vector>

#include "cuda/device/element.cuh"
#include "cuda/device/fragments.cuh"
#include "cuda/device/platform.cuh"
#include "cuda/testing/layouts.cuh"

namespace dwsconv {
namespace cuda {
namespace {

constexpr int kDepth = 32, kColumns = 64;  // rows: kWarpRows
constexpr int kOutputs = kWarpRows * kColumns;

template <typename T>
struct LayoutArgs {
  const T *z, *p;  // [32, kDepth], [kDepth, 64]
  float* sums;     // [32, 64]
  uint32_t* words;
};

// A product of one warp, as the kernels compute it.
template <typename Policy>
__global__ void ProductKernel(const LayoutArgs<typename Policy::Element> args) {
  using T = typename Policy::Element;
  constexpr int kZPitch = kDepth + (sizeof(T) == 2 ? 8 : 4), kPPitch = kColumns + 8;
  T* const z = reinterpret_cast<T*>(SharedMemory());
  T* const p = z + kWarpRows * kZPitch;
  for (int i = threadIdx.x; i < kWarpRows * kDepth; i += 32) z[i / kDepth * kZPitch + i % kDepth] = args.z[i];
  for (int i = threadIdx.x; i < kColumns * kDepth; i += 32) p[i / kColumns * kPPitch + i % kColumns] = args.p[i];
  SyncGroup(3, 32);
  const int lane = threadIdx.x % 32;
  Sums sums;
  ClearSums(sums);
  Policy::Multiply(sums, z, kZPitch, p, kPPitch, kDepth, kTiles, lane);
  Policy::ForEach(sums, lane, kTiles, [&](int i, int column, const float* pair) {
    args.sums[Policy::Row(lane, i) * kColumns + column] = pair[0];
    args.sums[Policy::Row(lane, i) * kColumns + column + 1] = pair[1];
  });
}

// Of each lane: four words of ldmatrix, four of its transposed form, two permutations, a clamp, a shuffle, and whether
// any thread of the block said so.
constexpr int kWords = 13;

template <typename T>
__global__ void WordsKernel(const LayoutArgs<T> args) {
  T* const rows = reinterpret_cast<T*>(SharedMemory());  // 32 rows of 8 elements: number 8 * row + column
  for (int i = threadIdx.x; i < 32 * 8; i += 32) rows[i].bits = static_cast<uint16_t>(i);
  SyncBlock();
  const int lane = threadIdx.x % 32;
  uint32_t plain[4], transposed[4];
  LoadMatrices(plain, rows + lane * 8);
  LoadMatricesTransposed(transposed, rows + lane * 8);
  uint32_t* const words = args.words + lane * kWords;
  DWS_UNROLL
  for (int i = 0; i < 4; ++i) {
    words[i] = plain[i];
    words[4 + i] = transposed[i];
  }
  words[8] = PairHalves(0x22221111u, 0x44443333u, 0);
  words[9] = PairHalves(0x22221111u, 0x44443333u, 1);
  const float values[2] = {-1.f - static_cast<float>(lane), static_cast<float>(lane)}, limits[2] = {6.f, 6.f};
  words[10] = ClampWord(NarrowWord(values, T()), 0u, NarrowWord(limits, T()), T());
  words[11] = ShuffleXor(static_cast<uint32_t>(lane), 2);
  words[12] = SyncBlockOr(lane == 17) ? 1u : 0u;
}

template <typename Policy>
int CheckProduct(const char* what) {
  using T = typename Policy::Element;
  std::vector<T> z, p;
  for (int i = 0; i < kWarpRows * kDepth; ++i) {
    z.push_back(FromFloat<T>(static_cast<float>(Left(i / kDepth, i % kDepth))));
  }
  for (int i = 0; i < kDepth * kColumns; ++i) {
    p.push_back(FromFloat<T>(static_cast<float>(Right(i / kColumns, i % kColumns))));
  }
  DeviceArray<T> device_z(z), device_p(p);
  DeviceArray<float> sums(std::vector<float>(kOutputs, -1e9f));
  const LayoutArgs<T> args{device_z.data, device_p.data, sums.data, nullptr};
  const int64_t bytes = (kWarpRows * (kDepth + 8) + kDepth * (kColumns + 8)) * static_cast<int64_t>(sizeof(T));
  const char* const error = LaunchKernel(ProductKernel<Policy>, 1, 32, bytes, nullptr, args);
  const std::vector<float> actual = sums.Read();
  int wrong = 0;
  for (int i = 0; i < kWarpRows; ++i) {
    for (int j = 0; j < kColumns; ++j) {
      int expected = 0;
      for (int k = 0; k < kDepth; ++k) expected += Left(i, k) * Right(k, j);
      wrong += actual[i * kColumns + j] != static_cast<float>(expected);
    }
  }
  return Report(what, wrong, error);
}

template <typename T>
int CheckWords(const char* what) {
  DeviceArray<uint32_t> words(std::vector<uint32_t>(32 * kWords, 0xffffffffu));
  const LayoutArgs<T> args{nullptr, nullptr, nullptr, words.data};
  const char* const error = LaunchKernel(WordsKernel<T>, 1, 32, 32 * 16, nullptr, args);
  const std::vector<uint32_t> actual = words.Read();
  int wrong = 0;
  for (int lane = 0; lane < 32; ++lane) {
    const uint32_t g = lane / 4, t = lane % 4;
    const uint32_t* const mine = actual.data() + lane * kWords;
    for (uint32_t matrix = 0; matrix < 4; ++matrix) {
      const uint32_t plain = matrix * 64 + g * 8 + 2 * t, transposed = matrix * 64 + 2 * t * 8 + g;
      wrong += mine[matrix] != (plain | (plain + 1) << 16);
      wrong += mine[4 + matrix] != (transposed | (transposed + 8) << 16);
    }
    const float high = lane < 6 ? static_cast<float>(lane) : 6.f;
    const uint32_t clamped = static_cast<uint32_t>(FromFloat<T>(high).bits) << 16;
    wrong += mine[8] != 0x33331111u;
    wrong += mine[9] != 0x44442222u;
    wrong += mine[10] != clamped;
    wrong += mine[11] != static_cast<uint32_t>(lane ^ 2);
    wrong += mine[12] != 1u;
  }
  return Report(what, wrong, error);
}

}  // namespace
}  // namespace cuda
}  // namespace dwsconv

int main() {
  using namespace dwsconv;
  using namespace dwsconv::cuda;
  int failed = 0;
  failed += CheckWords<Float16>("ldmatrix, permutations, clamps, shuffles, barriers, float16");
  failed += CheckProduct<ExactFloat>("products of float32");
  failed += CheckProduct<TensorCores16<Float16>>("mma of float16");
#if !defined(DWSCONV_BEFORE_80)
  failed += CheckWords<BFloat16>("ldmatrix, permutations, clamps, shuffles, barriers, bfloat16");
  failed += CheckProduct<TensorCores16<BFloat16>>("mma of bfloat16");
  failed += CheckProduct<TensorCoresTf32>("mma of tf32");
#endif
  return failed == 0 ? 0 : 1;
}
