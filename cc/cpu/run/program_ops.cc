#include "cc/cpu/run/program_ops.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "cc/core/attributes.h"
#include "cc/core/half.h"
#include "cc/core/whole.h"
#include "cc/cpu/run/program_moves.h"
#include "cc/cpu/run/program_share.h"

namespace dwsconv {
namespace {

using Sizes = std::vector<int64_t>;

Activation ActivationOf(const StepCall& call) { return ToActivation(call.step().activation, call.program.dtype); }

// A tensor in memory: its sizes, and the elements from one row of its last axis to the next.
struct Laid {
  const Sizes& sizes;
  int64_t row_step;
};

// The axes of an op on single elements, as few as do: neighbours along which both operands and the result go on are
// one.
struct Walk {
  // Steps of the result, of x and of y, in elements; 0 along an axis that is repeated.
  using Steps = std::array<int64_t, 3>;
  Sizes sizes;
  std::vector<Steps> steps;

  Walk(const Laid& output, const Laid& x, const Laid& y) {
    const Laid* const all[] = {&output, &x, &y};
    Steps step = {1, 1, 1};
    for (size_t i = 0; i < output.sizes.size(); ++i) {  // from the last axis on
      Steps here;
      for (size_t t = 0; t < 3; ++t) {
        const Sizes& of = all[t]->sizes;
        const int64_t size = i < of.size() ? of[of.size() - 1 - i] : 1;
        here[t] = size == 1 ? 0 : step[t];
        step[t] = i == 0 ? all[t]->row_step : step[t] * size;
      }
      Put(output.sizes[output.sizes.size() - 1 - i], here);
    }
    if (sizes.empty()) Put(1, {1, 1, 1}, true);
  }

 private:
  // An axis outside of those that are there.
  void Put(int64_t size, const Steps& step, bool any = false) {
    if (size == 1 && !any) return;
    bool goes_on = !sizes.empty();
    for (size_t t = 0; goes_on && t < 3; ++t) goes_on = step[t] == steps.back()[t] * sizes.back();
    if (goes_on) {
      sizes.back() *= size;
      return;
    }
    sizes.push_back(size);
    steps.push_back(step);
  }
};

void Combine(const StepCall& call) {
  const InferredStep& slots = call.slots();
  const int64_t y_weight = call.step().weight(Role::kY);
  const Sizes& y_shape = slots.y >= 0 ? call.shape(slots.y) : call.program.weights[static_cast<size_t>(y_weight)].shape;
  const char* const y = slots.y >= 0 ? call.at[static_cast<size_t>(slots.y)] : call.Weight(Role::kY);
  const int64_t y_row = slots.y >= 0 ? call.row_step(slots.y) : y_shape.empty() ? 1 : y_shape.back();
  const Walk walk({call.shape(slots.output), call.row_step(slots.output)},
                  {call.shape(slots.xs[0]), call.row_step(slots.xs[0])}, {y_shape, y_row});
  const int64_t item = call.item(), inner = walk.sizes[0], outer = Product(walk.sizes, 1, walk.sizes.size());
  CombineArgs common;
  common.kind = static_cast<CombineKind>(static_cast<int>(call.step().kind) - static_cast<int>(StepKind::kAdd));
  common.x_same = walk.steps[0][1] == 0;
  common.y_same = walk.steps[0][2] == 0;
  common.activation = ActivationOf(call);
  // Elements [first, first + n) of run `row`.
  const auto part = [&](int64_t row, int64_t first, int64_t n) {
    int64_t to_at = 0, x_at = 0, y_at = 0, rest = row;
    for (size_t axis = 1; axis < walk.sizes.size(); ++axis) {
      const int64_t i = rest % walk.sizes[axis];
      rest /= walk.sizes[axis];
      to_at += i * walk.steps[axis][0];
      x_at += i * walk.steps[axis][1];
      y_at += i * walk.steps[axis][2];
    }
    CombineArgs args = common;
    args.x = call.x() + (x_at + (args.x_same ? 0 : first)) * item;
    args.y = y + (y_at + (args.y_same ? 0 : first)) * item;
    args.n = n;
    args.to = call.output() + (to_at + first) * item;
    call.kernels.combine[call.type()](args);
  };
  if (outer == 1) {
    Share(call, inner, 1, [&](int64_t begin, int64_t end) { part(0, begin, end - begin); });
  } else {
    Share(call, outer, inner, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) part(row, 0, inner);
    });
  }
}

