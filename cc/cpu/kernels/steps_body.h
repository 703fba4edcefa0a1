// The kernels of step_table.h over the vectors of one target. Part of a kernel's translation unit: include after
// activation_body.h.
#ifndef DWSCONV_CPU_KERNELS_STEPS_BODY_H_
#define DWSCONV_CPU_KERNELS_STEPS_BODY_H_

#include "cc/core/half.h"
#include "cc/core/whole.h"
#include "cc/cpu/kernels/step_table.h"

namespace dwsconv {
namespace {

constexpr int64_t kRun = 512;  // floats on the stack between an op and its activation

template <typename T>
inline Vec LoadUpTo(const T* p, int64_t n) {
  return n >= kV ? Load(p) : LoadN(p, n);
}
template <typename T>
inline void StoreUpTo(T* p, Vec v, int64_t n) {
  if (n >= kV) {
    Store(p, v);
  } else {
    StoreN(p, v, n);
  }
}

// to[0:n] = activation(value(i, lanes)), a vector at a time.
template <typename T, typename Value>
inline __attribute__((always_inline)) void ActivatedRun(int64_t n, T* to, const Activation& activation, const T* slopes,
                                                        const Value& value) {
  alignas(64) float run[kRun];
  for (int64_t first = 0; first < n; first += kRun) {
    const int64_t here = n - first < kRun ? n - first : kRun;
    for (int64_t i = 0; i < here; i += kV) {
      Vec v = value(first + i, here - i);
      if (slopes != nullptr) v = PRelu(v, LoadUpTo(slopes + first + i, here - i));
      Store(run + i, v);
    }
    if (slopes == nullptr) ActivateRow(run, RoundUp(here, kV), activation);
    for (int64_t i = 0; i < here; i += kV) StoreUpTo(to + first + i, Load(run + i), here - i);
  }
}

template <typename T, typename Op>
void CombineBy(const CombineArgs& a, const Op& op) {
  const T* const x = static_cast<const T*>(a.x);
  const T* const y = static_cast<const T*>(a.y);
  const Vec x_one = Set1(a.x_same ? ToFloat(*x) : 0.0f), y_one = Set1(a.y_same ? ToFloat(*y) : 0.0f);
  ActivatedRun<T>(a.n, static_cast<T*>(a.to), a.activation, nullptr, [&](int64_t i, int64_t lanes) {
    return op(a.x_same ? x_one : LoadUpTo(x + i, lanes), a.y_same ? y_one : LoadUpTo(y + i, lanes));
  });
}

// NaN where either is: MaxSecondOnNan alone looks at the second.
inline Vec MaxOrNan(Vec x, Vec y) { return x == x ? MaxSecondOnNan(x, y) : x; }
inline Vec MinOrNan(Vec x, Vec y) { return x == x ? MinSecondOnNan(x, y) : x; }

template <typename T>
void Combine(const CombineArgs& a) {
  switch (a.kind) {
    case CombineKind::kAdd:
      return CombineBy<T>(a, [](Vec x, Vec y) { return x + y; });
    case CombineKind::kSubtract:
      return CombineBy<T>(a, [](Vec x, Vec y) { return x - y; });
    case CombineKind::kMultiply:
      return CombineBy<T>(a, [](Vec x, Vec y) { return x * y; });
    case CombineKind::kMaximum:
      return CombineBy<T>(a, [](Vec x, Vec y) { return MaxOrNan(x, y); });
    case CombineKind::kMinimum:
      return CombineBy<T>(a, [](Vec x, Vec y) { return MinOrNan(x, y); });
  }
}

template <typename T>
void StepActivate(const StepActivateArgs& a) {
  const T* const x = static_cast<const T*>(a.x);
  ActivatedRun<T>(a.n, static_cast<T*>(a.to), a.activation, static_cast<const T*>(a.slopes),
                  [x](int64_t i, int64_t lanes) { return LoadUpTo(x + i, lanes); });
}

// Where kCount vectors of what is pooled lie: channels of one pixel, or pixels of at most a vector of channels.
struct PoolSteps {
  int64_t from, to, lanes;  // from one vector to the next; how many fewer lanes it has that are wanted
};

// kCount sums at once: one alone waits for itself. `lanes` of the first are wanted; with kWhole all of each. What there
// is to decide is decided before the loops, which have little else to do.
template <bool kLargest, bool kWhole, int kCount, typename T, typename To>
inline void PoolVectors(const PoolArgs& a, const T* x, int64_t lanes, To* to, const PoolSteps& step) {
  const Vec start = Set1(kLargest ? -__builtin_inff() : 0.0f);
  Vec total[kCount];
#pragma GCC unroll 4
  for (int v = 0; v < kCount; ++v) total[v] = start;
  for (int64_t r = 0; r < a.rows; ++r, x += a.row_step) {
    const T* pixel = x;
    Vec row[kCount];
#pragma GCC unroll 4
    for (int v = 0; v < kCount; ++v) row[v] = start;
    for (int64_t s = 0; s < a.columns; ++s, pixel += a.pixel_step) {
#pragma GCC unroll 4
      for (int v = 0; v < kCount; ++v) {
        const T* const at = pixel + v * step.from;
        const Vec value = kWhole ? Load(at) : LoadUpTo(at, lanes - v * step.lanes);
        row[v] = kLargest ? MaxOrNan(row[v], value) : row[v] + value;
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < kCount; ++v) total[v] = kLargest ? MaxOrNan(total[v], row[v]) : total[v] + row[v];
  }
  const Vec count = Set1(static_cast<float>(a.count));
#pragma GCC unroll 4
  for (int v = 0; v < kCount; ++v) {
    StoreUpTo(to + v * step.to, kLargest ? total[v] : total[v] / count, lanes - v * step.lanes);
  }
}

template <bool kLargest, typename T, typename To>
inline void PoolPixel(const PoolArgs& a, const T* x, To* to) {
  constexpr PoolSteps kStep = {kV, kV, kV};
  int64_t rest = a.channels;
  for (; rest >= 4 * kV; rest -= 4 * kV, x += 4 * kV, to += 4 * kV) {
    PoolVectors<kLargest, true, 4>(a, x, 4 * kV, to, kStep);
  }
  if (rest > 3 * kV) return PoolVectors<kLargest, false, 4>(a, x, rest, to, kStep);
  if (rest > 2 * kV) return PoolVectors<kLargest, false, 3>(a, x, rest, to, kStep);
  if (rest > kV) return PoolVectors<kLargest, false, 2>(a, x, rest, to, kStep);
  if (rest > 0) PoolVectors<kLargest, false, 1>(a, x, rest, to, kStep);
}

template <bool kLargest, typename T, typename To>
void PoolBy(const PoolArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  To* to = static_cast<To*>(a.to);
  int64_t left = a.pixels;
  if (a.channels <= kV) {
    const PoolSteps step = {a.stride * a.pixel_step, a.to_step, 0};
    for (; left >= 4; left -= 4, x += 4 * step.from, to += 4 * step.to) {
      PoolVectors<kLargest, false, 4>(a, x, a.channels, to, step);
    }
  }
  for (; left > 0; --left, x += a.stride * a.pixel_step, to += a.to_step) PoolPixel<kLargest>(a, x, to);
}

template <typename T, typename To>
void Pool(const PoolArgs& a) {
  a.largest ? PoolBy<true, T, To>(a) : PoolBy<false, T, To>(a);
}

// A vector's lanes by an op of two vectors: the same pairs first, whatever the row.
template <typename Op>
inline __attribute__((always_inline)) Vec Across(Vec v, const Op& op) {
  typedef int32_t Lanes __attribute__((vector_size(kV * 4)));
  Lanes lane;
#pragma GCC unroll 16
  for (int i = 0; i < kV; ++i) lane[i] = i;
#pragma GCC unroll 4
  for (int step = kV / 2; step > 0; step /= 2) v = op(v, __builtin_shuffle(v, (lane + step) & (kV - 1)));
  return v;
}

// The sum of term(i, lanes) over a row, lanes past its end not counted: four sums, so that none waits for the one
// before.
template <typename Term>
inline float SumOf(int64_t n, const Term& term) {
  Vec sums[4] = {Set1(0.0f), Set1(0.0f), Set1(0.0f), Set1(0.0f)};
  int64_t i = 0;
  for (; i + 4 * kV <= n; i += 4 * kV) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) sums[v] = sums[v] + term(i + v * kV, kV);
  }
  for (; i + kV <= n; i += kV) sums[0] = sums[0] + term(i, kV);
  float total = Across((sums[0] + sums[1]) + (sums[2] + sums[3]), [](Vec p, Vec q) { return p + q; })[0];
  if (i == n) return total;
  float lanes[kV];
  Store(lanes, term(i, n - i));
  for (int64_t v = 0; v < n - i; ++v) total += lanes[v];
  return total;
}

// Rows of kCount vectors, the last of which has `lanes`: all of a row is in registers. Some rows go to a buffer first:
// a store of part of a vector, just before its neighbour, keeps the neighbour's load waiting where `to` is x.
template <int kCount, typename T>
void SoftmaxOf(const SoftmaxArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  T* to = static_cast<T*>(a.to);
  const int64_t lanes = a.n - (kCount - 1) * kV, together = kRun / a.n;
  float ends[kV];
  for (int i = 0; i < kV; ++i) ends[i] = i < lanes ? 0.0f : -__builtin_inff();
  const Vec end = Load(ends);
  alignas(64) float run[kRun + kV];
  for (int64_t first = 0; first < a.rows; first += together) {
    const int64_t rows = a.rows - first < together ? a.rows - first : together;
    float* at = run;
    for (int64_t row = 0; row < rows; ++row, x += a.n, at += a.n) {
      Vec v[kCount];
#pragma GCC unroll 4
      for (int i = 0; i < kCount - 1; ++i) v[i] = Load(x + i * kV);
      v[kCount - 1] = LoadUpTo(x + (kCount - 1) * kV, lanes) + end;
      Vec largest = v[0];
#pragma GCC unroll 4
      for (int i = 1; i < kCount; ++i) largest = MaxSecondOnNan(v[i], largest);
      largest = Across(largest, MaxSecondOnNan);
      Vec sum = Set1(0.0f);
#pragma GCC unroll 4
      for (int i = 0; i < kCount; ++i) {
        v[i] = Exp(v[i] - largest);
        sum = sum + v[i];
      }
      sum = Across(sum, [](Vec p, Vec q) { return p + q; });
      // What is past the row's end is the next one's.
#pragma GCC unroll 4
      for (int i = 0; i < kCount; ++i) Store(at + i * kV, v[i] / sum);
    }
    const int64_t count = rows * a.n;
    for (int64_t i = 0; i < count; i += kV) StoreUpTo(to + i, Load(run + i), count - i);
    to += count;
  }
}

// Of a row of at most kKept elements the powers are kept, of a longer one they are computed twice.
constexpr int64_t kKept = 4096;

template <typename T>
void LongSoftmax(const SoftmaxArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  T* to = static_cast<T*>(a.to);
  alignas(64) float kept[kKept + kV];
  for (int64_t row = 0; row < a.rows; ++row, x += a.n, to += a.n) {
    Vec most[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) most[v] = Set1(-__builtin_inff());
    int64_t i = 0;
    for (; i + 4 * kV <= a.n; i += 4 * kV) {
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) most[v] = MaxSecondOnNan(Load(x + i + v * kV), most[v]);
    }
    for (; i + kV <= a.n; i += kV) most[0] = MaxSecondOnNan(Load(x + i), most[0]);
    // The last vector of the row once more, whatever of it is new.
    most[1] = MaxSecondOnNan(Load(x + a.n - kV), most[1]);
    most[0] = MaxSecondOnNan(MaxSecondOnNan(most[0], most[1]), MaxSecondOnNan(most[2], most[3]));
    const Vec shift = Across(most[0], MaxSecondOnNan);
    const auto power = [&](int64_t at, int64_t lanes) { return Exp(LoadUpTo(x + at, lanes) - shift); };
    if (a.n > kKept) {
      const Vec share = Set1(1.0f / SumOf(a.n, power));
      for (i = 0; i < a.n; i += kV) StoreUpTo(to + i, power(i, a.n - i) * share, a.n - i);
      continue;
    }
    const Vec share = Set1(1.0f / SumOf(a.n, [&](int64_t at, int64_t lanes) {
                             const Vec v = power(at, lanes);
                             Store(kept + at, v);
                             return v;
                           }));
    for (i = 0; i < a.n; i += kV) StoreUpTo(to + i, Load(kept + i) * share, a.n - i);
  }
}

