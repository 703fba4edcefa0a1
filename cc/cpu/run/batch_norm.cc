#include "cc/cpu/run/batch_norm.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

#include "cc/core/aligned_buffer.h"
#include "cc/core/whole.h"
#include "cc/cpu/kernels/targets.h"

namespace dwsconv {
namespace {

std::atomic<int64_t> calls[kIsaCount];

constexpr char kOutOfMemory[] = "out of memory for the working buffers of a batch norm";

constexpr int64_t kPadding = 16;            // floats of the widest vector
constexpr int64_t kWide = 128;              // channels from which on a row is long enough
constexpr int64_t kChunkBytes = 128 << 10;  // that a kernel adds up in float: it lies in L2 for the second look
constexpr int64_t kLeastRows = 4;           // of such a chunk
constexpr int64_t kMostRows = 512;          // so that no sum in float has many terms
constexpr int64_t kMostParts = 64;          // that run side by side
constexpr int64_t kVectors = 5;             // of floats: what of a channel the kernels read
constexpr int64_t kSums = 3;                // of floats: what a kernel adds up

// How the rows are cut: by their shape alone, so that sums do not depend on the threads. Where there are few channels
// several rows are one, each with channels of its own for the kernels: rows are longer, and whole vectors.
struct Cut {
  explicit Cut(const BatchNorm& norm) : rows(norm.rows), channels(norm.channels) {
    while (channels < kWide && rows % 2 == 0) {
      rows /= 2;
      channels *= 2;
    }
    times = channels / norm.channels;
    padded = RoundUp(channels, kPadding);
    const int64_t fit = kChunkBytes / (channels * SizeOf(norm.dtype));
    chunk = std::clamp(fit / 4 * 4, kLeastRows, kMostRows);
    const int64_t chunks = CeilDiv(rows, chunk);
    part = CeilDiv(chunks, std::min(chunks, kMostParts)) * chunk;
    parts = CeilDiv(rows, part);
  }
  int64_t Begin(int64_t index) const { return index * part; }
  int64_t Rows(int64_t index) const { return std::min(part, rows - Begin(index)); }

  int64_t rows, channels;  // of the kernels
  int64_t times;           // rows that are one
  int64_t padded;          // channels
  int64_t chunk, part;     // rows
  int64_t parts;
};

// What a call computes with, of one allocation for each type. A part has sums of its own.
class Scratch {
 public:
  explicit Scratch(const Cut& cut)
      : padded_(cut.padded),
        floats_(AllocateAligned<float>(cut.padded * (kVectors + kSums * cut.parts))),
        sums_(AllocateAligned<double>(cut.padded * 2 * cut.parts)) {
    if (ok()) std::memset(floats_.get(), 0, static_cast<size_t>(cut.padded * kVectors) * sizeof(float));
  }
  bool ok() const { return floats_ != nullptr && sums_ != nullptr; }

  // [padded], zeros at first.
  float* vector(int64_t index) const { return floats_.get() + index * padded_; }
  // The sums of a chunk that a kernel gives for a part, and the part's own two.
  float* chunk(int64_t part, int which) const { return vector(kVectors + kSums * part + which); }
  double* sums(int64_t part, int which) const { return sums_.get() + (2 * part + which) * padded_; }

 private:
  int64_t padded_;
  AlignedBuffer<float> floats_;
  AlignedBuffer<double> sums_;
};

enum : int64_t { kMean, kScale, kShift, kOffset, kSlope };

double Inverse(const BatchNorm& norm, float variance) {
  return 1.0 / std::sqrt(static_cast<double>(variance) + static_cast<double>(norm.epsilon));
}

// A pass over the tensors, on the kernels of an instruction set.
class Pass {
 public:
  Pass(const BatchNorm& norm, const BatchNormOptions& options)
      : norm_(norm),
        cut_(norm),
        scratch_(cut_),
        kernels_(BackwardKernels(WithoutTiles(options.isa), norm.dtype)),
        workers_(options.num_threads, options.pool),
        type_(static_cast<int>(norm.dtype)) {}
  bool ok() const { return scratch_.ok(); }

