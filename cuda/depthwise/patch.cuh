// The depthwise sums of a patch of 4 x 4 output pixels, for the channels of one 4-byte word: what a thread does at a
// time in every kernel with a window of its own.
#ifndef DWSCONV_CUDA_DEPTHWISE_PATCH_CUH_
#define DWSCONV_CUDA_DEPTHWISE_PATCH_CUH_

#include <cstdint>

#include "cuda/device/activation.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

constexpr int kPatch = 4;  // rows and columns of outputs
constexpr int kPatchPixels = kPatch * kPatch;

// A window known when the kernel is compiled: kSize x kSize taps, dilation 1.
template <int kSize_, int kStride_>
struct Window {
  static constexpr int kSize = kSize_, kStride = kStride_;
  static constexpr int kTaps = kSize * kSize;
  static constexpr int kIn = (kPatch - 1) * kStride + kSize;  // rows and columns of X that a patch reads
};

// kElements channels' sums or weights. Groups of 16, as ActivateAll takes them: pixel i, channel e is flat i *
// kElements + e.
template <typename T>
using PatchSums = float[Word<T>::kElements][kPatchPixels];

constexpr uint32_t kAllInside = 0xffffffffu;

// Bit i of the result: whether first + i lies in [0, size).
DWS_DEVICE uint32_t InsideMask(int first, int size, int count) {
  const int low = first < 0 ? -first : 0, high = size - first;
  if (low >= count || high <= low) return 0u;
  const uint32_t below_high = high >= 32 ? 0xffffffffu : (1u << high) - 1u;
  return below_high & ~((1u << low) - 1u);
}

// Word i of a row by load(i), zeros where bit i of `inside` is clear: all of them are under way before the first is
// waited for. Opaque, or the compiler would move each load back to the branch of its use.
template <int kCount, typename Load>
DWS_DEVICE void LoadRow(uint32_t (&words)[kCount], uint32_t inside, Load load) {
  DWS_UNROLL
  for (int i = 0; i < kCount; ++i) words[i] = ((inside >> i) & 1u) != 0 ? load(i) : 0u;
  if (inside == kAllInside) return;
  DWS_UNROLL
  for (int i = 0; i < kCount; ++i) words[i] = Opaque(words[i]);
}

// The taps of one input of the patch, at row j and column i.
template <typename T, typename Win>
DWS_DEVICE void AddInput(PatchSums<T>& sums, const float (&weights)[Win::kTaps][Word<T>::kElements], uint32_t word,
                         int j, int i) {
  constexpr int kElements = Word<T>::kElements;
  float* const flat = &sums[0][0];
  float x[kElements];
  WidenWord(word, x, T());
  DWS_UNROLL
  for (int a = 0; a < kPatch; ++a) {
    const int r = j - a * Win::kStride;
    if (r < 0 || r >= Win::kSize) continue;
    DWS_UNROLL
    for (int b = 0; b < kPatch; ++b) {
      const int s = i - b * Win::kStride;
      if (s < 0 || s >= Win::kSize) continue;
      DWS_UNROLL
      for (int e = 0; e < kElements; ++e) {
        float& sum = flat[(a * kPatch + b) * kElements + e];
        sum = fmaf(x[e], weights[r * Win::kSize + s][e], sum);
      }
    }
  }
}

