// The planner's plans, remembered.
#ifndef DWSCONV_PLAN_PLAN_CACHE_H_
#define DWSCONV_PLAN_PLAN_CACHE_H_

#include "cc/core/chain.h"
#include "cc/plan/plan.h"

namespace dwsconv {

// MakePlan(chain, machine), searched for once a process: the search takes 1 us with 2 threads and grows with them, a
// small layer some 10 us. Any thread may call.
Plan CachedPlan(const Chain& chain, const Machine& machine);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_PLAN_CACHE_H_
