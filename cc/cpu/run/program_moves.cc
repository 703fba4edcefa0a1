#include "cc/cpu/run/program_moves.h"

#include <algorithm>
#include <cstring>

#include "cc/cpu/run/program_share.h"

namespace dwsconv {
namespace {

using Sizes = std::vector<int64_t>;

void Copy(char* to, const char* from, int64_t bytes) { std::memcpy(to, from, static_cast<size_t>(bytes)); }

void Crop(const StepCall& call) {
  if (call.plan.places[static_cast<size_t>(call.slots().output)].row_step > 0) return;  // it is read where it lies
  const Sizes& cuts = call.step().croppings;
  const Sizes& from = call.shape(call.slots().xs[0]);
  const Sizes& to = call.shape(call.slots().output);
  // The last axis that is cut, with all behind it, is a row.
  size_t axis = from.size() - 1;
  while (axis > 0 && from[axis] == to[axis]) --axis;
  const int64_t inner = Product(from, axis + 1, from.size()) * call.item();
  const int64_t row = to[axis] * inner, x_row = from[axis] * inner;
  const char* const x = call.x() + cuts[2 * axis] * inner;
  Share(call, Product(to, 0, axis), row / call.item(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t rest = i, x_at = 0, step = 1;
      for (size_t a = axis; a-- > 0;) {
        x_at += (rest % to[a] + cuts[2 * a]) * step;
        rest /= to[a];
        step *= from[a];
      }
      Copy(call.output() + i * row, x + x_at * x_row, row);
    }
  });
}

// The axes of a transposition in the order of the output, as few as do: neighbours that stay together are one. The
// last axis moves as a whole where it stays the last.
struct Turned {
  Sizes sizes, x_steps;  // of the output's axes; steps in elements of x
  int64_t run = 1;       // elements that lie together before and after

  Turned(const Sizes& x, const Sizes& axes) {
    Sizes steps(x.size(), 1);
    for (size_t a = x.size() - 1; a-- > 0;) steps[a] = steps[a + 1] * x[a + 1];
    for (int64_t axis : axes) {
      const size_t a = static_cast<size_t>(axis);
      if (x[a] == 1) continue;
      if (!sizes.empty() && x_steps.back() == steps[a] * x[a]) {
        sizes.back() *= x[a];
        x_steps.back() = steps[a];
      } else {
        sizes.push_back(x[a]);
        x_steps.push_back(steps[a]);
      }
    }
    if (!sizes.empty() && x_steps.back() == 1) {
      run = sizes.back();
      sizes.pop_back();
      x_steps.pop_back();
    }
  }

  // Where the output's element (or run) `i` of the first `axes` axes lies in x.
  int64_t At(int64_t i, size_t axes) const {
    int64_t at = 0;
    for (size_t a = axes; a-- > 0;) {
      at += i % sizes[a] * x_steps[a];
      i /= sizes[a];
    }
    return at;
  }
};

void MoveRuns(const StepCall& call, const Turned& turned) {
  const size_t last = turned.sizes.size() - 1;
  const int64_t item = call.item(), bytes = turned.run * item, count = turned.sizes[last];
  const int64_t step = turned.x_steps[last] * item;
  Share(call, Product(turned.sizes, 0, last), count * turned.run, [&](int64_t begin, int64_t end) {
    char* to = call.output() + begin * count * bytes;
    for (int64_t i = begin; i < end; ++i) {
      const char* from = call.x() + turned.At(i, last) * item;
      for (int64_t k = 0; k < count; ++k, to += bytes, from += step) Copy(to, from, bytes);
    }
  });
}

// to[r][k] = from[k * step + r]: the groups of a channel shuffle, which are too few for a loop.
template <int kColumns, typename T>
void Interleave(const T* __restrict from, int64_t step, int64_t rows, T* __restrict to) {
  for (int64_t r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int k = 0; k < kColumns; ++k) to[r * kColumns + k] = from[k * step + r];
  }
}

