// Plans that were measured to be faster than the planner's on this CPU. tf_dwsconv.tune writes them to a text file;
// each process reads it once, at its first plan. What the file says is not trusted: a line that does not parse, or asks
// for what no plan may, is left out.
#ifndef DWSCONV_PLAN_TUNED_PLANS_H_
#define DWSCONV_PLAN_TUNED_PLANS_H_

#include <cstdint>
#include <string>

#include "cc/core/chain.h"
#include "cc/plan/plan.h"
#include "cc/plan/plan_choice.h"

namespace dwsconv {

// The file's plan for a chain on this machine, if it has one. The activations, the biases and the layout of the
// chain do not matter: tiles of channels-first chains are cut after their transposition.
bool FindTunedPlan(const Chain& chain, const Machine& machine, Plan* plan);

// How often this process found one: for tests.
int64_t TunedPlansUsed();

// A line of the file, without its end: "<what it is for> : <choice>". May be followed by " # " and a remark.
std::string TunedPlanLine(const Chain& chain, const Machine& machine, const PlanChoice& choice);

// The file's first line.
constexpr char kTunedPlansHeader[] = "# tf_dwsconv plans v1";

// How lines start that are for this CPU: "cpu=<model and caches> ".
const std::string& TunedPlansCpu();

// $DWSCONV_PLAN_CACHE if set; else tf_dwsconv/plans-v1.txt in $XDG_CACHE_HOME or ~/.cache. "" where there is none: the
// variable is empty or "off", or no home is known.
std::string TunedPlansPath();

// Reads the file anew, for plans that are made from now on. Returns how many plans it has for this CPU. Says what it
// left out only if `warn`: a process may hold two copies of this library, and once is enough.
int64_t ReloadTunedPlans(bool warn);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_TUNED_PLANS_H_
