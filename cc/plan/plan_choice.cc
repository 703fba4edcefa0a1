#include "cc/plan/plan_choice.h"

#include <algorithm>

#include "cc/plan/expand_plan.h"

namespace dwsconv {
namespace {

// A plan from outside may not ask for more: the planner itself stays below.
constexpr int64_t kMostScratchBytes = 2 << 20;

// Likewise behind an expansion, of A and Z: what the planner may take where tasks are channels.
constexpr int64_t kMostExpandedBytes = 17 << 20;

std::string MustBe(const char* name, const std::string& what, int64_t given) {
  return std::string(name) + " must be " + what + ", but is " + std::to_string(given);
}

// Of a part of the channels that may be all of them.
std::string CheckChannels(const char* name, int64_t given, int64_t all, const char* letter, int64_t tile) {
  if (given == all || (given > 0 && given < all && given % tile == 0)) return "";
  return MustBe(name, std::to_string(all) + " (" + letter + ") or less and a multiple of " + std::to_string(tile),
                given);
}

std::string ApplyBlocks(const Chain& chain, const Machine& machine, const PlanChoice& choice, Plan* plan) {
  const int64_t pixels = chain.output_pixels();
  if (choice.block_pixels <= 0 || choice.block_pixels > pixels) {
    return MustBe("block_pixels", "1 to " + std::to_string(pixels) + " (Ho*Wo)", choice.block_pixels);
  }
  const std::string wrong = CheckChannels("block_channels", choice.block_channels, chain.K, "K", machine.tile_channels);
  if (!wrong.empty()) return wrong;
  plan->block_pixels = 1;
  plan->block_channels = choice.block_channels;
  FinishPlan(chain, machine, plan);
  // A register tile of pixels is always allowed: below that nothing is gained.
  const int64_t most = std::max<int64_t>(kMostScratchBytes / (plan->z_stride * machine.z_bytes), machine.tile_pixels);
  if (choice.block_pixels > most) {
    return MustBe("block_pixels",
                  "at most " + std::to_string(most) + " for the scratch memory to stay below " +
                      std::to_string(kMostScratchBytes) + " bytes a thread",
                  choice.block_pixels);
  }
  plan->block_pixels = choice.block_pixels;
  plan->threads = static_cast<int>(choice.threads);
  const int64_t least = plan->scratch_bytes;
  FinishPlan(chain, machine, plan);
  if (plan->windows && plan->scratch_bytes > std::max(kMostScratchBytes, least)) {
    return MustBe("block_pixels",
                  "such that a thread copies at most " + std::to_string(kMostScratchBytes) + " bytes of its input",
                  choice.block_pixels);
  }
  return "";
}

std::string ApplyStrips(const Chain& chain, const Machine& machine, const PlanChoice& choice, Plan* plan) {
  if (choice.rows <= 0 || choice.rows > chain.Ho) {
    return MustBe("rows", "1 to " + std::to_string(chain.Ho) + " (Ho)", choice.rows);
  }
  const std::string wrong = CheckChannels("channels", choice.channels, chain.C, "C", machine.tile_channels);
  if (!wrong.empty()) return wrong;
  if (choice.channels < chain.C || choice.by_channels) {
    if (!MayCutChannels(chain, machine)) {
      return MustBe("channels",
                    std::to_string(chain.C) + " (C), with by_channels 0, where the channels of Z cannot be cut",
                    choice.channels);
    }
    if (choice.rows != chain.Ho) {
      return MustBe("rows", std::to_string(chain.Ho) + " (Ho) where a task does not take all channels", choice.rows);
    }
  }
  plan->rows = choice.rows;
  plan->channels = choice.channels;
  plan->by_channels = choice.by_channels;
  FinishExpandPlan(chain, machine, plan);
  const bool least = choice.rows == 1 && !choice.by_channels;
  if (!least && plan->a_bytes + plan->z_bytes > kMostExpandedBytes) {
    return "rows, channels and by_channels must be such that a thread holds at most " +
           std::to_string(kMostExpandedBytes) + " bytes, but it would hold " +
           std::to_string(plan->a_bytes + plan->z_bytes);
  }
  return "";
}

}  // namespace

PlanChoice ChoiceOf(const Plan& plan) {
  return {plan.block_pixels, plan.block_channels, plan.threads,    plan.stream,
          plan.rows,         plan.channels,       plan.by_channels};
}

std::string ApplyPlanChoice(const Chain& chain, const Machine& machine, const PlanChoice& choice, Plan* plan) {
  if (choice.threads <= 0 || choice.threads > machine.threads) {
    return MustBe("threads", "1 to " + std::to_string(machine.threads), choice.threads);
  }
  Plan chosen;
  chosen.threads = static_cast<int>(choice.threads);
  chosen.stream = choice.stream;
  const std::string wrong =
      chain.E > 0 ? ApplyStrips(chain, machine, choice, &chosen) : ApplyBlocks(chain, machine, choice, &chosen);
  if (wrong.empty()) *plan = chosen;
  return wrong;
}

}  // namespace dwsconv
