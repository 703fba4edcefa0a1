#include "cc/cpu/run/program_products.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <type_traits>
#include <vector>

#include "cc/core/half.h"
#include "cc/core/whole.h"
#include "cc/cpu/kernels/targets.h"
#include "cc/cpu/run/executor.h"
#include "cc/cpu/run/program_share.h"
#include "cc/cpu/run/scratch_pool.h"

namespace dwsconv {
namespace {

using Sizes = std::vector<int64_t>;

std::atomic<int64_t> product_steps{0};

// Rows of X that are copied before they are multiplied, where they are not floats in a row.
constexpr int64_t kRowsAtOnce = 56;
// Multiply-adds that are worth a task of their own.
constexpr int64_t kWorkPerTask = 1 << 20;
// Elements of X or Y along both axes that are turned at a time: their cache lines stay in L1.
constexpr int64_t kTurned = 16;

// to[i * to_step + k] = from[k * from_step + i] as floats, i < rows, k < columns.
template <typename T>
void Turn(const T* from, int64_t from_step, int64_t rows, int64_t columns, float* to, int64_t to_step) {
  for (int64_t i = 0; i < rows; i += kTurned) {
    for (int64_t k = 0; k < columns; k += kTurned) {
      const int64_t height = std::min(kTurned, rows - i), width = std::min(kTurned, columns - k);
      for (int64_t r = i; r < i + height; ++r) {
        for (int64_t c = k; c < k + width; ++c) to[r * to_step + c] = ToFloat(from[c * from_step + r]);
      }
    }
  }
}

template <typename T>
void Widen(const T* from, int64_t n, float* to) {
  if constexpr (std::is_same_v<T, float>) {
    std::copy_n(from, n, to);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = ToFloat(from[i]);
  }
}

// The product of one pair of matrices, X [M][C] (or [C][M]) and Y [C][P] (or [P][C]). Each element is a sum over C in
// order, so its bits depend on nothing else.
template <typename T>
class Matrices {
 public:
  Matrices(const StepCall& call, Isa isa)
      : kernels_(Kernels(isa, Chain())),
        dtype_(call.program.dtype),
        turns_x_(call.step().transpose_x),
        turns_y_(call.step().transpose_y) {
    const Sizes& x = call.shape(call.slots().xs[0]);
    const Sizes& y = call.shape(call.slots().output);
    M_ = y[y.size() - 2];
    P_ = y.back();
    C_ = turns_x_ ? x[x.size() - 2] : x.back();
    columns_ = RoundUp(P_, kernels_.tile_channels);
  }

  int64_t rows() const { return M_; }
  int64_t work() const { return M_ * P_ * C_; }
  int64_t x_elements() const { return M_ * C_; }
  int64_t y_elements() const { return C_ * P_; }
  // Of a worker: the panels of Y, zeros in the place of a bias, and rows of X.
  int64_t scratch_bytes() const {
    const int64_t rows = CopiesRows() ? std::min(kRowsAtOnce, M_) * C_ : 0;
    return (columns_ * C_ + columns_ + rows) * int64_t{sizeof(float)};
  }

  // Y to panels.
  void Pack(const T* y, float* scratch) const {
    const int64_t tile = kernels_.tile_channels;
    for (int64_t k = 0; k < P_; k += tile) {
      const int64_t n = std::min(tile, P_ - k);
      float* const panel = scratch + k * C_;
      if (n < tile) std::fill_n(panel, tile * C_, 0.0f);
      if (turns_y_) {
        Turn(y + k * C_, C_, C_, n, panel, tile);
      } else {
        for (int64_t c = 0; c < C_; ++c) Widen(y + c * P_ + k, n, panel + c * tile);
      }
    }
    std::fill_n(scratch + columns_ * C_, columns_, 0.0f);
  }

