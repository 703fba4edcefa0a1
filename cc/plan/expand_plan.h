// The plan of a chain that begins with an expansion; MakePlan (plan.h) calls it.
#ifndef DWSCONV_PLAN_EXPAND_PLAN_H_
#define DWSCONV_PLAN_EXPAND_PLAN_H_

#include "cc/core/chain.h"
#include "cc/plan/plan.h"

namespace dwsconv {

Plan MakeExpandPlan(const Chain& chain, const Machine& machine);

// Fills what follows from rows, channels and by_channels: tasks, z_stride and all bytes.
void FinishExpandPlan(const Chain& chain, const Machine& machine, Plan* plan);

// Whether a task may take a part of A's channels: whole vectors of filters for each, and Z's channels in A's order.
bool MayCutChannels(const Chain& chain, const Machine& machine);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_EXPAND_PLAN_H_
