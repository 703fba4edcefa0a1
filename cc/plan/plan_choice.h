// A plan by choice in the place of the planner's: the tuner's, or a caller's.
#ifndef DWSCONV_PLAN_PLAN_CHOICE_H_
#define DWSCONV_PLAN_PLAN_CHOICE_H_

#include <cstdint>
#include <string>

#include "cc/core/chain.h"
#include "cc/plan/plan.h"

namespace dwsconv {

// What of a plan can be chosen; the rest follows from it.
struct PlanChoice {
  // Without an expansion.
  int64_t block_pixels = 0;
  int64_t block_channels = 0;
  int64_t threads = 1;
  bool stream = false;
  // Behind one, in the place of the blocks.
  int64_t rows = 0;
  int64_t channels = 0;
  bool by_channels = false;
};

PlanChoice ChoiceOf(const Plan& plan);

// Fills *plan with the choice and all that follows, and returns ""; or returns what is wrong with it. N, Ho, Wo and K
// are not 0. In any case 0 < threads <= Machine::threads.
// Without an expansion: 0 < block_pixels <= Ho*Wo, and no more of them than a scratch of 2 MiB a thread holds;
// 0 < block_channels < K in whole register tiles, or K.
// Behind one: 0 < rows <= Ho; all channels of A, or, of whole images and where MayCutChannels (expand_plan.h), less in
// whole register tiles; by_channels likewise. One row is always allowed, more rows as long as A and Z take 17 MiB at
// most.
std::string ApplyPlanChoice(const Chain& chain, const Machine& machine, const PlanChoice& choice, Plan* plan);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_PLAN_CHOICE_H_