void Activate(const StepCall& call) {
  const Sizes& shape = call.shape(call.slots().output);
  const char* const slopes = call.Weight(Role::kSlopes);
  const int64_t item = call.item(), row = slopes != nullptr ? shape.back() : 1, rows = Elements(shape) / row;
  Share(call, rows, row, [&](int64_t begin, int64_t end) {
    const Activation activation = ActivationOf(call);
    const int64_t n = slopes != nullptr ? row : end - begin, step = slopes != nullptr ? 1 : end - begin;
    for (int64_t i = begin; i < end; i += step) {
      const int64_t at = i * row * item;
      call.kernels.activate[call.type()]({call.x() + at, slopes, n, call.output() + at, activation});
    }
  });
}

// Of few elements: norms have one for each pixel or channel.
template <typename T>
void Power(const StepCall& call) {
  const float exponent = *call.step().exponent;
  const T* const x = reinterpret_cast<const T*>(call.x());
  T* const to = reinterpret_cast<T*>(call.output());
  const auto each = [&](auto power) {
    Share(call, Elements(call.shape(call.slots().output)), 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) to[i] = FromFloat<T>(power(ToFloat(x[i])));
    });
  };
  if (exponent == 0.5f) return each([](float v) { return std::sqrt(v); });
  if (exponent == -0.5f) return each([](float v) { return 1 / std::sqrt(v); });
  if (exponent == -1) return each([](float v) { return 1 / v; });
  each([=](float v) { return std::pow(v, exponent); });
}

// What lies under the windows of `pixels` pixels of a row, equally many columns under each, `channels` from `c` on.
void PoolWindows(const StepCall& call, int64_t n, int64_t p, int64_t q, int64_t pixels, int64_t c, int64_t channels,
                 bool largest) {
  const Chain& k = call.slots().chain;
  const int64_t h = p * k.stride_h - k.pad_top, w = q * k.stride_w - k.pad_left;
  const int64_t top = std::clamp<int64_t>(h, 0, k.H), bottom = std::clamp<int64_t>(h + k.R, top, k.H);
  const int64_t left = std::clamp<int64_t>(w, 0, k.W), right = std::clamp<int64_t>(w + k.S, left, k.W);
  PoolArgs args;
  args.pixel_step = call.row_step(call.slots().xs[0]);
  args.row_step = k.W * args.pixel_step;
  args.x = call.x() + (((n * k.H + top) * k.W + left) * args.pixel_step + c) * call.item();
  args.rows = bottom - top;
  args.columns = right - left;
  args.pixels = pixels;
  args.stride = k.stride_w;
  args.channels = channels;
  args.largest = largest;
  args.count = args.rows * args.columns;
  args.to_step = call.row_step(call.slots().output);
  args.to = call.output() + (((n * k.Ho + p) * k.Wo + q) * args.to_step + c) * call.item();
  call.kernels.pool[call.type()](args);
}

void Pool(const StepCall& call) {
  const Chain& k = call.slots().chain;
  const bool largest = call.step().kind == StepKind::kMaxPool;
  // Columns whose windows are inside the image.
  const int64_t first = std::min(CeilDiv(k.pad_left, k.stride_w), k.Wo), room = k.W + k.pad_left - k.S;
  const int64_t last = std::clamp(room < 0 ? 0 : room / k.stride_w + 1, first, k.Wo);
  Share(call, k.N * k.Ho, k.Wo * k.C * k.R * k.S / 4, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t q = 0; q < k.Wo;) {
        const int64_t pixels = q == first && last > first ? last - first : 1;
        PoolWindows(call, row / k.Ho, row % k.Ho, q, pixels, 0, k.C, largest);
        q += pixels;
      }
    }
  });
}