  void Statistics(float* mean, float* variance) const {
    ParallelFor(workers_, cut_.parts, [&](int64_t part, int) { PartMoments(part); });
    JoinMoments(mean, variance);
  }
  void Normalize(const float* mean, const float* variance, void* y) const {
    FillVectors(mean, variance);
    ParallelFor(workers_, cut_.parts, [&](int64_t part, int) {
      const int64_t row = cut_.Begin(part);
      kernels_.normalize[type_]({At(norm_.x, row), cut_.Rows(part), cut_.channels, Vector(kMean), Vector(kScale),
                                 Vector(kShift), norm_.activation, At(y, row)});
    });
  }
  void ParameterGradients(const float* mean, const float* variance, const void* grad, float* d_gamma,
                          float* d_beta) const {
    FillVectors(mean, variance);
    if (d_gamma == nullptr) return;
    ParallelFor(workers_, cut_.parts, [&](int64_t part, int) { PartSums(grad, part); });
    JoinSums(variance, d_gamma, d_beta);
  }
  // After ParameterGradients.
  void InputGradient(const void* grad, void* d_x) const {
    ParallelFor(workers_, cut_.parts, [&](int64_t part, int) {
      const int64_t row = cut_.Begin(part);
      kernels_.norm_grad[type_]({At(norm_.x, row), At(grad, row), cut_.Rows(part), cut_.channels, Vector(kMean),
                                 Vector(kScale), Vector(kShift), Vector(kOffset), Vector(kSlope), norm_.activation,
                                 DerivativeFromInput(norm_.activation), At(d_x, row)});
    });
  }

 private:
  const char* At(const void* base, int64_t row) const {
    return static_cast<const char*>(base) + row * cut_.channels * SizeOf(norm_.dtype);
  }
  char* At(void* base, int64_t row) const {
    return static_cast<char*>(base) + row * cut_.channels * SizeOf(norm_.dtype);
  }
  float* Vector(int64_t index) const { return scratch_.vector(index); }

  void FillVectors(const float* mean, const float* variance) const {
    for (int64_t c = 0; c < norm_.channels; ++c) {
      Vector(kMean)[c] = mean[c];
      Vector(kScale)[c] = static_cast<float>(static_cast<double>(norm_.gamma[c]) * Inverse(norm_, variance[c]));
      Vector(kShift)[c] = norm_.beta[c];
    }
    for (const int64_t index : {kMean, kScale, kShift}) Repeat(Vector(index));
  }
  void Repeat(float* vector) const {
    for (int64_t c = norm_.channels; c < cut_.channels; ++c) vector[c] = vector[c - norm_.channels];
  }

  void PartMoments(int64_t part) const;
  void JoinMoments(float* mean, float* variance) const;
  void PartSums(const void* grad, int64_t part) const;
  void JoinSums(const float* variance, float* d_gamma, float* d_beta) const;

