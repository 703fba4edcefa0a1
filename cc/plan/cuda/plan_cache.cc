#include "cc/plan/cuda/plan_cache.h"

#include <array>
#include <atomic>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "cc/plan/plan_key.h"

namespace dwsconv {
namespace {

// Everything that the planner may look at.
using Key = std::array<int64_t, 64>;

// Above any model's number of layers; with more shapes than that (images of any size) it starts anew.
constexpr size_t kMostPlans = 4096;

struct Cache {
  std::shared_mutex mutex;
  std::unordered_map<Key, std::shared_ptr<const CudaPlan>, NumbersHash> plans;
};

std::atomic<int64_t> plans_made{0};

class Numbers {
 public:
  Numbers& operator<<(int64_t number) {
    key_.at(next_++) = number;
    return *this;
  }
  // By its bits, so that no two numbers are taken for one.
  Numbers& operator<<(double number) {
    int64_t bits;
    std::memcpy(&bits, &number, sizeof(bits));
    return *this << bits;
  }
  Numbers& operator<<(const Activation& a) {
    return *this << static_cast<int64_t>(a.kind) << double{a.alpha} << double{a.max_value} << double{a.threshold};
  }
  const Key& key() const { return key_; }

 private:
  Key key_{};
  size_t next_ = 0;
};

int64_t Bits(std::initializer_list<bool> flags) {
  int64_t bits = 0;
  for (bool flag : flags) bits = 2 * bits + (flag ? 1 : 0);
  return bits;
}

Key KeyOf(const Chain& p, const CudaMachine& m, const CudaOptions& o) {
  Numbers numbers;
  for (int64_t size : {p.N, p.H, p.W, p.E, p.C, p.M, p.K, p.R, p.S, p.Ho, p.Wo, p.stride_h, p.stride_w, p.dilation_h,
                       p.dilation_w, p.pad_top, p.pad_left}) {
    numbers << size;
  }
  numbers << static_cast<int64_t>(p.dtype) << static_cast<int64_t>(p.layout) << p.expand << p.mid << p.out
          << double{p.epsilon};
  numbers << Bits({p.has_depthwise, p.has_project, p.has_expand_bias, p.has_depthwise_bias, p.has_bias, p.normalize,
                   p.has_gate, p.has_residual});
  numbers << int64_t{m.capability} << int64_t{m.multiprocessors} << m.block_shared_bytes
          << m.multiprocessor_shared_bytes << m.l2_bytes << m.dram_bytes_per_us << m.clock_per_us
          << int64_t{m.group_products};
  numbers << m.rates.fma << m.rates.tensor16 << m.rates.tf32 << m.rates.outputs << m.rates.latency_cycles
          << m.rates.launch_us << m.rates.group16 << m.rates.group32;
  numbers << static_cast<int64_t>(o.path) << static_cast<int64_t>(o.math) << static_cast<int64_t>(o.fusion)
          << o.tile_rows << o.tile_columns << o.segments << o.groups;
  const WantedGradients w = o.gradients.value_or(WantedGradients());
  numbers << Bits({o.aligned, o.gradients.has_value(), w.input, w.depthwise_filter, w.pointwise_filter,
                   w.depthwise_bias, w.bias, w.residual});
  return numbers.key();
}

}  // namespace

int64_t CudaPlansMade() { return plans_made.load(); }

std::string CachedCudaPlan(const Chain& chain, const CudaMachine& machine, const CudaOptions& options,
                           std::shared_ptr<const CudaPlan>* plan) {
  static Cache& cache = *new Cache;  // never destroyed: calls may come while the process ends
  const Key key = KeyOf(chain, machine, options);
  {
    const std::shared_lock<std::shared_mutex> lock(cache.mutex);
    const auto found = cache.plans.find(key);
    if (found != cache.plans.end()) {
      *plan = found->second;
      return "";
    }
  }
  ++plans_made;
  const auto made = std::make_shared<CudaPlan>();
  const std::string error = MakeCudaPlan(chain, machine, options, made.get());
  if (!error.empty()) return error;
  *plan = made;
  try {
    const std::unique_lock<std::shared_mutex> lock(cache.mutex);
    if (cache.plans.size() >= kMostPlans) cache.plans.clear();
    cache.plans.emplace(key, made);
  } catch (const std::exception&) {  // no memory to remember it in
  }
  return "";
}

}  // namespace dwsconv
