#include <algorithm>

#include "cc/lab/plain_steps.h"

namespace dwsconv {
namespace {

// The innermost loop is cut no shorter than this. Tiles of 16 channels moved the fewest words and took 1.5 to 2 times
// as long as whole ones: the loops around them and broken runs cost more than was saved.
constexpr int64_t kInnermost = 128;

// Elements a tile of the depthwise half keeps in fast memory: X with its halo, Z, D.
double Words(const Chain& p, const DepthwiseTile& tile) {
  const auto window = [](int64_t out, int64_t kernel, int64_t stride, int64_t dilation, int64_t in) {
    return std::min<double>(static_cast<double>(in),
                            static_cast<double>(out - 1) * static_cast<double>(stride) +
                                static_cast<double>(kernel - 1) * static_cast<double>(dilation) + 1);
  };
  const double rows = window(tile.h, p.R, p.stride_h, p.dilation_h, p.H);
  const double columns = window(tile.w, p.S, p.stride_w, p.dilation_w, p.W);
  const double pixels = static_cast<double>(tile.h) * static_cast<double>(tile.w), M = static_cast<double>(p.M);
  const double taps = static_cast<double>(p.R * p.S);
  return static_cast<double>(tile.c) * (static_cast<double>(tile.n) * (rows * columns + M * pixels) + M * taps);
}

// The largest value in [1, most] for `*size`, a member of `tile`, that fits in `words`; 1 where none does.
void Grow(const Chain& p, int64_t words, int64_t most, DepthwiseTile* tile, int64_t* size) {
  int64_t fits = 1, fails = most + 1;
  while (fails - fits > 1) {
    *size = fits + (fails - fits) / 2;
    (Words(p, *tile) <= static_cast<double>(words) ? fits : fails) = *size;
  }
  *size = fits;
}

}  // namespace

DepthwiseTile SolveDepthwiseTile(const Chain& p, int64_t words) {
  // Every tile that fills the memory is an optimum of the linear program, which knows no halo. The fewest words moved
  // for each output tell them apart. Channels are cut where that pays, but not to short runs.
  DepthwiseTile best = {1, 1, 1, 1};
  double least = 0;
  for (int64_t c = p.C;; c = std::max((c / 2 + 15) / 16 * 16, kInnermost)) {
    for (int64_t h = 1;; h = std::min(2 * h, p.Ho)) {
      DepthwiseTile tile = {1, h, 1, c};
      Grow(p, words, p.Wo, &tile, &tile.w);
      const double all = Words(p, tile);
      const double each = all / (static_cast<double>(h * tile.w) * static_cast<double>(c));
      const bool fits = all <= static_cast<double>(words);
      if (fits && (least == 0 || each < 0.95 * least || (c == best.c && each < least))) {
        best = tile;
        least = each;
      }
      if (!fits || h == p.Ho) break;
    }
    if (c <= kInnermost) break;
  }
  if (least == 0) Grow(p, words, p.C, &best, &best.c);  // not even one window fits
  if (best.w == p.Wo) Grow(p, words, p.Ho, &best, &best.h);
  if (best.w == p.Wo && best.h == p.Ho) Grow(p, words, p.N, &best, &best.n);
  return best;
}

int64_t SolveDepthwiseRun(const Chain& p, int64_t words) {
  DepthwiseTile tile = {1, 1, 1, p.C};
  Grow(p, words, p.Wo, &tile, &tile.w);
  if (tile.w == p.Wo) Grow(p, words, p.Ho, &tile, &tile.h);
  return tile.h * tile.w;
}

PointwiseTile SolvePointwiseTile(const Chain& p, int64_t words) {
  const int64_t pixels = p.N * p.output_pixels(), cm = p.CM();
  // The program's vertex for long loops is the cube in which each array has a third of the memory; the innermost loop,
  // K, may be longer. What shorter loops leave goes to the others: to C*M first, so that sums are complete, then to K
  // and the pixels.
  int64_t edge = 1;
  while (3 * (edge + 1) * (edge + 1) <= words) ++edge;
  const int64_t k = std::min(std::max(edge, kInnermost), p.K);
  int64_t side = 1;
  while ((side + 1) * (side + 1) + 2 * (side + 1) * k <= words) ++side;
  PointwiseTile tile = {std::min(side, pixels), std::min(side, cm), k};
  const auto rest = [words](int64_t a, int64_t b, int64_t most) {
    // Largest x with x*a + x*b + a*b <= words.
    return std::clamp<int64_t>((words - a * b) / (a + b), 1, most);
  };
  tile.cm = std::max(tile.cm, rest(tile.pixels, tile.k, cm));
  tile.k = std::max(tile.k, rest(tile.pixels, tile.cm, p.K));
  tile.pixels = std::max(tile.pixels, rest(tile.cm, tile.k, pixels));
  return tile;
}

}  // namespace dwsconv
