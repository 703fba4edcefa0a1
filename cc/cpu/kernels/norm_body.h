// Batch norm in training over the vectors of one target. Part of a kernel's translation unit: include after
// derivative_body.h.
//
// All walk along the rows, so that memory is read in its order; what they add up lies in L1.
#ifndef DWSCONV_CPU_KERNELS_NORM_BODY_H_
#define DWSCONV_CPU_KERNELS_NORM_BODY_H_

#include "cc/cpu/kernels/backward_table.h"

namespace dwsconv {
namespace {

// visit(c, load) for each vector of channels, where load(p) is p[c : c + kV] with zeros behind the last channel.
template <typename Visit>
inline __attribute__((always_inline)) void ForVectors(int64_t channels, const Visit& visit) {
  int64_t c = 0;
  for (; c + kV <= channels; c += kV) {
    visit(c, [c](const auto* p) { return Load(p + c); });
  }
  if (c < channels) {
    visit(c, [c, channels](const auto* p) { return LoadN(p + c, channels - c); });
  }
}

template <typename T>
inline void StoreChannels(T* p, Vec v, int64_t n) {
  if (n >= kV) {
    Store(p, v);
  } else {
    StoreN(p, v, n);
  }
}

// rows of a block of four, and what is left one by one: visit(first row, how many as a type).
template <int kRows>
struct RowCount {};

template <typename Visit>
inline __attribute__((always_inline)) void ForFourRows(int64_t rows, const Visit& visit) {
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) visit(row, RowCount<4>());
  for (; row < rows; ++row) visit(row, RowCount<1>());
}

// The sum of value(i) over i < kRows, by pairs.
template <int kRows, typename Value>
inline __attribute__((always_inline)) Vec SumOf(RowCount<kRows>, const Value& value) {
  if constexpr (kRows == 1) {
    return value(0);
  } else {
    return (value(0) + value(1)) + (value(2) + value(3));
  }
}

template <typename T>
void Moments(const MomentsArgs& a) {
  const T* const x = static_cast<const T*>(a.x);
  for (int64_t c = 0; c < a.channels; c += kV) {
    Store(a.mean + c, Set1(0.0f));
    Store(a.rest + c, Set1(0.0f));
    Store(a.squares + c, Set1(0.0f));
  }
  ForFourRows(a.rows, [&](int64_t row, auto count) {
    const T* const at = x + row * a.channels;
    ForVectors(a.channels, [&](int64_t c, const auto& load) {
      Store(a.mean + c, Load(a.mean + c) + SumOf(count, [&](int64_t i) { return load(at + i * a.channels); }));
    });
  });
  const Vec share = Set1(1.0f / static_cast<float>(a.rows));
  for (int64_t c = 0; c < a.channels; c += kV) Store(a.mean + c, Load(a.mean + c) * share);
  ForFourRows(a.rows, [&](int64_t row, auto count) {
    const T* const at = x + row * a.channels;
    ForVectors(a.channels, [&](int64_t c, const auto& load) {
      const Vec mean = Load(a.mean + c);
      Vec apart[4];
      const auto less_mean = [&](int64_t i) { return apart[i] = load(at + i * a.channels) - mean; };
      Store(a.rest + c, Load(a.rest + c) + SumOf(count, less_mean));
      Store(a.squares + c, Load(a.squares + c) + SumOf(count, [&](int64_t i) { return apart[i] * apart[i]; }));
    });
  });
}

template <typename T>
void Normalize(const NormArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  WithActivation(a.activation, [&](const auto& activate) {
    for (int64_t row = 0; row < a.rows; ++row, x += a.channels, y += a.channels) {
      ForVectors(a.channels, [&](int64_t c, const auto& load) {
        const Vec before = Fma(load(x) - Load(a.mean + c), Load(a.scale + c), Load(a.shift + c));
        StoreChannels(y + c, activate(before), a.channels - c);
      });
    }
  });
}

// The gradient before the activation, which lies behind (x - mean) * scale + shift; `apart` is x - mean.
template <typename Activate>
inline __attribute__((always_inline)) Vec BeforeActivation(const Activate& activate, bool at_input, Vec grad, Vec apart,
                                                           Vec scale, Vec shift) {
  if constexpr (Activate::kIsNone) {
    return grad;
  } else {
    return Through(activate, grad, Fma(apart, scale, shift), at_input);
  }
}

template <typename T>
void NormSums(const NormSumsArgs& a) {
  const T* const x = static_cast<const T*>(a.x);
  const T* const grad = static_cast<const T*>(a.grad);
  for (int64_t c = 0; c < a.channels; c += kV) {
    Store(a.sums + c, Set1(0.0f));
    Store(a.products + c, Set1(0.0f));
  }
  WithActivation(a.activation, [&](const auto& activate) {
    ForFourRows(a.rows, [&](int64_t row, auto count) {
      const int64_t first = row * a.channels;
      ForVectors(a.channels, [&](int64_t c, const auto& load) {
        const Vec mean = Load(a.mean + c), scale = Load(a.scale + c), shift = Load(a.shift + c);
        Vec products[4];
        const auto through = [&](int64_t i) {
          const int64_t at = first + i * a.channels;
          const Vec apart = load(x + at) - mean;
          const Vec before = BeforeActivation(activate, a.at_input, load(grad + at), apart, scale, shift);
          products[i] = before * apart;
          return before;
        };
        Store(a.sums + c, Load(a.sums + c) + SumOf(count, through));
        Store(a.products + c, Load(a.products + c) + SumOf(count, [&](int64_t i) { return products[i]; }));
      });
    });
  });
}

template <typename T>
void NormGrad(const NormGradArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  const T* grad = static_cast<const T*>(a.grad);
  T* to = static_cast<T*>(a.d_x);
  WithActivation(a.activation, [&](const auto& activate) {
    for (int64_t row = 0; row < a.rows; ++row, x += a.channels, grad += a.channels, to += a.channels) {
      ForVectors(a.channels, [&](int64_t c, const auto& load) {
        const Vec scale = Load(a.scale + c), apart = load(x) - Load(a.mean + c);
        const Vec before = BeforeActivation(activate, a.at_input, load(grad), apart, scale, Load(a.shift + c));
        const Vec centred = before - Fma(apart, Load(a.slope + c), Load(a.offset + c));
        StoreChannels(to + c, centred * scale, a.channels - c);
      });
    }
  });
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_NORM_BODY_H_
