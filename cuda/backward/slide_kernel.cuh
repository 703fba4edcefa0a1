// The gradients of the depthwise half with stride 1: dX and the first stage of dD. As forward
// (depthwise/slide_kernel.cuh), a thread slides down a column, here of dX. A row of dZ that it reads goes to all rows
// of dX that it is part of, and with their pixels of X to all taps.
#ifndef DWSCONV_CUDA_BACKWARD_SLIDE_KERNEL_CUH_
#define DWSCONV_CUDA_BACKWARD_SLIDE_KERNEL_CUH_

#include <cstdint>

#include "cuda/depthwise/slide_kernel.cuh"

namespace dwsconv {
namespace cuda {

struct GradientSlideArgs {
  const void *x, *dz, *d;  // [N,H,W,C], [N,Ho,Wo,C], [R,S,C]
  void* dx;                // [N,H,W,C], or null
  float* sums;             // [parts,column_tiles,R,S,C], or null
  int H, W, C, Ho, Wo, pad_top, pad_left;
  SlideCut cut;                 // of dX
  int64_t strips, part_strips;  // segments of all images, and those of a part
  int items;
};

// Blocks that a multiprocessor has registers for.
template <typename T, typename Win, int kWords, bool kInput>
constexpr int GradientSlideBlocks() {
  constexpr int kSums = Win::kTaps * kWords * Word<T>::kElements;
  return kSums > 30 ? (kInput ? 1 : 2) : kInput ? 2 : 3;
}

// Bytes of shared memory, where the taps of a block's columns come together.
template <typename T, typename Win, int kWords>
constexpr int64_t GradientSlideSharedBytes(int threads) {
  return int64_t{threads} * Win::kTaps * kWords * Word<T>::kElements * sizeof(float);
}

// kInput: dX is computed. Without it the kernel has room for more threads.
template <typename T, typename Win, int kWords, bool kInput>
__global__ void __launch_bounds__(kSlideThreads, (GradientSlideBlocks<T, Win, kWords, kInput>()))
    DepthwiseGradientSlideKernel(const GradientSlideArgs args) {
  constexpr int kSize = Win::kSize, kElements = kWords * Word<T>::kElements, kAhead = kSize == 3 && kWords == 1 ? 3 : 1;
  static_assert(Win::kStride == 1 && kSize % kAhead == 0, "a turn is whole");
  const SlideCut& cut = args.cut;
  float* const shared = reinterpret_cast<float*>(SharedMemory());  // [columns][taps][channels of the group]
  const int piece_of_group = threadIdx.x & (cut.group_pieces - 1), place = threadIdx.x / cut.group_pieces;
  for (int item = blockIdx.x; item < args.items; item += gridDim.x) {
    const SlidePlace of(cut, item);
    const int piece = of.group * cut.group_pieces + piece_of_group, column = of.tile * cut.tile_columns + place;
    const bool active = piece < cut.pieces && place < cut.tile_columns && column < args.W;
    const int pixel_words = cut.pieces * kWords;

    bool inside[kSize];  // the column of dZ that tap s joins with this one
    uint32_t at[kSize];
    float weights[kInput ? Win::kTaps : 1][kElements], taps[Win::kTaps][kElements];
    DWS_UNROLL
    for (int s = 0; s < kSize; ++s) {
      const int from = column + args.pad_left - s;
      inside[s] = active && from >= 0 && from < args.Wo;
      at[s] = inside[s] ? static_cast<uint32_t>(from * pixel_words + piece * kWords) : 0u;
      DWS_UNROLL
      for (int r = 0; r < kSize; ++r) {
        const uint32_t* const d = static_cast<const uint32_t*>(args.d) + (r * kSize + s) * pixel_words + piece * kWords;
        if (kInput) WidenWords<T, kWords>(LoadWords<kWords>(d, inside[s]), weights[kInput ? r * kSize + s : 0]);
        DWS_UNROLL
        for (int e = 0; e < kElements; ++e) taps[r * kSize + s][e] = 0.f;
      }
    }
    const uint32_t x_at = static_cast<uint32_t>(column * pixel_words + piece * kWords);
    const int64_t x_row_words = int64_t{args.W} * pixel_words, dz_row_words = int64_t{args.Wo} * pixel_words;
    const int64_t begin = of.strip * args.part_strips;
    const int64_t end = begin + args.part_strips < args.strips ? begin + args.part_strips : args.strips;
    for (int64_t strip = begin; active && strip < end; ++strip) {
      const int64_t image = strip / cut.segments;
      const int first = static_cast<int>(strip - image * cut.segments) * cut.segment_rows;
      const int count = first + cut.segment_rows < args.H ? cut.segment_rows : args.H - first;
      const int top = first + args.pad_top - (kSize - 1);  // the first row of dZ
      const int below = first + count + args.pad_top, bottom = below < args.Ho ? below : args.Ho;
      const uint32_t* x = static_cast<const uint32_t*>(args.x) + (image * args.H + first) * x_row_words;
      const int start = top < 0 ? 0 : top < args.Ho ? top : args.Ho - 1;
      const uint32_t* dz = static_cast<const uint32_t*>(args.dz) + (image * args.Ho + start) * dz_row_words;
      uint32_t* dx = static_cast<uint32_t*>(args.dx) + (image * args.H + first) * x_row_words;
      Words<kWords> dz_words[kAhead][kSize], x_words[kAhead];
      float sums[kSize][kElements], pixels[kSize][kElements];  // of dX and X: rows that taps of one row of dZ join
      int asked = top, asked_x = 0;
      const auto ask = [&](int i) {
        DWS_UNROLL
        for (int s = 0; s < kSize; ++s) dz_words[i][s] = LoadWords<kWords>(dz + at[s], inside[s]);
        x_words[i] = LoadWords<kWords>(x + x_at, true);
        // Rows outside are not used: there the same ones come again.
        if (asked >= 0 && asked + 1 < bottom) dz += dz_row_words;
        if (asked_x + 1 < count) x += x_row_words;
        ++asked;
        ++asked_x;
      };
      DWS_UNROLL
      for (int i = 0; i < kAhead; ++i) ask(i);
      const int steps = count + kSize - 1;
      for (int first_step = 0; first_step < steps; first_step += kSize) {
        DWS_UNROLL
        for (int turn = 0; turn < kSize; ++turn) {
          const int step = first_step + turn;
          if (step >= steps) break;
          // Row `step` of dX begins, row step - (kSize - 1) has its last tap.
          WidenWords<T, kWords>(x_words[turn % kAhead], pixels[turn]);
          float gradient[kSize][kElements];
          DWS_UNROLL
          for (int s = 0; s < kSize; ++s) {
            WidenWords<T, kWords>(dz_words[turn % kAhead][s], gradient[s]);
            DWS_UNROLL
            for (int e = 0; e < kElements; ++e) sums[turn][e] = s == 0 ? 0.f : sums[turn][e];
          }
          ask(turn % kAhead);
          const auto add = [&](int r) {
            const int row = (turn + 1 + r) % kSize;
            DWS_UNROLL
            for (int s = 0; s < kSize; ++s) {
              DWS_UNROLL
              for (int e = 0; e < kElements; ++e) {
                if (kInput) sums[row][e] = fmaf(gradient[s][e], weights[kInput ? r * kSize + s : 0][e], sums[row][e]);
                taps[r * kSize + s][e] = fmaf(gradient[s][e], pixels[row][e], taps[r * kSize + s][e]);
              }
            }
          };
          if (static_cast<uint32_t>(top + step) < static_cast<uint32_t>(args.Ho)) {
            if (step >= kSize - 1 && step < count) {
              DWS_UNROLL
              for (int r = 0; r < kSize; ++r) add(r);
            } else {
              DWS_UNROLL
              for (int r = 0; r < kSize; ++r) {
                if (static_cast<uint32_t>(step - (kSize - 1) + r) < static_cast<uint32_t>(count)) add(r);
              }
            }
          }
          if (!kInput || step < kSize - 1 || args.dx == nullptr) continue;
          StoreWords(dx + x_at, NarrowWords<T, kWords>(sums[(turn + 1) % kSize]));
          dx += x_row_words;
        }
      }
    }
    if (args.sums == nullptr) continue;
    const int group_channels = cut.group_pieces * kElements;
    if (place < cut.tile_columns) {
      DWS_UNROLL
      for (int tap = 0; tap < Win::kTaps; ++tap) {
        DWS_UNROLL
        for (int e = 0; e < kElements; ++e) {
          // Outside, an infinity times zero may have been added up.
          shared[(place * Win::kTaps + tap) * group_channels + piece_of_group * kElements + e] =
              inside[tap % kSize] ? taps[tap][e] : 0.f;
        }
      }
    }
    SyncBlock();
    for (int i = threadIdx.x; i < Win::kTaps * group_channels; i += blockDim.x) {
      const int tap = i / group_channels, channel = of.group * group_channels + i % group_channels;
      if (channel >= args.C) continue;
      float sum = shared[i];
      for (int other = 1; other < cut.tile_columns; ++other) sum += shared[other * Win::kTaps * group_channels + i];
      args.sums[((of.strip * cut.column_tiles + of.tile) * Win::kTaps + tap) * args.C + channel] = sum;
    }
    SyncBlock();
  }
}

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_BACKWARD_SLIDE_KERNEL_CUH_
