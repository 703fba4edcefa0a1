// Activations on one Vec. Part of a kernel's translation unit: include after a vec_<isa>.h.
#ifndef DWSCONV_CPU_KERNELS_ACTIVATION_BODY_H_
#define DWSCONV_CPU_KERNELS_ACTIVATION_BODY_H_

#include "cc/core/chain.h"
#include "cc/cpu/kernels/activation_tables.h"

namespace dwsconv {
namespace {

// relu, relu6 and none are min(max(x, low), high): cheap enough to be always on in the kernels' stores. A NaN passes
// through, as in TensorFlow's own relu and relu6.
struct Clamp {
  Vec low, high;
};

inline Clamp MakeClamp(const Activation& activation) {
  const float inf = __builtin_inff();
  switch (activation.kind) {
    case ActivationKind::kRelu:
      return Clamp{Set1(0.0f), Set1(activation.max_value)};
    case ActivationKind::kRelu6:
      return Clamp{Set1(0.0f), Set1(6.0f)};
    default:
      return Clamp{Set1(-inf), Set1(inf)};
  }
}
inline Vec Apply(Vec v, const Clamp& clamp) { return MinSecondOnNan(clamp.high, MaxSecondOnNan(clamp.low, v)); }

// x = n ln2 + r, |r| <= ln2/2, and slope = (e^r - 1) / r, so that e^x = 2^n (1 + r slope).
struct ExpParts {
  Vec n, r, slope;
};

// The polynomial gives e^r with a relative error of 2.6e-9 at most (minimax, by Remez' algorithm).
inline ExpParts SplitExp(Vec x, float least = -104.0f) {
  x = MinSecondOnNan(Set1(89.0f), MaxSecondOnNan(Set1(least), x));
  const Vec n = RoundNearest(x * Set1(1.44269504088896341f));
  Vec r = Fma(n, Set1(-0.693145751953125f), x);  // ln2 in two parts: the first has few bits, so n times it is exact
  r = Fma(n, Set1(-1.428606820309417e-6f), r);
  Vec p = Set1(1.40612404e-3f);
  p = Fma(p, r, Set1(8.37901116e-3f));
  p = Fma(p, r, Set1(4.16647773e-2f));
  p = Fma(p, r, Set1(1.66663654e-1f));
  p = Fma(p, r, Set1(0.5f));
  return ExpParts{n, r, Fma(p, r, Set1(1.0f))};
}

// e^x to about 1 ulp.
inline Vec Exp(Vec x) {
  const ExpParts parts = SplitExp(x);
  return ScaleByPow2(Fma(parts.slope, parts.r, Set1(1.0f)), parts.n);
}

// e^x - 1 for x <= 0, without cancellation near zero.
inline Vec ExpMinus1(Vec x) {
  const ExpParts parts = SplitExp(x);
  const Vec scale = ScaleByPow2(Set1(1.0f), parts.n);
  return Fma(scale, parts.r * parts.slope, scale - Set1(1.0f));
}

// e^-x for |x| <= 104 to about 2 ulp, with few operations where one instruction scales: adding 1.5 * 2^23 rounds to a
// whole number; one ln2 leaves an error of 2e-9 n; the polynomial has a relative error of 7.6e-8 at most (minimax).
inline Vec ExpMinus(Vec x) {
  const Vec n = Fma(x, Set1(-1.44269504088896341f), Set1(12582912.0f)) - Set1(12582912.0f);
  const Vec r = Fma(n, Set1(-0.69314718055994531f), -x);
  Vec p = Set1(8.297584020e-3f);
  p = Fma(p, r, Set1(4.191587493e-2f));
  p = Fma(p, r, Set1(1.666757762e-1f));
  p = Fma(p, r, Set1(4.999889135e-1f));
  p = Fma(p, r, Set1(9.999997020e-1f));
  p = Fma(p, r, Set1(1.000000119f));
  return ScaleByPow2(p, n);
}

// 1 + e^-x, infinite where e^-x is. Above 86.6 it is 1 in any case; so half of e^-x is a product with one power of two,
// where Exp needs two for its subnormals. With kAnyNan a NaN may become a number.
template <bool kAnyNan>
inline Vec OnePlusExpMinus(Vec x) {
  if constexpr (kScalesInOne) {
    x = kAnyNan ? WithinAnyNan(x, 89.0f) : MinSecondOnNan(Set1(89.0f), MaxSecondOnNan(Set1(-89.0f), x));
    return Set1(1.0f) + ExpMinus(x);
  } else {
    const ExpParts parts = SplitExp(-x, -86.6f);
    const Vec half = HalfPow2(parts.n);
    return Fma(Fma(parts.slope, parts.r * half, half), Set1(2.0f), Set1(1.0f));
  }
}

// With kDivides by a division also where an estimate of the reciprocal is there.
template <bool kDivides = false>
inline Vec Sigmoid(Vec x) {
  const Vec v = OnePlusExpMinus<false>(x);
  return kDivides ? Set1(1.0f) / v : Reciprocal(v);
}
// x sigmoid(u), where a NaN in u is one in x.
template <bool kDivides>
inline Vec TimesSigmoid(Vec x, Vec u) {
  const Vec v = OnePlusExpMinus<true>(u);
  return kDivides ? x / v : Quotient(x, v);
}

template <bool kDivides>
inline Vec Tanh(Vec x) {
  // Near zero the exponential form cancels; an odd polynomial (Cephes' tanhf, |x| < 0.625) keeps the relative error.
  const Vec s = x * x;
  Vec p = Set1(-5.70498872745e-3f);
  p = Fma(p, s, Set1(2.06390887954e-2f));
  p = Fma(p, s, Set1(-5.37397155531e-2f));
  p = Fma(p, s, Set1(1.33314422036e-1f));
  p = Fma(p, s, Set1(-3.33332819422e-1f));
  const Vec small = Fma(p * s, x, x);
  const Vec large = Fma(Set1(-2.0f), Sigmoid<kDivides>(-(x + x)), Set1(1.0f));
  return s < Set1(0.625f * 0.625f) ? small : large;
}

// x * Phi(x) from a table where there is one; else Phi by Abramowitz & Stegun 7.1.26 for erfc (absolute error 1.5e-7).
// The tail is taken from erfc directly, so negative x suffer no cancellation.
template <typename V>
inline V Gelu(V x) {
  if constexpr (kTakesTables) {
    return GeluByTable(x);
  } else {
    const Vec zero = Set1(0.0f);
    const Vec a = (x < zero ? -x : x) * Set1(0.70710678118654752f);
    const Vec t = Reciprocal(Fma(Set1(0.3275911f), a, Set1(1.0f)));
    Vec p = Set1(0.5f * 1.061405429f);
    p = Fma(p, t, Set1(0.5f * -1.453152027f));
    p = Fma(p, t, Set1(0.5f * 1.421413741f));
    p = Fma(p, t, Set1(0.5f * -0.284496736f));
    p = Fma(p, t, Set1(0.5f * 0.254829592f));
    const Vec half_erfc = p * t * Exp(-a * a);
    return x * (x < zero ? half_erfc : Set1(1.0f) - half_erfc);
  }
}

// The approximation by tanh: x (1 + tanh(u)) / 2 is x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3).
inline Vec GeluTanhTwice(Vec x) { return x * Fma(Set1(0.0713548162726f), x * x, Set1(1.59576912160573f)); }

// tanh(softplus(x)) = w / (w + 2), w = e^x (e^x + 2), in float 1 from 10 on.
inline Vec MishTerm(Vec exp) { return exp * (exp + Set1(2.0f)); }
inline Vec MishExp(Vec x) { return Exp(MinSecondOnNan(Set1(20.0f), x)); }

template <bool kDivides>
inline Vec Mish(Vec x) {
  const Vec w = MishTerm(MishExp(x)), v = w + Set1(2.0f);
  return x * (kDivides ? w / v : w * Reciprocal(v));
}

inline Vec Elu(Vec x, float alpha) {
  const Vec zero = Set1(0.0f);
  return zero < x ? x : Set1(alpha) * ExpMinus1(MinSecondOnNan(zero, x));
}

inline Vec BoundedRelu(Vec x, const Activation& a) {
  const Vec zero = Set1(0.0f), threshold = Set1(a.threshold);
  // Without a slope zero, also for -infinity, but a NaN stays one.
  const Vec below = a.alpha == 0 ? MaxSecondOnNan(zero, MinSecondOnNan(zero, x)) : (x - threshold) * Set1(a.alpha);
  return threshold < x ? MinSecondOnNan(Set1(a.max_value), x) : below;
}

// Any activation but PReLU; the kind is that of `a`, and a constant where it matters.
template <bool kDivides = false>
inline __attribute__((always_inline)) Vec Activate(Vec x, ActivationKind kind, const Activation& a) {
  switch (kind) {
    case ActivationKind::kNone:
      return x;
    case ActivationKind::kRelu:
    case ActivationKind::kRelu6:
      return Apply(x, MakeClamp(a));
    case ActivationKind::kHardSwish: {
      const Vec gate = Apply(x + Set1(3.0f), Clamp{Set1(0.0f), Set1(6.0f)});
      return x * gate * Set1(1.0f / 6.0f);
    }
    case ActivationKind::kSilu:
      return TimesSigmoid<kDivides>(x, x);
    case ActivationKind::kGelu:
      return Gelu(x);
    case ActivationKind::kLeakyRelu:
      return x < Set1(0.0f) ? x * Set1(a.alpha) : x;
    case ActivationKind::kSigmoid:
      return Sigmoid<kDivides>(x);
    case ActivationKind::kTanh:
      return Tanh<kDivides>(x);
    case ActivationKind::kElu:
      return Elu(x, a.alpha);
    case ActivationKind::kMish:
      return Mish<kDivides>(x);
    case ActivationKind::kGeluTanh:
      return TimesSigmoid<kDivides>(x, GeluTanhTwice(x));
    case ActivationKind::kBoundedRelu:
      return BoundedRelu(x, a);
    case ActivationKind::kPRelu:
      break;  // PReluRow
  }
  return x;
}

inline Vec PRelu(Vec x, Vec slopes) { return x < Set1(0.0f) ? x * slopes : x; }

// row[0:n] in place by a slope for each element. What lies past them stays as it is: it may be another pixel's.
[[maybe_unused]] inline void PReluRow(float* row, const float* slopes, int64_t n) {
  int64_t i = 0;
  for (; i + kV <= n; i += kV) Store(row + i, PRelu(Load(row + i), Load(slopes + i)));
  if (i < n) StoreN(row + i, PRelu(LoadN(row + i, n - i), LoadN(slopes + i, n - i)), n - i);
}

// f where f(x) - f(-x) = x, which a table of its bump gives to some bits; only AVX-512 has LessBump.
template <ActivationKind kKind>
constexpr bool kHasBump = kTakesTables && (kKind == ActivationKind::kSilu || kKind == ActivationKind::kGelu ||
                                           kKind == ActivationKind::kGeluTanh);
template <ActivationKind kKind, typename V>
inline V ByBump(V x) {
  return LessBump(x, kKind == ActivationKind::kSilu   ? kSiluBump
                     : kKind == ActivationKind::kGelu ? kGeluBump
                                                      : kGeluTanhBump);
}

// What ends in a division by something of 1 and more.
template <ActivationKind kKind>
constexpr bool kHasQuotient =
    kEstimatesReciprocal &&
    (kKind == ActivationKind::kSilu || kKind == ActivationKind::kSigmoid || kKind == ActivationKind::kTanh ||
     kKind == ActivationKind::kMish || kKind == ActivationKind::kGeluTanh);

// Which of an activation's formulas.
enum class Formula { kPlain, kDividing, kBump };

// An activation whose kind is a constant: a loop over it is compiled for that kind, so that no vector waits for
// another's.
template <ActivationKind kKind, Formula kFormula>
struct ActivationAs {
  static constexpr bool kIsNone = kKind == ActivationKind::kNone;
  Activation a;  // a copy: for all the compiler knows, storing a row might change the original
  Vec operator()(Vec x) const {
    if constexpr (kFormula == Formula::kBump) {
      return ByBump<kKind>(x);
    } else {
      return Activate<kFormula == Formula::kDividing>(x, kKind, a);
    }
  }
};

template <ActivationKind kKind, typename Run>
inline __attribute__((always_inline)) void WithActivationAs(const Activation& a, const Run& run) {
  if constexpr (kHasBump<kKind>) {
    if (a.coarse) return run(ActivationAs<kKind, Formula::kBump>{a});
  }
  if constexpr (kHasQuotient<kKind>) {
    if (DividesFast()) return run(ActivationAs<kKind, Formula::kDividing>{a});
  }
  run(ActivationAs<kKind, Formula::kPlain>{a});
}

// run(ActivationAs of `a`): of all but PReLU, for which it is not called.
template <typename Run>
inline __attribute__((always_inline)) void WithActivation(const Activation& a, const Run& run) {
  switch (a.kind) {
#define DWSCONV_CASE(kind)   \
  case ActivationKind::kind: \
    return WithActivationAs<ActivationKind::kind>(a, run);
    DWSCONV_CASE(kNone)
    DWSCONV_CASE(kRelu)
    DWSCONV_CASE(kRelu6)
    DWSCONV_CASE(kHardSwish)
    DWSCONV_CASE(kSilu)
    DWSCONV_CASE(kGelu)
    DWSCONV_CASE(kLeakyRelu)
    DWSCONV_CASE(kSigmoid)
    DWSCONV_CASE(kTanh)
    DWSCONV_CASE(kElu)
    DWSCONV_CASE(kMish)
    DWSCONV_CASE(kGeluTanh)
    DWSCONV_CASE(kBoundedRelu)
#undef DWSCONV_CASE
    case ActivationKind::kPRelu:
      return;
  }
}

// Whether an activation takes ten operations and more.
inline bool IsCostly(ActivationKind kind) {
  return !IsClamp(kind) && kind != ActivationKind::kHardSwish && kind != ActivationKind::kLeakyRelu &&
         kind != ActivationKind::kBoundedRelu && kind != ActivationKind::kPRelu;
}

// row[0:n] in place, by all but PReLU; n is a whole number of vectors.
[[maybe_unused]] __attribute__((noinline)) void ActivateRow(float* row, int64_t n, const Activation& activation) {
  if (activation.kind == ActivationKind::kNone) return;
  WithActivation(activation, [&](const auto& activate) {
    for (int64_t i = 0; i < n; i += kV) Store(row + i, activate(Load(row + i)));
  });
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_ACTIVATION_BODY_H_
