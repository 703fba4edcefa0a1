// The depthwise half alone, for windows known when the kernel is compiled: a thread slides down a column of the output,
// for a few channels. It reads each row of its columns of X once, adds it to all outputs that have a tap there, and
// keeps the sums of those alone.
#ifndef DWSCONV_CUDA_DEPTHWISE_SLIDE_KERNEL_CUH_
#define DWSCONV_CUDA_DEPTHWISE_SLIDE_KERNEL_CUH_

#include <cstdint>

#include "cc/plan/cuda/slide.h"
#include "cuda/depthwise/patch.cuh"
#include "cuda/device/activation.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/platform.cuh"

namespace dwsconv {
namespace cuda {

// What a thread has of a pixel: one, two or four words of channels.
template <int kWords>
struct Words {
  uint32_t at[kWords];
};

template <int kWords>
DWS_DEVICE Words<kWords> LoadWords(const uint32_t* from, bool there) {
  Words<kWords> words;
  if constexpr (kWords == 4) {
    const uint4 four = there ? *reinterpret_cast<const uint4*>(from) : make_uint4(0u, 0u, 0u, 0u);
    words = {four.x, four.y, four.z, four.w};
  } else if constexpr (kWords == 2) {
    const uint2 two = there ? *reinterpret_cast<const uint2*>(from) : make_uint2(0u, 0u);
    words = {two.x, two.y};
  } else {
    words.at[0] = there ? *from : 0u;
  }
  return words;
}

template <int kWords>
DWS_DEVICE void StoreWords(uint32_t* to, const Words<kWords>& words) {
  if constexpr (kWords == 4) {
    *reinterpret_cast<uint4*>(to) = make_uint4(words.at[0], words.at[1], words.at[2], words.at[3]);
  } else if constexpr (kWords == 2) {
    *reinterpret_cast<uint2*>(to) = make_uint2(words.at[0], words.at[1]);
  } else {
    *to = words.at[0];
  }
}

// kWords words of floats: element e of all of them.
template <typename T, int kWords>
DWS_DEVICE void WidenWords(const Words<kWords>& words, float (&values)[kWords * Word<T>::kElements]) {
  DWS_UNROLL
  for (int w = 0; w < kWords; ++w) {
    float some[Word<T>::kElements];
    WidenWord(words.at[w], some, T());
    DWS_UNROLL
    for (int e = 0; e < Word<T>::kElements; ++e) values[w * Word<T>::kElements + e] = some[e];
  }
}

template <typename T, int kWords>
DWS_DEVICE Words<kWords> NarrowWords(const float (&values)[kWords * Word<T>::kElements]) {
  Words<kWords> words;
  DWS_UNROLL
  for (int w = 0; w < kWords; ++w) {
    float some[Word<T>::kElements];
    DWS_UNROLL
    for (int e = 0; e < Word<T>::kElements; ++e) some[e] = values[w * Word<T>::kElements + e];
    words.at[w] = NarrowWord(some, T());
  }
  return words;
}

template <typename Win, int kWords>
struct Slide {
  static constexpr int kLive = (Win::kSize - 1) / Win::kStride + 1;  // outputs that a row of X has taps of
  static constexpr int kShared = Win::kSize - Win::kStride;          // rows of an output that the one above reads too
  // Rows that are asked for before they are used, and outputs until registers have their first meaning again.
  static constexpr int kAhead = Win::kSize * kWords > 8 ? 1 : Win::kStride == 2 ? 2 : Win::kSize == 3 ? 3 : 1;
  static constexpr int kTurn = Win::kStride == 2 && Win::kSize == 3 ? 2 : kLive;
  static_assert(kTurn % kLive == 0 && kTurn * Win::kStride % kAhead == 0, "a turn is whole");
};

struct SlideArgs {
  const void *x, *d, *bias;  // [N,H,W,C], [R,S,C], [C] or null
  void* z;                   // [N,Ho,Wo,C]
  DeviceActivation mid;
  int H, W, C, Ho, Wo, pad_top, pad_left;
  SlideCut cut;  // of Z
  int items;
};

// Blocks of a multiprocessor that a kernel leaves registers for: fewer where weights take more.
template <typename T, typename Win, int kWords>
constexpr int SlideBlocks() {
  return Win::kTaps * kWords * Word<T>::kElements > 20 ? 2 : 3;
}

// What a block has at a time: strips of one tile of columns, of one group of channels. Groups first, as blocks that run
// together should read the same rows.
struct SlidePlace {
  int group, tile;
  int64_t strip;  // forward: a segment of an image; backward: a part of them

