#include "cc/cpu/kernels/bump_table.h"

#include <cmath>

namespace dwsconv {
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

// The polynomial of degree kPoints - 2 whose relative error is the same, with signs in turn, at Chebyshev's extremes of
// [low, high]: one step of Remez' algorithm, here as good as all. In coefficients of t^0, t^1, ...
template <int kPoints>
void FitSegment(double (*f)(double), double low, double high, double (&c)[kPoints - 1]) {
  double t[kPoints], plain[kPoints], turned[kPoints];
  for (int i = 0; i < kPoints; ++i) {
    t[i] = (low + high) / 2 - (high - low) / 2 * std::cos(i * std::acos(-1.0) / (kPoints - 1));
    plain[i] = f(t[i]);
    turned[i] = i % 2 == 0 ? plain[i] : -plain[i];
  }
  Divide(t, plain);
  Divide(t, turned);
  const double error = plain[kPoints - 1] / turned[kPoints - 1];  // so that no power of kPoints - 1 is left
  for (double& v : c) v = 0;
  for (int i = kPoints - 2; i >= 0; --i) {  // Horner's scheme on Newton's form
    for (int power = kPoints - 2; power > 0; --power) c[power] = c[power - 1] - t[i] * c[power];
    c[0] = plain[i] - error * turned[i] - t[i] * c[0];
  }
}

// The first segment begins at 0, where the bump is 0 and so must the parabola be: a number near 0 keeps its relative
// error.
template <double (*kBump)(double)>
BumpTable Fit(double width) {
  BumpTable table = {};
  table.per_unit = static_cast<float>(1 / width);
  table.last = static_cast<float>((BumpTable::kSegments - 1) * width);
  double slope[2];
  FitSegment<3>([](double t) { return t == 0 ? 0.5 : kBump(t) / t; }, 0, width / 2, slope);
  for (int power = 0; power < 2; ++power) table.c[power + 1][0] = static_cast<float>(slope[power]);
  for (int i = 1; i < BumpTable::kSegments - 1; ++i) {
    double c[3];
    FitSegment<4>(kBump, (i - 0.5) * width, (i + 0.5) * width, c);
    for (int power = 0; power < 3; ++power) table.c[power][i] = static_cast<float>(c[power]);
  }
  return table;
}

}  // namespace

const BumpTable kSiluBump = Fit<SiluBump>(0.4);
const BumpTable kGeluBump = Fit<GeluBump>(0.16);
const BumpTable kGeluTanhBump = Fit<GeluTanhBump>(0.16);

}  // namespace dwsconv