// A NaN spoils the sum, so the row.
template <typename T>
void Softmax(const SoftmaxArgs& a) {
  switch (CeilDiv(a.n, kV)) {
    case 1:
      return SoftmaxOf<1, T>(a);
    case 2:
      return SoftmaxOf<2, T>(a);
    case 3:
      return SoftmaxOf<3, T>(a);
    case 4:
      return SoftmaxOf<4, T>(a);
    default:
      return LongSoftmax<T>(a);
  }
}

// The mean first and then the squares of what is left: one pass over squares would cancel.
template <typename T>
void StepNormalize(const NormalizeArgs& a) {
  const T* const x = static_cast<const T*>(a.x);
  const T* const gamma = static_cast<const T*>(a.gamma);
  const T* const beta = static_cast<const T*>(a.beta);
  T* const to = static_cast<T*>(a.to);
  const float inverse = 1.0f / static_cast<float>(a.n);
  const Vec mean = Set1(inverse * SumOf(a.n, [x](int64_t i, int64_t lanes) { return LoadUpTo(x + i, lanes); }));
  const float variance = inverse * SumOf(a.n, [=](int64_t i, int64_t lanes) {
                           const Vec v = LoadUpTo(x + i, lanes) - mean;
                           return v * v;
                         });
  const Vec factor = Set1(1.0f / __builtin_sqrtf(variance + a.epsilon));
  for (int64_t i = 0; i < a.n; i += kV) {
    const int64_t lanes = a.n - i;
    Vec v = (LoadUpTo(x + i, lanes) - mean) * factor;
    if (gamma != nullptr) v = v * LoadUpTo(gamma + i, lanes);
    if (beta != nullptr) v = v + LoadUpTo(beta + i, lanes);
    StoreUpTo(to + i, v, lanes);
  }
}