// Adds the taps of all inputs (row, column) of the patch whose bits are set in both masks; the others are outside the
// image and are left out. load(row) prepares a row, load(row, column) gives the word there. With kAllInside as masks
// the code has no branches.
template <typename T, typename Win, typename Load>
DWS_DEVICE void SumPatch(PatchSums<T>& sums, const float (&weights)[Win::kTaps][Word<T>::kElements], uint32_t rows,
                         uint32_t columns, Load load) {
  // Half a row at a time where the weights leave no registers for a whole one.
  constexpr int kTogether = Win::kSize < 7 ? Win::kIn : Win::kIn / 2;
  static_assert(Win::kIn % kTogether == 0, "halves are whole");
  DWS_UNROLL
  for (int part = 0; part < Win::kIn * (Win::kIn / kTogether); ++part) {
    const int j = part / (Win::kIn / kTogether), first = part % (Win::kIn / kTogether) * kTogether;
    if (((rows >> j) & 1u) == 0) continue;
    const auto row = load(j);
    uint32_t words[kTogether];
    const uint32_t inside = columns == kAllInside ? kAllInside : columns >> first;
    LoadRow<kTogether>(words, inside, [&](int i) { return load(row, first + i); });
    DWS_UNROLL
    for (int i = first; i < first + kTogether; ++i) {
      if (((columns >> i) & 1u) == 0) continue;
      AddInput<T, Win>(sums, weights, words[i - first], j, i);
    }
  }
}

// The same with kRows rows under way at a time, where there are registers for them.
template <typename T, typename Win, int kRows, typename Load>
DWS_DEVICE void SumPatchAhead(PatchSums<T>& sums, const float (&weights)[Win::kTaps][Word<T>::kElements], uint32_t rows,
                              uint32_t columns, Load load) {
  DWS_UNROLL
  for (int first = 0; first < Win::kIn; first += kRows) {
    uint32_t words[kRows][Win::kIn];
    DWS_UNROLL
    for (int j = 0; j < kRows && first + j < Win::kIn; ++j) {
      const auto row = load(first + j);
      LoadRow<Win::kIn>(words[j], ((rows >> (first + j)) & 1u) != 0 ? columns : 0u,
                        [&](int i) { return load(row, i); });
    }
    DWS_UNROLL
    for (int j = 0; j < kRows && first + j < Win::kIn; ++j) {
      if (((rows >> (first + j)) & 1u) == 0) continue;
      DWS_UNROLL
      for (int i = 0; i < Win::kIn; ++i) {
        if (((columns >> i) & 1u) == 0) continue;
        AddInput<T, Win>(sums, weights, words[j][i], first + j, i);
      }
    }
  }
}

// What SumPatch loads from a ring of rows in shared memory: `ring` is this word of the patch's first column.
struct RingRows {
  const uint32_t* ring;
  int first_slot, ring_rows, row_words, words;

  DWS_DEVICE const uint32_t* operator()(int j) const {
    const int slot = first_slot + j;
    return ring + (slot < ring_rows ? slot : slot - ring_rows) * row_words;
  }
  DWS_DEVICE uint32_t operator()(const uint32_t* from, int i) const { return from[i * words]; }
};

// The taps of one word of channels; `d` has `words` of them a tap.
template <typename Win, typename T>
DWS_DEVICE void LoadTaps(float (&weights)[Win::kTaps][Word<T>::kElements], const void* d, int words, int word, T) {
  DWS_UNROLL
  for (int tap = 0; tap < Win::kTaps; ++tap) {
    WidenWord(static_cast<const uint32_t*>(d)[tap * words + word], weights[tap], T());
  }
}

// The word of channels of output pixel (a, b).
template <typename T>
DWS_DEVICE uint32_t PatchWord(const PatchSums<T>& sums, int a, int b) {
  constexpr int kElements = Word<T>::kElements;
  float values[kElements];
  DWS_UNROLL
  for (int e = 0; e < kElements; ++e) values[e] = (&sums[0][0])[(a * kPatch + b) * kElements + e];
  return NarrowWord(values, T());
}

// The words of channels of the output pixels, after the activation; changes the sums.
template <typename T>
DWS_DEVICE void PatchWords(uint32_t (&words)[kPatchPixels], PatchSums<T>& sums, DeviceActivation activation) {
  ActivateAll<T>(sums, activation, true);
  const WordClamp clamp = WordClamp::Of(activation, T());
  DWS_UNROLL
  for (int pixel = 0; pixel < kPatchPixels; ++pixel) {
    words[pixel] = PatchWord<T>(sums, pixel / kPatch, pixel % kPatch);
  }
  clamp.All(words, T());
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEPTHWISE_PATCH_CUH_