// The last axis of the output is another one than that of x, which is axis `along` of the output: planes of the two, in
// tiles, so that a line of either is in the cache for as long as it is needed.
template <typename T>
void MoveTiles(const StepCall& call, const Turned& turned) {
  constexpr int64_t kTile = 16, kNarrow = 8, kLongTile = 256;
  const Sizes& sizes = turned.sizes;
  const size_t last = sizes.size() - 1;
  const size_t along =
      static_cast<size_t>(std::find(turned.x_steps.begin(), turned.x_steps.end(), 1) - turned.x_steps.begin());
  const int64_t columns = sizes[last], rows = sizes[along], step = turned.x_steps[last];
  const int64_t between = Product(sizes, along + 1, last), plane = rows * between * columns;
  const bool narrow = columns < kNarrow;
  const int64_t most = narrow ? kLongTile : kTile, tiles = CeilDiv(rows, most), out_step = between * columns;
  const T* const x = reinterpret_cast<const T*>(call.x());
  T* const y = reinterpret_cast<T*>(call.output());
  // Tile after tile of all planes: [outside of `along`][between it and the last axis][tile of rows].
  Share(call, Product(sizes, 0, along) * between * tiles, std::min(most, rows) * columns,
        [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            const int64_t first = i % tiles * most, middle = i / tiles % between, outer = i / tiles / between;
            int64_t from = turned.At(outer, along) + first, rest = middle;
            for (size_t a = last; a-- > along + 1; rest /= sizes[a]) from += rest % sizes[a] * turned.x_steps[a];
            T* const to = y + outer * plane + (first * between + middle) * columns;
            const int64_t height = std::min(most, rows - first);
            if (out_step == 2 && columns == 2) {
              Interleave<2>(x + from, step, height, to);
              continue;
            }
            if (out_step == 4 && columns == 4) {
              Interleave<4>(x + from, step, height, to);
              continue;
            }
            for (int64_t k = 0; narrow && k < columns; ++k) {
              const T* const in = x + from + k * step;
              for (int64_t r = 0; r < height; ++r) to[r * out_step + k] = in[r];
            }
            if (narrow) continue;
            for (int64_t c = 0; c < columns; c += kTile) {
              const int64_t width = std::min(kTile, columns - c);
              for (int64_t r = 0; r < height; ++r) {
                const T* const in = x + from + r + c * step;
                T* const out = to + r * out_step + c;
                for (int64_t k = 0; k < width; ++k) out[k] = in[k * step];
              }
            }
          }
        });
}

void Transpose(const StepCall& call) {
  const Turned turned(call.shape(call.slots().xs[0]), call.step().axes);
  if (turned.sizes.empty()) {
    Share(call, turned.run, 1, [&](int64_t begin, int64_t end) {
      Copy(call.output() + begin * call.item(), call.x() + begin * call.item(), (end - begin) * call.item());
    });
  } else if (turned.run > 1) {
    MoveRuns(call, turned);
  } else if (call.item() == 4) {
    MoveTiles<uint32_t>(call, turned);
  } else {
    MoveTiles<uint16_t>(call, turned);
  }
}

void DepthToSpace(const StepCall& call) {
  const Sizes& from = call.shape(call.slots().xs[0]);
  const Sizes& to = call.shape(call.slots().output);
  const Sizes &block = call.step().block, &cuts = call.step().croppings;
  const int64_t top = cuts.empty() ? 0 : cuts[0], left = cuts.empty() ? 0 : cuts[2];
  const int64_t pixel = to[3] * call.item(), step = call.row_step(call.slots().output) * call.item();
  const int64_t run = block[1] * pixel, x_pixel = block[0] * run, x_row = from[2] * x_pixel;
  Share(call, to[0] * to[1], to[2] * to[3], [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / to[1], h = i % to[1] + top;
      const char* const x = call.x() + (n * from[1] + h / block[0]) * x_row + h % block[0] * run;
      char* y = call.output() + i * to[2] * step;
      int64_t w = left / block[1], skipped = left % block[1];
      for (int64_t q = 0; q < to[2]; ++w, skipped = 0) {
        // The pixels of a row of a block lie together in x, and in y where that is dense.
        const int64_t count = std::min(block[1] - skipped, to[2] - q), together = step == pixel ? count : 1;
        const char* in = x + w * x_pixel + skipped * pixel;
        for (int64_t k = 0; k < count; k += together, in += pixel, y += together * step) {
          Copy(y, in, together * pixel);
        }
        q += count;
      }
    }
  });
}

}  // namespace

void Move(const StepCall& call) {
  switch (call.step().kind) {
    case StepKind::kCrop:
      return Crop(call);
    case StepKind::kTranspose:
      return Transpose(call);
    default:
      return DepthToSpace(call);
  }
}

}  // namespace dwsconv