// Columns go down first, as neighbours share them, and then to the right: some channels at a time, so that the two
// columns in use are near.
template <typename T>
void Blend(const BlendArgs& a) {
  alignas(64) float columns[2][kRun];  // of the even one and of the odd one
  const Vec down = Set1(a.down);
  for (int64_t first = 0; first < a.channels; first += kRun) {
    const int64_t channels = a.channels - first < kRun ? a.channels - first : kRun;
    const T* const top = static_cast<const T*>(a.top) + first;
    const T* const bottom = static_cast<const T*>(a.bottom) + first;
    T* to = static_cast<T*>(a.to) + first;
    int64_t have[2] = {-1, -1};
    const auto column = [&](int64_t w) {
      float* const at = columns[w % 2];
      if (have[w % 2] == w) return at;
      have[w % 2] = w;
      for (int64_t i = 0; i < channels; i += kV) {
        const int64_t lanes = channels - i;
        const Vec above = LoadUpTo(top + w * a.x_step + i, lanes);
        Store(at + i, above + (LoadUpTo(bottom + w * a.x_step + i, lanes) - above) * down);
      }
      return at;
    };
    for (int64_t q = 0; q < a.pixels; ++q, to += a.to_step) {
      const float* const left = column(a.low[q]);
      const float* const next = column(a.high[q]);
      const Vec right = Set1(a.right[q]);
      for (int64_t i = 0; i < channels; i += kV) {
        const Vec v = Load(left + i);
        StoreUpTo(to + i, v + (Load(next + i) - v) * right, channels - i);
      }
    }
  }
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_STEPS_BODY_H_
