// A program that holds a card of 9.0 to what the kernels for 9.0a take for granted: which thread has what of wgmma's
// sums and left side, how matrices lie in shared memory for it, where the copy engine puts a tile, and that phases end.
// Small whole numbers, so every result is exact. Says what is off, and returns 1 then. Compiled over shim.h it holds
// that to the same.
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cuda/device/element.cuh"
#include "cuda/device/hopper.cuh"
#include "cuda/testing/layouts.cuh"

namespace dwsconv {
namespace cuda {
namespace {

// kDepth: of the sum's index, in elements of 16 bits. Of floats half as many are as many bytes.
constexpr int kDepth = 64, kSums = 64;
template <typename T>
constexpr int kDepthOf = kDepth * 2 / static_cast<int>(sizeof(T));
constexpr int kLeftBytes = kGroupRows * kDepth * 2, kRightBytes = kGroupColumns * kDepth * 2;

// A matrix as kernels may have it in shared memory: of 64 of the sum's index, and of kGroupRows or kGroupColumns.
struct Form {
  const char* name;
  Major major;
  Swizzle swizzle;
  int leading_bytes, stride_bytes, step_bytes;  // step: from 16 of the sum's index to the next
  // Where an element of 16 bits lies, in bytes, of this many of the outer index.
  int (*at)(int outer, int depth, int count);
};

// In a form's numbers: as many of the outer index as there are, in pieces of 128 bytes.
constexpr int kOuterPieces = -1, kTwoOuterPieces = -2;
int Bytes(int number, int count) { return number < 0 ? -number * count / 8 * 128 : number; }

const Form kForms[] = {
    {"rows of the sum's index, permuted", Major::kDepth, Swizzle::k128, 16, 1024, 32,
     [](int o, int k, int) { return o * 128 + ((k / 8) ^ (o % 8)) * 16 + k % 8 * 2; }},
    {"rows of the outer index, permuted", Major::kOuter, Swizzle::k128, kDepth * 128, 1024, 2048,
     [](int o, int k, int) { return o / 64 * kDepth * 128 + k * 128 + ((o / 8 % 8) ^ (k % 8)) * 16 + o % 8 * 2; }},
    {"pieces, rows of the sum's index", Major::kDepth, Swizzle::kNone, kOuterPieces, 128, kTwoOuterPieces,
     [](int o, int k, int count) { return (k / 8 * (count / 8) + o / 8) * 128 + o % 8 * 16 + k % 8 * 2; }},
    {"pieces, rows of the outer index", Major::kOuter, Swizzle::kNone, kOuterPieces, 128, kTwoOuterPieces,
     [](int o, int k, int count) { return (k / 8 * (count / 8) + o / 8) * 128 + k % 8 * 16 + o % 8 * 2; }},
};

struct ProductArgs {
  const unsigned char *a, *b;  // as shared memory has them; of registers: [64, kDepth] elements
  float* sums;                 // [threads, kSums]
  int a_leading, a_stride, a_step, b_leading, b_stride, b_step;
  Swizzle a_swizzle, b_swizzle;
};

DWS_DEVICE char* Begin1024(char* shared) { return shared + (0u - SharedAddress(shared)) % 1024u; }

template <typename T, bool kRegisters, Major kA, Major kB>
__global__ void __launch_bounds__(kWarpgroup) GroupProductKernel(const ProductArgs args) {
#if DWS_HAS_HOPPER
  char* const a = Begin1024(SharedMemory());
  char* const b = a + kLeftBytes;
  for (int i = threadIdx.x; i < kLeftBytes; i += kWarpgroup) a[i] = static_cast<char>(args.a[i]);
  for (int i = threadIdx.x; i < kRightBytes; i += kWarpgroup) b[i] = static_cast<char>(args.b[i]);
  FenceStores();
  SyncBlock();
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
  Sums sums;
  ClearSums(sums);
  FenceProducts();
  DWS_UNROLL
  for (int k = 0; k < kDepth / 16; ++k) {  // of 32 bytes of the sum's index
    const uint64_t right = MatrixAt(b + k * args.b_step, args.b_leading, args.b_stride, args.b_swizzle);
    if constexpr (kRegisters) {
      uint32_t words[4];
      DWS_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int at = (row + i % 2 * 8) * kDepth + k * 16 + i / 2 * 8 + lane % 4 * 2;
        words[i] = *reinterpret_cast<const uint32_t*>(args.a + 2 * at);
      }
      FenceProducts();
      MultiplyGroup<kB>(sums, words, right, k > 0, T());
    } else {
      const uint64_t left = MatrixAt(a + k * args.a_step, args.a_leading, args.a_stride, args.a_swizzle);
      MultiplyGroup<kA, kB>(sums, left, right, k > 0, T());
    }
  }
  CommitProducts();
  WaitForProducts(sums);
  DWS_UNROLL
  for (int i = 0; i < kSums; ++i) args.sums[threadIdx.x * kSums + i] = sums[i / kTileSums][i % kTileSums];
#endif
}

// low_bits: what the bits hold that TF32 has not.
template <typename T>
std::vector<unsigned char> Image(int bytes, int count, int (*number)(int, int), const std::function<int(int, int)>& at,
                                 uint32_t low_bits) {
  std::vector<unsigned char> image(bytes);
  for (int o = 0; o < count; ++o) {
    for (int k = 0; k < kDepthOf<T>; ++k) {
      const float number_there = static_cast<float>(number(o, k));
      uint32_t bits = 0;
      if constexpr (sizeof(T) == 2) {
        bits = FromFloat<T>(number_there).bits;
      } else {
        memcpy(&bits, &number_there, 4);
        bits |= low_bits;
      }
      memcpy(image.data() + at(o, k * static_cast<int>(sizeof(T)) / 2), &bits, sizeof(T));
    }
  }
  return image;
}

template <typename T>
auto KernelFor(const Form* left, const Form& right) {
  constexpr Major kD = Major::kDepth, kO = Major::kOuter;
  if constexpr (sizeof(T) == 4) {
    return GroupProductKernel<T, false, kD, kD>;
  } else {
    const bool outer = right.major == kO;
    if (left == nullptr) return outer ? GroupProductKernel<T, true, kD, kO> : GroupProductKernel<T, true, kD, kD>;
    if (left->major == kD) return outer ? GroupProductKernel<T, false, kD, kO> : GroupProductKernel<T, false, kD, kD>;
    return outer ? GroupProductKernel<T, false, kO, kO> : GroupProductKernel<T, false, kO, kD>;
  }
}

template <typename T>
int CheckGroupProduct(const std::string& type, const Form* left, const Form& right, uint32_t low_bits = 0) {
  const auto in = [](const Form& form, int count) {
    return [&form, count](int o, int k) { return form.at(o, k, count); };
  };
  const auto plain = [](int o, int k) { return (o * kDepth + k) * 2; };
  std::function<int(int, int)> left_at = plain;
  if (left != nullptr) left_at = in(*left, kGroupRows);
  DeviceArray<unsigned char> a(Image<T>(kLeftBytes, kGroupRows, Left, left_at, low_bits));
  DeviceArray<unsigned char> b(Image<T>(
      kRightBytes, kGroupColumns, [](int o, int k) { return Right(k, o); }, in(right, kGroupColumns), low_bits));
  DeviceArray<float> sums(std::vector<float>(kWarpgroup * kSums, -1e9f));
  const Form& l = left != nullptr ? *left : right;
  const ProductArgs args{a.data,
                         b.data,
                         sums.data,
                         Bytes(l.leading_bytes, kGroupRows),
                         l.stride_bytes,
                         Bytes(l.step_bytes, kGroupRows),
                         Bytes(right.leading_bytes, kGroupColumns),
                         right.stride_bytes,
                         Bytes(right.step_bytes, kGroupColumns),
                         l.swizzle,
                         right.swizzle};
  const char* const error =
      LaunchKernel(KernelFor<T>(left, right), 1, kWarpgroup, 1024 + kLeftBytes + kRightBytes, nullptr, args);
  const std::vector<float> actual = sums.Read();
  int wrong = 0;
  for (int thread = 0; thread < kWarpgroup; ++thread) {
    for (int i = 0; i < kSums; ++i) {
      const int j = i / 16, half = i % 16 / 8, m = i % 8 / 4, e = i % 4;
      const int row = thread / 32 * 16 + thread % 32 / 4 + e / 2 * 8;
      const int column = m * 64 + j * 16 + half * 8 + thread % 4 * 2 + e % 2;
      int expected = 0;
      for (int k = 0; k < kDepthOf<T>; ++k) expected += Left(row, k) * Right(k, column);
      wrong += actual[thread * kSums + i] != static_cast<float>(expected);
    }
  }
  const std::string what = type + (left != nullptr ? left->name : "registers") + " x " + right.name;
  return Report(what.c_str(), wrong, error);
}

// Bits: of an element, uint16_t or uint32_t.
template <typename Bits>
struct CopyArgs {
  TensorMap map;
  const Bits* from;
  Bits *line, *tiles;  // [kLine], [2, kTileRows * columns of a tile]
};
constexpr int kLine = 1000, kTileRows = 40, kMatrixRows = 50, kMatrixColumns = 72;
template <typename Bits>
constexpr int kTileColumnsOf = kMapRowBytes / static_cast<int>(sizeof(Bits));

// A line of bytes, then two tiles in turn by one barrier, the second one mostly outside the matrix.
template <typename Bits>
__global__ void __launch_bounds__(32) CopyKernel(const DWS_GRID_CONSTANT CopyArgs<Bits> args) {
#if DWS_HAS_HOPPER
  Bits* const tile = reinterpret_cast<Bits*>(Begin1024(SharedMemory()));
  constexpr int kTile = kTileRows * kTileColumnsOf<Bits>, kBytes = static_cast<int>(sizeof(Bits));
  Bits* const line = tile + kTile;
  uint64_t* const barrier = reinterpret_cast<uint64_t*>(line + kLine);
  if (threadIdx.x == 0) {
    InitPhases(barrier, 1);
    FencePhases();
  }
  SyncBlock();
  for (int turn = 0; turn < 2; ++turn) {
    if (threadIdx.x == 0) {
      ArriveExpecting(barrier, kTile * kBytes + (turn == 0 ? kLine * kBytes : 0));
      BulkTile(tile, args.map, turn * 30, turn * kTileColumnsOf<Bits>, barrier);
      if (turn == 0) BulkCopy(line, args.from, kLine * kBytes, barrier);
    }
    WaitForPhase(barrier, turn);
    for (int i = threadIdx.x; i < kTile; i += 32) args.tiles[turn * kTile + i] = tile[i];
    FenceStores();
    SyncBlock();
  }
  for (int i = threadIdx.x; i < kLine; i += 32) args.line[i] = line[i];
#endif
}

template <typename Bits>
int CheckCopies(const char* what) {
  constexpr int kColumns = kTileColumnsOf<Bits>, kTile = kTileRows * kColumns, kBytes = static_cast<int>(sizeof(Bits));
  constexpr int kVector = 16 / kBytes;
  std::vector<Bits> numbers;
  for (int i = 0; i < kMatrixRows * kMatrixColumns; ++i) numbers.push_back(static_cast<Bits>(i + 1));
  DeviceArray<Bits> from(numbers), line{std::vector<Bits>(kLine)}, tiles{std::vector<Bits>(2 * kTile)};
  CopyArgs<Bits> args{{}, from.data, line.data, tiles.data};
  const char* error = MakeTensorMap(from.data, kMatrixRows, kMatrixColumns, kTileRows, &args.map, kBytes);
  const int shared_bytes = 1024 + (kTile + kLine) * kBytes + 8;
  if (*error == '\0') error = LaunchKernel(CopyKernel<Bits>, 1, 32, shared_bytes, nullptr, args);
  const std::vector<Bits> found = line.Read(), tile = tiles.Read();
  int wrong = 0;
  for (int i = 0; i < kLine; ++i) wrong += found[i] != static_cast<Bits>(i + 1);
  for (int turn = 0; turn < 2; ++turn) {
    for (int r = 0; r < kTileRows; ++r) {
      for (int c = 0; c < kColumns; ++c) {
        const int row = turn * 30 + r, column = turn * kColumns + c;
        const int expected = row < kMatrixRows && column < kMatrixColumns ? row * kMatrixColumns + column + 1 : 0;
        const int at = ((c / kVector) ^ (r % 8)) * kVector + c % kVector;
        wrong += tile[turn * kTile + r * kColumns + at] != static_cast<Bits>(expected);
      }
    }
  }
  return Report(what, wrong, error);
}

template <typename T>
int CheckGroupProducts(const std::string& type) {
  int failed = 0;
  for (const Form& right : kForms) {
    failed += CheckGroupProduct<T>(type, nullptr, right);
    for (const Form& left : kForms) failed += CheckGroupProduct<T>(type, &left, right);
  }
  return failed;
}

// TF32 takes matrices of the sum's index side by side alone, and is to drop the bits that it has not: the kernels round
// what is not to be cut off.
int CheckTf32() {
  int failed = 0;
  for (const Form& right : kForms) {
    for (const Form& left : kForms) {
      if (left.major == Major::kOuter || right.major == Major::kOuter) continue;
      failed += CheckGroupProduct<float>("wgmma of TF32, ", &left, right);
    }
  }
  return failed + CheckGroupProduct<float>("wgmma of TF32 with bits to drop, ", &kForms[0], kForms[0], 0x1fff);
}

}  // namespace
}  // namespace cuda
}  // namespace dwsconv

int main() {
  using namespace dwsconv;
  using namespace dwsconv::cuda;
  int failed = CheckCopies<uint16_t>("bulk copies of 16 bits") + CheckCopies<uint32_t>("bulk copies of 32 bits");
  failed += CheckGroupProducts<Float16>("wgmma of float16, ");
  failed += CheckGroupProducts<BFloat16>("wgmma of bfloat16, ");
  failed += CheckTf32();
  return failed == 0 ? 0 : 1;
}