// The mean of channels [c, c + channels) of an image from the sums of its rows.
void MeanOfSums(const StepCall& call, int64_t n, int64_t c, int64_t channels) {
  const Chain& k = call.slots().chain;
  PoolArgs args;
  args.x = call.row_sums + n * k.H * k.C + c;
  args.row_step = k.C;
  args.pixel_step = args.stride = 0;
  args.rows = k.H;
  args.columns = args.pixels = 1;
  args.channels = channels;
  args.largest = false;
  args.count = k.H * k.W;
  args.to = call.output() + (n * k.C + c) * call.item();
  args.to_step = k.C;
  call.kernels.from_sums[call.type()](args);
}

// The whole image under one window, some channels at a time. A share does not depend on the threads, nor do the sums.
void Reduce(const StepCall& call) {
  const Chain& k = call.slots().chain;
  constexpr int64_t kChannels = 64;
  const int64_t shares = CeilDiv(k.C, kChannels);
  const bool from_sums = call.row_sums != nullptr;
  Share(call, k.N * shares, k.H * (from_sums ? 1 : k.W) * kChannels, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / shares, c = i % shares * kChannels, channels = std::min(kChannels, k.C - c);
      if (from_sums) {
        MeanOfSums(call, n, c, channels);
      } else {
        PoolWindows(call, n, 0, 0, 1, c, channels, call.step().kind == StepKind::kMax);
      }
    }
  });
}

// Rows along the last axis: normalize and softmax.
void Rows(const StepCall& call) {
  const Sizes& shape = call.shape(call.slots().output);
  const int64_t n = shape.back(), bytes = n * call.item();
  Share(call, Elements(shape) / n, 4 * n, [&](int64_t begin, int64_t end) {
    const char* x = call.x() + begin * bytes;
    char* to = call.output() + begin * bytes;
    if (call.step().kind == StepKind::kSoftmax) return call.kernels.softmax[call.type()]({x, n, end - begin, to});
    for (int64_t row = begin; row < end; ++row, x += bytes, to += bytes) {
      call.kernels.normalize[call.type()](
          {x, call.Weight(Role::kGamma), call.Weight(Role::kBeta), n, call.step().epsilon, to});
    }
  });
}

void Concatenate(const StepCall& call) {
  const InferredStep& slots = call.slots();
  const auto is_inside = [&](int slot) { return IsInside(call.plan, slot, slots.output); };
  if (std::all_of(slots.xs.begin(), slots.xs.end(), is_inside)) return;
  const Sizes& shape = call.shape(slots.output);
  const size_t axis = static_cast<size_t>(*call.step().axis);
  const int64_t outer = Product(shape, 0, axis), row = Product(shape, axis, shape.size());
  Share(call, outer, row, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      char* to = call.output() + i * row * call.item();
      for (int slot : slots.xs) {
        const int64_t bytes = Product(call.shape(slot), axis, shape.size()) * call.item();
        const int64_t step = axis + 1 == shape.size() ? call.row_step(slot) * call.item() : bytes;
        if (bytes > 0 && !is_inside(slot)) {
          std::memcpy(to, call.at[static_cast<size_t>(slot)] + i * step, static_cast<size_t>(bytes));
        }
        to += bytes;
      }
    }
  });
}

template <typename T>
void PadWith(const StepCall& call) {
  const Sizes& pads = call.step().paddings;
  const Sizes& from = call.shape(call.slots().xs[0]);
  const Sizes& to = call.shape(call.slots().output);
  // The last axis that is padded, with all behind it, is a row.
  size_t axis = from.size() - 1;
  while (axis > 0 && pads[2 * axis] == 0 && pads[2 * axis + 1] == 0) --axis;
  const int64_t inner = Product(from, axis + 1, from.size()), row = to[axis] * inner, x_row = from[axis] * inner;
  const T* const x = reinterpret_cast<const T*>(call.x());
  T* const y = reinterpret_cast<T*>(call.output());
  const T value = FromFloat<T>(call.step().value);
  Share(call, Product(to, 0, axis), row, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t rest = i, x_at = 0, step = 1;
      bool inside = true;
      for (size_t a = axis; a-- > 0;) {
        const int64_t at = rest % to[a] - pads[2 * a];
        rest /= to[a];
        inside = inside && at >= 0 && at < from[a];
        x_at += at * step;
        step *= from[a];
      }
      T* const out = y + i * row;
      const int64_t before = inside ? pads[2 * axis] * inner : row;
      std::fill(out, out + before, value);
      if (!inside) continue;
      std::copy_n(x + x_at * x_row, x_row, out + before);
      std::fill(out + before + x_row, out + row, value);
    }
  });
}

