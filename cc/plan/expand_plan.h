// The plan of a chain that begins with an expansion; MakePlan (plan.h) calls it.
#ifndef DWSCONV_PLAN_EXPAND_PLAN_H_
#define DWSCONV_PLAN_EXPAND_PLAN_H_

#include "cc/core/chain.h"
#include "cc/plan/plan.h"

namespace dwsconv {

// What X and Y may take of L3 and still be there for who reads them next.
constexpr double kShareOfL3 = 0.5;

Plan MakeExpandPlan(const Chain& chain, const Machine& machine);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_EXPAND_PLAN_H_
