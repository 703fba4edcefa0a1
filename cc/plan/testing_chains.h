// Chains and machines for the tests of plans: drawn by a seed, the same everywhere.
#ifndef DWSCONV_PLAN_TESTING_CHAINS_H_
#define DWSCONV_PLAN_TESTING_CHAINS_H_

#include <algorithm>
#include <cstdint>
#include <ostream>
#include <random>
#include <sstream>
#include <string>

#include "cc/core/chain.h"
#include "cc/plan/plan.h"

namespace dwsconv {

// A layer with padding SAME.
inline Chain SameChain(int64_t n, int64_t h, int64_t w, int64_t c, int64_t k, int64_t window, int64_t stride = 1) {
  Chain p;
  p.N = n, p.H = h, p.W = w, p.C = c, p.K = k;
  p.R = p.S = window;
  p.stride_h = p.stride_w = stride;
  p.Ho = (h + stride - 1) / stride;
  p.Wo = (w + stride - 1) / stride;
  p.pad_top = std::max<int64_t>(0, (p.Ho - 1) * stride + window - h) / 2;
  p.pad_left = std::max<int64_t>(0, (p.Wo - 1) * stride + window - w) / 2;
  return p;
}

// Uniform over all words of the standard: its own distributions differ between libraries.
class Draw {
 public:
  explicit Draw(uint32_t seed) : random_(seed) {}
  int64_t operator()(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random_() % static_cast<uint64_t>(high - low + 1));
  }
  // Small numbers as often as large ones.
  int64_t Size(int64_t high) {
    const int64_t bound = int64_t{1} << (*this)(0, 62);
    return (*this)(1, std::min(high, bound));
  }
  bool Coin() { return (*this)(0, 1) == 1; }

 private:
  std::mt19937_64 random_;
};

inline Chain RandomChain(Draw* draw) {
  Chain p;
  p.N = draw->Size(64), p.H = draw->Size(300), p.W = draw->Size(300);
  p.C = draw->Size(2000), p.K = draw->Size(3000);
  p.M = draw->Coin() ? 1 : draw->Size(8);
  p.R = draw->Size(std::min<int64_t>(p.H, 12)), p.S = draw->Size(std::min<int64_t>(p.W, 12));
  p.stride_h = draw->Size(3), p.stride_w = draw->Size(3);
  p.dilation_h = draw->Size(std::max<int64_t>(1, p.H / p.R)),
  p.dilation_w = draw->Size(std::max<int64_t>(1, p.W / p.S));
  const auto output = [](int64_t size, int64_t window, int64_t dilation, int64_t stride, int64_t pad) {
    return std::max<int64_t>(1, (size + 2 * pad - (window - 1) * dilation - 1) / stride + 1);
  };
  p.pad_top = draw->Coin() ? 0 : (p.R - 1) * p.dilation_h / 2,
  p.pad_left = draw->Coin() ? 0 : (p.S - 1) * p.dilation_w / 2;
  p.Ho = output(p.H, p.R, p.dilation_h, p.stride_h, p.pad_top);
  p.Wo = output(p.W, p.S, p.dilation_w, p.stride_w, p.pad_left);
  p.dtype = static_cast<DType>((*draw)(0, 2));
  p.has_residual = draw->Coin();
  if (draw->Coin()) p.mid.kind = ActivationKind::kSilu;
  if (draw->Coin()) p.out.kind = ActivationKind::kRelu;
  return p;
}

// Behind an expansion, with and without a projection.
inline Chain RandomExpanded(Draw* draw) {
  Chain chain = RandomChain(draw);
  chain.E = draw->Size(500);
  chain.has_project = draw->Coin();
  if (!chain.has_project) chain.K = chain.CM();
  return chain;
}

inline Machine RandomMachine(Draw* draw) {
  Machine m;
  m.isa = static_cast<Isa>((*draw)(0, 2));
  m.vector_floats = 4 << static_cast<int>(m.isa);
  m.tile_channels = m.vector_floats * 2;
  m.tile_pixels = static_cast<int>((*draw)(1, 14));
  m.z_bytes = draw->Coin() ? 4 : 2;
  m.product_rate = static_cast<int>(4 / m.z_bytes);
  m.costs = {2, 1.5, 3, 3, 4, 0.25, 500, 8000, 1.25};
  m.threads = static_cast<int>(draw->Size(128));
  m.l1d_bytes = (*draw)(16, 64) << 10;
  m.l2_bytes = (*draw)(128, 4096) << 10;
  m.l3_bytes = (*draw)(0, 512) << 20;
  return m;
}

inline std::string Told(const Chain& p, const Machine& m) {
  std::ostringstream out;
  out << p.N << "x" << p.H << "x" << p.W << "x" << p.C << " M" << p.M << " -> " << p.Ho << "x" << p.Wo << "x" << p.K
      << ", window " << p.R << "x" << p.S << " stride " << p.stride_h << "," << p.stride_w << " dilation "
      << p.dilation_h << "," << p.dilation_w << " dtype " << static_cast<int>(p.dtype) << "; isa "
      << static_cast<int>(m.isa) << " threads " << m.threads << " tile " << m.tile_pixels << "x" << m.tile_channels
      << " z " << m.z_bytes << " l2 " << m.l2_bytes << " l3 " << m.l3_bytes;
  return out.str();
}

inline bool operator==(const Plan& a, const Plan& b) {
  return a.block_pixels == b.block_pixels && a.block_channels == b.block_channels && a.tasks == b.tasks &&
         a.threads == b.threads && a.scratch_bytes == b.scratch_bytes && a.z_stride == b.z_stride &&
         a.repeat_bytes == b.repeat_bytes && a.windows == b.windows && a.stream == b.stream && a.rows == b.rows &&
         a.strips == b.strips && a.channels == b.channels && a.by_channels == b.by_channels && a.a_bytes == b.a_bytes &&
         a.z_bytes == b.z_bytes;
}

inline std::ostream& operator<<(std::ostream& out, const Plan& plan) {
  return out << plan.block_pixels << "x" << plan.block_channels << ", " << plan.tasks << " tasks, " << plan.threads
             << " threads, " << plan.scratch_bytes << " bytes, stride " << plan.z_stride << ", repeat "
             << plan.repeat_bytes << (plan.stream ? ", stream" : "") << "; " << plan.strips << " strips of "
             << plan.rows << " rows x " << plan.channels << (plan.by_channels ? " apart, " : ", ") << plan.a_bytes
             << " + " << plan.z_bytes;
}

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_TESTING_CHAINS_H_
