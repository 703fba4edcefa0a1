// The serial steps of the optimization ladder: plain loops in two passes with the whole of Z in memory between them,
// after Lien, Banka and Jogani, "Communication-Avoiding Depthwise-Separable Convolutions" (CS 267, 2022). Each step
// changes one thing, so that its gain can be measured. docs/ladder.md says what and why; the steps that need the
// vector kernels are in cc/lab/ladder.cc.
//
// This code is compiled without vectorisation (cc/lab/BUILD), or the compiler would take the SIMD step too early. Sums
// are kept in float. One thread.
#ifndef DWSCONV_LAB_PLAIN_STEPS_H_
#define DWSCONV_LAB_PLAIN_STEPS_H_

#include <cstdint>

#include "cc/core/chain.h"

namespace dwsconv {

enum class LadderStep : int {
  kNaive,      // loops in an order that ignores how channels-last tensors are stored
  kReordered,  // loops in storage order, channels innermost
  kUnrolled,   // and several multiply-adds to one store
  kBlocked,    // and tiles that fit in fast memory
};

// The depthwise half's tile: images, output rows, output columns, input channels. Each at least 1.
struct DepthwiseTile {
  int64_t n, h, w, c;
};
// The pointwise half's: output pixels of any image, channels of Z, output channels.
struct PointwiseTile {
  int64_t pixels, cm, k;
};

// Integer tiles near an optimum of the communication-avoiding linear programs (Dinh and Demmel, arXiv:2003.00119) for
// `words` elements of fast memory, in which the tiles of all three arrays fit together, except where one iteration is
// too large.
DepthwiseTile SolveDepthwiseTile(const Chain& chain, int64_t words);
PointwiseTile SolvePointwiseTile(const Chain& chain, int64_t words);

// The depthwise half for kernels that take whole channels of consecutive output pixels of one image: how many of them,
// a number of whole rows where even one row fits.
int64_t SolveDepthwiseRun(const Chain& chain, int64_t words);

// Computes the layer in two passes. `chain` is channels-last; `z` holds N*Ho*Wo*C*M floats; `words` is read by
// kBlocked alone. False when memory for one tile's sums is out.
bool ForwardLadder(LadderStep step, const Chain& chain, const Buffers& buffers, int64_t words, float* z);

}  // namespace dwsconv

#endif  // DWSCONV_LAB_PLAIN_STEPS_H_