  // Rows [begin, end) of the product.
  void Multiply(const T* x, int64_t begin, int64_t end, float* scratch, T* to) const {
    const int64_t most = CopiesRows() ? kRowsAtOnce : end - begin;
    float* const copied = scratch + (C_ + 1) * columns_;
    PointwiseArgs args{};
    args.z_stride = args.cm = C_;
    args.panels = scratch;
    args.bias = scratch + columns_ * C_;
    args.k_end = args.y_step = P_;
    args.dtype = dtype_;
    for (int64_t row = begin; row < end; row += most) {
      args.pixels = std::min(most, end - row);
      args.z = CopiesRows() ? static_cast<const void*>(copied) : x + row * C_;
      if (turns_x_) {
        Turn(x + row, M_, args.pixels, C_, copied, C_);
      } else if (CopiesRows()) {
        Widen(x + row * C_, args.pixels * C_, copied);
      }
      args.y = to + row * P_;
      kernels_.pointwise(args);
    }
  }

 private:
  bool CopiesRows() const { return turns_x_ || dtype_ != DType::kFloat32; }

  const KernelTable& kernels_;
  const DType dtype_;
  const bool turns_x_, turns_y_;
  int64_t M_, P_, C_, columns_;
};

template <typename T>
std::string Run(const StepCall& call, Isa isa) {
  const Matrices<T> product(call, isa);
  const Sizes& shape = call.shape(call.slots().output);
  const int64_t matrices = Product(shape, 0, shape.size() - 2), threads = call.workers.threads;
  // A matrix is one task where there are enough of them. Else its rows are shared, and each task packs Y for itself.
  const bool shares_rows = matrices < 4 * threads && matrices % threads != 0;
  const int64_t most_parts = shares_rows ? CeilDiv(product.rows(), kRowsAtOnce) : 1;
  const int64_t parts = std::clamp<int64_t>(product.work() / kWorkPerTask, 1, most_parts);
  const int64_t each = CeilDiv(product.rows(), parts);
  // Small ones go together.
  const int64_t together = parts > 1 ? 1 : std::clamp<int64_t>(kWorkPerTask / 8 / product.work(), 1, matrices);
  const int64_t tasks = parts > 1 ? matrices * parts : CeilDiv(matrices, together);
  const Workers workers(static_cast<int>(std::min(threads, tasks)), call.workers.pool);
  WorkerScratch scratch(workers.threads, product.scratch_bytes());
  if (!scratch.ok()) return kOutOfMemory;
  const T* const x = reinterpret_cast<const T*>(call.x());
  const T* const y = reinterpret_cast<const T*>(call.at[static_cast<size_t>(call.slots().y)]);
  T* const to = reinterpret_cast<T*>(call.output());
  ParallelFor(workers, tasks, [&](int64_t task, int worker) {
    float* const own = reinterpret_cast<float*>(scratch.of(worker));
    const int64_t first = parts > 1 ? task / parts : task * together;
    const int64_t row = parts > 1 ? task % parts * each : 0, end = std::min(product.rows(), row + each);
    for (int64_t i = first; i < std::min(matrices, first + together); ++i) {
      if (row >= end) continue;
      product.Pack(y + i * product.y_elements(), own);
      product.Multiply(x + i * product.x_elements(), row, end, own, to + i * product.rows() * shape.back());
    }
  });
  return "";
}

}  // namespace

std::string MultiplyStep(const StepCall& call, Isa isa) {
  product_steps.fetch_add(1, std::memory_order_relaxed);
  const Sizes& x = call.shape(call.slots().xs[0]);
  if (Elements(x) == 0) {  // sums of nothing; the output has elements
    std::memset(call.output(), 0, static_cast<size_t>(Elements(call.shape(call.slots().output)) * call.item()));
    return "";
  }
  return WithType(call.program.dtype, [&](auto type) { return Run<decltype(type)>(call, isa); });
}

int64_t ProductSteps() { return product_steps.load(std::memory_order_relaxed); }

}  // namespace dwsconv
