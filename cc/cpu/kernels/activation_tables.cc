#include "cc/cpu/kernels/activation_tables.h"

#include <cmath>

#include "cc/core/cpu_features.h"

namespace dwsconv {

bool DividesFast() {
  static const bool fast = GetCpuFeatures().fast_division;
  return fast;
}

namespace {

double SiluBump(double t) { return t / (1 + std::exp(t)); }
double GeluBump(double t) { return t * 0.5 * std::erfc(t * std::sqrt(0.5)); }
double GeluTanhBump(double t) {
  constexpr double kTwice = 1.5957691216057308;  // 2 sqrt(2/pi)
  return t / (1 + std::exp(kTwice * (t + 0.044715 * t * t * t)));
}

// Divided differences of kPoints values at t, in place (Newton's form).
template <int kPoints>
void Divide(const double (&t)[kPoints], double (&values)[kPoints]) {
  for (int order = 1; order < kPoints; ++order) {
    for (int i = kPoints - 1; i >= order; --i) values[i] = (values[i] - values[i - 1]) / (t[i] - t[i - order]);
  }
}

// To `c`, the polynomial whose relative error is the same, with signs in turn, at Chebyshev's extremes of [low, high]:
// one step of Remez' algorithm, here as good as all.
template <int kTerms, typename Function>
void FitSegment(const Function& f, double low, double high, double (&c)[kTerms]) {
  constexpr int kPoints = kTerms + 1;
  double t[kPoints], plain[kPoints], turned[kPoints];
  for (int i = 0; i < kPoints; ++i) {
    t[i] = (low + high) / 2 - (high - low) / 2 * std::cos(i * std::acos(-1.0) / kTerms);
    plain[i] = f(t[i]);
    turned[i] = i % 2 == 0 ? plain[i] : -plain[i];
  }
  Divide(t, plain);
  Divide(t, turned);
  const double error = plain[kTerms] / turned[kTerms];  // so that no power of kTerms is left
  for (double& v : c) v = 0;
  for (int i = kTerms - 1; i >= 0; --i) {  // Horner's scheme on Newton's form
    for (int power = kTerms - 1; power > 0; --power) c[power] = c[power - 1] - t[i] * c[power];
    c[0] = plain[i] - error * turned[i] - t[i] * c[0];
  }
}

// f(t) by polynomials of t, or of what it is more than the middle of its segment.
template <int kTerms, typename Function>
SegmentTable<kTerms> Fit(const Function& f, double width, bool of_t) {
  SegmentTable<kTerms> table = {};
  table.width = static_cast<float>(width);
  table.per_unit = static_cast<float>(1 / width);
  table.last = static_cast<float>((table.kSegments - 1) * width);
  for (int i = 0; i < table.kSegments - 1; ++i) {
    const double middle = i * width, zero = of_t ? 0 : middle;
    double c[kTerms];
    FitSegment([&](double at) { return f(zero + at); }, (i == 0 ? 0 : middle - width / 2) - zero,
               middle + width / 2 - zero, c);
    for (int power = 0; power < kTerms; ++power) table.c[power][i] = static_cast<float>(c[power]);
  }
  return table;
}

// The first segment begins at 0, where the bump is 0 and so must the parabola be: a number near 0 keeps its relative
// error.
template <double (*kBump)(double)>
BumpTable FitBump(double width) {
  BumpTable table = Fit<3>(kBump, width, /*of_t=*/true);
  double c[2];
  FitSegment([](double t) { return t == 0 ? 0.5 : kBump(t) / t; }, 0, width / 2, c);
  table.c[0][0] = 0;
  for (int power = 0; power < 2; ++power) table.c[power + 1][0] = static_cast<float>(c[power]);
  return table;
}

}  // namespace

const BumpTable kSiluBump = FitBump<SiluBump>(0.4);
const BumpTable kGeluBump = FitBump<GeluBump>(0.16);
const BumpTable kGeluTanhBump = FitBump<GeluTanhBump>(0.16);
// Whole multiples of this width are floats.
const SegmentTable<5> kNormalTail =
    Fit<5>([](double t) { return 0.5 * std::erfc(t * std::sqrt(0.5)); }, 11.0 / 64, /*of_t=*/false);

}  // namespace dwsconv
