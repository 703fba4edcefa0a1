#include "cc/plan/plan_cache.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "cc/plan/plan_key.h"

namespace dwsconv {
namespace {

// Everything that a planner may look at, though today's does not look at all of it.
using Key = std::array<int64_t, kPlanKeySize + 17>;

// Above any model's number of layers; with more shapes than that (images of any size) it starts anew.
constexpr size_t kMostPlans = 4096;

struct Cache {
  std::shared_mutex mutex;
  std::unordered_map<Key, Plan, NumbersHash> plans;
};

int64_t BitsOf(double value) {
  int64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

Key KeyOf(const Chain& p, const Machine& m) {
  Key key;
  const PlanKey shapes = PlanKeyOf(p, m);
  const int64_t rest[] = {m.l1d_bytes,
                          m.l2_bytes,
                          m.l3_bytes,
                          static_cast<int64_t>(m.flops_per_thread),
                          BitsOf(m.stream_share),
                          m.product_rate,
                          static_cast<int64_t>(p.layout),
                          static_cast<int64_t>(p.mid.kind),
                          static_cast<int64_t>(p.out.kind),
                          p.has_depthwise_bias,
                          p.has_bias,
                          p.has_residual,
                          p.has_depthwise,
                          p.has_project,
                          p.normalize,
                          p.has_gate,
                          static_cast<int64_t>(p.expand.kind)};
  static_assert(std::size(rest) + kPlanKeySize == std::tuple_size<Key>::value, "a number is missing");
  std::copy(std::begin(rest), std::end(rest), std::copy(shapes.begin(), shapes.end(), key.begin()));
  return key;
}

}  // namespace

Plan CachedPlan(const Chain& chain, const Machine& machine) {
  static Cache& cache = *new Cache;  // never destroyed: calls may come while the process ends
  const Key key = KeyOf(chain, machine);
  {
    const std::shared_lock<std::shared_mutex> lock(cache.mutex);
    const auto found = cache.plans.find(key);
    if (found != cache.plans.end()) return found->second;
  }
  const Plan plan = MakePlan(chain, machine);
  try {
    const std::unique_lock<std::shared_mutex> lock(cache.mutex);
    if (cache.plans.size() >= kMostPlans) cache.plans.clear();
    cache.plans.emplace(key, plan);
  } catch (const std::exception&) {  // no memory to remember it in
  }
  return plan;
}

}  // namespace dwsconv