  const BatchNorm& norm_;
  const Cut cut_;
  const Scratch scratch_;
  const BackwardTable& kernels_;
  const Workers workers_;
  const int type_;
};

struct Moment {
  double mean, squares;  // the sum of those of x - mean
};

// Joins those of a sample with those of another, which other(c) gives: Chan, Golub and LeVeque, "Updating formulae and
// a pairwise algorithm for computing sample variances" (1979).
template <typename Other>
void Join(int64_t channels, int64_t count, double* mean, double* squares, int64_t more, const Other& other) {
  const double share = static_cast<double>(more) / static_cast<double>(count + more);
  const double both = static_cast<double>(count) * share;
  for (int64_t c = 0; c < channels; ++c) {
    const Moment moment = other(c);
    const double apart = moment.mean - mean[c];
    mean[c] += apart * share;
    squares[c] += moment.squares + apart * apart * both;
  }
}

void Pass::PartMoments(int64_t part) const {
  double *const all = scratch_.sums(part, 0), *const all_squares = scratch_.sums(part, 1);
  float *const mean = scratch_.chunk(part, 0), *const squares = scratch_.chunk(part, 1);
  float* const rest = scratch_.chunk(part, 2);
  std::fill(all, all + cut_.channels, 0.0);
  std::fill(all_squares, all_squares + cut_.channels, 0.0);
  for (int64_t row = 0; row < cut_.Rows(part); row += cut_.chunk) {
    const int64_t rows = std::min(cut_.chunk, cut_.Rows(part) - row);
    kernels_.moments[type_]({At(norm_.x, cut_.Begin(part) + row), rows, cut_.channels, mean, rest, squares});
    const double inverse = 1.0 / static_cast<double>(rows);
    Join(cut_.channels, row, all, all_squares, rows, [&](int64_t c) {
      const double left = static_cast<double>(rest[c]), off = left * inverse;
      return Moment{static_cast<double>(mean[c]) + off, static_cast<double>(squares[c]) - left * off};
    });
  }
}

// Those of all parts, and of the rows that are one, in their order.
void Pass::JoinMoments(float* mean, float* variance) const {
  double *const all = scratch_.sums(0, 0), *const squares = scratch_.sums(0, 1);
  for (int64_t part = 1; part < cut_.parts; ++part) {
    const double *const own = scratch_.sums(part, 0), *const own_squares = scratch_.sums(part, 1);
    Join(cut_.channels, cut_.Begin(part), all, squares, cut_.Rows(part),
         [&](int64_t c) { return Moment{own[c], own_squares[c]}; });
  }
  for (int64_t i = 1; i < cut_.times; ++i) {
    const int64_t at = i * norm_.channels;
    Join(norm_.channels, i * cut_.rows, all, squares, cut_.rows,
         [&](int64_t c) { return Moment{all[at + c], squares[at + c]}; });
  }
  for (int64_t c = 0; c < norm_.channels; ++c) {
    mean[c] = static_cast<float>(all[c]);
    variance[c] = static_cast<float>(squares[c] / static_cast<double>(norm_.rows));
  }
}

template <typename T>
void Add(int64_t count, double* to, const T* from) {
  for (int64_t i = 0; i < count; ++i) to[i] += static_cast<double>(from[i]);
}

void Pass::PartSums(const void* grad, int64_t part) const {
  for (int which : {0, 1}) std::fill(scratch_.sums(part, which), scratch_.sums(part, which) + cut_.channels, 0.0);
  for (int64_t row = 0; row < cut_.Rows(part); row += cut_.chunk) {
    const int64_t at = cut_.Begin(part) + row, rows = std::min(cut_.chunk, cut_.Rows(part) - row);
    kernels_.norm_sums[type_]({At(norm_.x, at), At(grad, at), rows, cut_.channels, Vector(kMean), Vector(kScale),
                               Vector(kShift), norm_.activation, DerivativeFromInput(norm_.activation),
                               scratch_.chunk(part, 0), scratch_.chunk(part, 1)});
    for (int which : {0, 1}) Add(cut_.channels, scratch_.sums(part, which), scratch_.chunk(part, which));
  }
}

// d_gamma, d_beta, and what d_x takes off for the statistics; nothing where they were given.
void Pass::JoinSums(const float* variance, float* d_gamma, float* d_beta) const {
  double* const sums[] = {scratch_.sums(0, 0), scratch_.sums(0, 1)};
  for (int which : {0, 1}) {
    for (int64_t part = 1; part < cut_.parts; ++part) Add(cut_.channels, sums[which], scratch_.sums(part, which));
    for (int64_t i = 1; i < cut_.times; ++i) Add(norm_.channels, sums[which], sums[which] + i * norm_.channels);
  }
  const double count = static_cast<double>(norm_.rows);
  for (int64_t c = 0; c < norm_.channels; ++c) {
    const double inverse = Inverse(norm_, variance[c]), sum = sums[0][c], product = sums[1][c] * inverse;
    d_beta[c] = static_cast<float>(sum);
    d_gamma[c] = static_cast<float>(product);
    if (!norm_.of_batch) continue;
    Vector(kOffset)[c] = static_cast<float>(sum / count);
    Vector(kSlope)[c] = static_cast<float>(product * inverse / count);
  }
  for (const int64_t index : {kOffset, kSlope}) Repeat(Vector(index));
}

void Count(const BatchNormOptions& options) {
  calls[static_cast<int>(WithoutTiles(options.isa))].fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

std::string BatchNormForward(const BatchNorm& norm, void* y, float* mean, float* variance,
                             const BatchNormOptions& options) {
  if (norm.rows == 0 || norm.channels == 0) {
    for (float* statistic : {mean, variance}) {
      if (norm.of_batch) std::fill(statistic, statistic + norm.channels, std::numeric_limits<float>::quiet_NaN());
    }
    return "";
  }
  const Pass pass(norm, options);
  if (!pass.ok()) return kOutOfMemory;
  if (norm.of_batch) pass.Statistics(mean, variance);
  pass.Normalize(mean, variance, y);
  Count(options);
  return "";
}

std::string BatchNormBackward(const BatchNorm& norm, const float* mean, const float* variance, const void* grad,
                              void* d_x, float* d_gamma, float* d_beta, const BatchNormOptions& options) {
  if (norm.rows == 0 || norm.channels == 0) {
    for (float* gradient : {d_gamma, d_beta}) {
      if (gradient != nullptr) std::fill(gradient, gradient + norm.channels, 0.0f);
    }
    return "";
  }
  const Pass pass(norm, options);
  if (!pass.ok()) return kOutOfMemory;
  pass.ParameterGradients(mean, variance, grad, d_gamma, d_beta);
  pass.InputGradient(grad, d_x);
  Count(options);
  return "";
}

int64_t BatchNormCalls(Isa isa) { return calls[static_cast<int>(isa)].load(std::memory_order_relaxed); }

}  // namespace dwsconv