  DWS_DEVICE SlidePlace(const SlideCut& cut, int item) {
    group = item % cut.groups;
    tile = item / cut.groups % cut.column_tiles;
    strip = item / cut.groups / cut.column_tiles;
  }
};

// A column of Z from row `first` to before `last`, for one piece of channels.
template <typename T, typename Win, int kWords, bool kClamps>
DWS_DEVICE void SlideDown(const SlideArgs& args, int64_t image, int column, int piece, int first, int last) {
  using S = Slide<Win, kWords>;
  constexpr int kSize = Win::kSize, kStride = Win::kStride, kElements = kWords * Word<T>::kElements;
  const SlideCut& cut = args.cut;
  // Taps outside the image's columns are zero times zero, whatever the weights are.
  const int in_column = column * kStride - args.pad_left, pixel_words = cut.pieces * kWords;
  bool inside[kSize];
  float weights[Win::kTaps][kElements];
  DWS_UNROLL
  for (int s = 0; s < kSize; ++s) {
    inside[s] = in_column + s >= 0 && in_column + s < args.W;
    DWS_UNROLL
    for (int r = 0; r < kSize; ++r) {
      const uint32_t* const from =
          static_cast<const uint32_t*>(args.d) + (r * kSize + s) * pixel_words + piece * kWords;
      WidenWords<T, kWords>(LoadWords<kWords>(from, inside[s]), weights[r * kSize + s]);
    }
  }
  float bias[kElements], sums[S::kLive][kElements];
  DWS_UNROLL
  for (int e = 0; e < kElements; ++e) {
    bias[e] = args.bias == nullptr ? 0.f : Widen(static_cast<const T*>(args.bias)[piece * kElements + e]);
    DWS_UNROLL
    for (int t = 0; t < S::kLive; ++t) sums[t][e] = bias[e];
  }

  const int top = first * kStride - args.pad_top;  // the first output's first row
  const int below = (last - 1) * kStride - args.pad_top + kSize;
  const int bottom = below < args.H ? below : args.H;
  // Rows are the block's and places in them the thread's, so that registers of the block advance.
  const int64_t row_words = static_cast<int64_t>(args.W) * pixel_words, z_row_words = int64_t{args.Wo} * pixel_words;
  const int start = top < 0 ? 0 : top < args.H ? top : args.H - 1;
  const uint32_t* x = static_cast<const uint32_t*>(args.x) + (image * args.H + start) * row_words;
  uint32_t* z = static_cast<uint32_t*>(args.z) + (image * args.Ho + first) * z_row_words;
  const uint32_t z_at = static_cast<uint32_t>(column * pixel_words + piece * kWords);
  uint32_t at[kSize];
  DWS_UNROLL
  for (int s = 0; s < kSize; ++s) {
    at[s] = inside[s] ? static_cast<uint32_t>((in_column + s) * pixel_words + piece * kWords) : z_at;
  }
  int asked = top, used = top;  // the next rows of X to ask for, and to add
  Words<kWords> rows[S::kAhead][kSize];
  const auto ask = [&](Words<kWords>(&row)[kSize]) {
    DWS_UNROLL
    for (int s = 0; s < kSize; ++s) row[s] = LoadWords<kWords>(x + at[s], inside[s]);
    // Rows above and below the image are not used: there the same one comes again.
    if (asked >= 0 && asked + 1 < bottom) x += row_words;
    ++asked;
  };
  // A row of X, which is row r of the first live output, to all that have a tap there. `turn`: whose the sums are.
  const auto add = [&](Words<kWords>(&row)[kSize], int r, int turn) {
    float values[kSize][kElements];
    DWS_UNROLL
    for (int s = 0; s < kSize; ++s) WidenWords<T, kWords>(row[s], values[s]);
    ask(row);
    if (static_cast<uint32_t>(used) < static_cast<uint32_t>(args.H)) {
      DWS_UNROLL
      for (int t = 0; t < S::kLive; ++t) {
        const int tap = r - t * kStride;
        if (tap < 0) continue;
        DWS_UNROLL
        for (int s = 0; s < kSize; ++s) {
          DWS_UNROLL
          for (int e = 0; e < kElements; ++e) {
            float& sum = sums[(turn + t) % S::kLive][e];
            sum = fmaf(values[s][e], weights[tap * kSize + s][e], sum);
          }
        }
      }
    }
    ++used;
  };
  DWS_UNROLL
  for (int i = 0; i < S::kAhead; ++i) ask(rows[i]);
  DWS_UNROLL
  for (int r = 0; r < S::kShared; ++r) add(rows[r % S::kAhead], r, 0);
  const WordClamp clamp = WordClamp::Of(args.mid, T());
  for (int row = first; row < last; row += S::kTurn) {
    DWS_UNROLL
    for (int turn = 0; turn < S::kTurn; ++turn) {
      if (row + turn >= last) break;
      DWS_UNROLL
      for (int i = 0; i < kStride; ++i) {
        add(rows[(S::kShared + turn * kStride + i) % S::kAhead], S::kShared + i, turn);
      }
      float done[1][kElements];
      DWS_UNROLL
      for (int e = 0; e < kElements; ++e) {
        done[0][e] = sums[turn % S::kLive][e];
        sums[turn % S::kLive][e] = bias[e];
      }
      ActivateAll<T, kClamps>(done, args.mid, true);
      Words<kWords> words = NarrowWords<T, kWords>(done[0]);
      clamp.All(words.at, T());
      StoreWords(z + z_at, words);
      z += z_row_words;
    }
  }
}

// A kernel for one window, M = 1, and channels in whole pieces of kWords words. kClamps: mid is none or a clamp, so
// that the loop need not have the code of all others.
template <typename T, typename Win, int kWords, bool kClamps>
__global__ void __launch_bounds__(kSlideThreads, (SlideBlocks<T, Win, kWords>()))
    DepthwiseSlideKernel(const SlideArgs args) {
  const SlideCut& cut = args.cut;
  const int place = threadIdx.x / cut.group_pieces, piece_of_group = threadIdx.x & (cut.group_pieces - 1);
  for (int item = blockIdx.x; item < args.items; item += gridDim.x) {
    const SlidePlace at(cut, item);
    const int piece = at.group * cut.group_pieces + piece_of_group, column = at.tile * cut.tile_columns + place;
    if (piece >= cut.pieces || place >= cut.tile_columns || column >= args.Wo) continue;
    const int64_t image = at.strip / cut.segments;
    const int first = static_cast<int>(at.strip - image * cut.segments) * cut.segment_rows;
    const int last = first + cut.segment_rows < args.Ho ? first + cut.segment_rows : args.Ho;
    SlideDown<T, Win, kWords, kClamps>(args, image, column, piece, first, last);
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_DEPTHWISE_SLIDE_KERNEL_CUH_
