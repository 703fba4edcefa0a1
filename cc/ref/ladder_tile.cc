#include <algorithm>

#include "cc/ref/ladder.h"

namespace dwsconv {
namespace {

// Elements a tile of the depthwise half keeps in fast memory: X with its halo, Z, D.
double Words(const Problem& p, const DepthwiseTile& tile) {
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
void Grow(const Problem& p, int64_t words, int64_t most, DepthwiseTile* tile, int64_t* size) {
  int64_t fits = 1, fails = most + 1;
  while (fails - fits > 1) {
    *size = fits + (fails - fits) / 2;
    (Words(p, *tile) <= static_cast<double>(words) ? fits : fails) = *size;
  }
  *size = fits;
}

}  // namespace

DepthwiseTile SolveDepthwiseTile(const Problem& p, int64_t words) {
  DepthwiseTile tile = {1, 1, 1, 1};
  Grow(p, words, p.C, &tile, &tile.c);
  Grow(p, words, p.Wo, &tile, &tile.w);
  // Rows or images of partial tiles would break runs that storage order keeps whole.
  if (tile.w == p.Wo) Grow(p, words, p.Ho, &tile, &tile.h);
  if (tile.h == p.Ho) Grow(p, words, p.N, &tile, &tile.n);
  return tile;
}

PointwiseTile SolvePointwiseTile(const Problem& p, int64_t words) {
  const int64_t pixels = p.N * p.output_pixels(), cm = p.CM();
  // The program's vertex for long loops is the cube in which each array has a third of the memory. Where loops are
  // shorter, what they leave goes to the others: to C*M first, so that sums are complete, then to K and the pixels.
  int64_t edge = 1;
  while (3 * (edge + 1) * (edge + 1) <= words) ++edge;
  PointwiseTile tile = {std::min(edge, pixels), std::min(edge, cm), std::min(edge, p.K)};
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