// Where an output row or column lies between those of the input: as TensorFlow computes it, in float.
struct Between {
  int64_t low, high;
  float part;

  Between(int64_t i, int64_t in, int64_t out, bool nearest) {
    const float scale = static_cast<float>(in) / static_cast<float>(out);
    const float at = (static_cast<float>(i) + 0.5f) * scale - (nearest ? 0.0f : 0.5f), floor = std::floor(at);
    low = std::clamp<int64_t>(static_cast<int64_t>(floor), 0, in - 1);
    high = std::clamp<int64_t>(static_cast<int64_t>(std::ceil(at)), 0, in - 1);
    part = at - floor;
  }
};

void Resize(const StepCall& call) {
  const Sizes& from = call.shape(call.slots().xs[0]);
  const Sizes& to = call.shape(call.slots().output);
  const int64_t C = from[3], item = call.item(), x_step = call.row_step(call.slots().xs[0]);
  const int64_t to_step = call.row_step(call.slots().output);
  const bool nearest = call.step().method == "nearest";
  Sizes low, high;
  std::vector<float> right;
  for (int64_t q = 0; q < to[2]; ++q) {
    const Between w(q, from[2], to[2], nearest);
    low.push_back(w.low);
    high.push_back(w.high);
    right.push_back(w.part);
  }
  Share(call, to[0] * to[1], to[2] * C, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const Between h(row % to[1], from[1], to[1], nearest);
      const auto line = [&](int64_t r) { return call.x() + (row / to[1] * from[1] + r) * from[2] * x_step * item; };
      char* const out = call.output() + row * to[2] * to_step * item;
      if (!nearest) {
        call.kernels.blend[call.type()](
            {line(h.low), line(h.high), x_step, low.data(), high.data(), right.data(), h.part, to[2], C, out, to_step});
        continue;
      }
      for (int64_t q = 0; q < to[2]; ++q) {
        std::memcpy(out + q * to_step * item, line(h.low) + low[static_cast<size_t>(q)] * x_step * item,
                    static_cast<size_t>(C * item));
      }
    }
  });
}

}  // namespace

void SumRows(const StepCall& call, int64_t n, int64_t row, int64_t rows, int64_t c, int64_t channels, float* sums) {
  const Chain& k = call.slots().chain;
  PoolArgs args;
  args.row_step = 0;
  args.pixel_step = call.row_step(call.slots().output);
  args.stride = args.columns = k.Wo;
  args.rows = args.count = 1;
  // Rows of all channels lie one behind the other, and so do their sums.
  args.pixels = channels == k.K ? rows : 1;
  args.channels = channels;
  args.largest = false;
  for (int64_t i = 0; i < rows; i += args.pixels) {
    const int64_t at = n * k.Ho + row + i;
    args.x = call.output() + (at * k.Wo * args.pixel_step + c) * call.item();
    args.to = sums + at * k.K + c;
    args.to_step = k.K;
    call.kernels.sum[call.type()](args);
  }
}

void RunStep(const StepCall& call) {
  switch (call.step().kind) {
    case StepKind::kMaxPool:
    case StepKind::kAveragePool:
      return Pool(call);
    case StepKind::kMean:
    case StepKind::kMax:
      return Reduce(call);
    case StepKind::kActivation:
      return Activate(call);
    case StepKind::kPower:
      return WithType(call.program.dtype, [&](auto type) { Power<decltype(type)>(call); });
    case StepKind::kNormalize:
    case StepKind::kSoftmax:
      return Rows(call);
    case StepKind::kConcatenate:
      return Concatenate(call);
    case StepKind::kPad:
      return WithType(call.program.dtype, [&](auto type) { PadWith<decltype(type)>(call); });
    case StepKind::kResize:
      return Resize(call);
    case StepKind::kCrop:
    case StepKind::kTranspose:
    case StepKind::kDepthToSpace:
      return Move(call);
    case StepKind::kReshape:  // a tensor of the plan that is another one's memory
    case StepKind::kChain:
    case StepKind::kDense:
      return;
    default:
      return Combine(call);
  }
}

}  // namespace dwsconv
