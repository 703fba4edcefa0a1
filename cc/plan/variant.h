// Which implementation of the forward pass runs, by the words that callers use.
#ifndef DWSCONV_PLAN_VARIANT_H_
#define DWSCONV_PLAN_VARIANT_H_

#include <string>

namespace dwsconv {

// kReference sums in double; kNaive to kFused are the steps of the optimization ladder (docs/ladder.md), slowest first.
// kFused is the kernel with the planner's plan, kAuto with the tuner's where there is one.
enum class Variant : int {
  kAuto = 0,
  kReference,
  kNaive,
  kReordered,
  kUnrolled,
  kBlocked,
  kSimd,
  kOpenmp,
  kFusedUnblocked,
  kFused,
};

const char* VariantName(Variant variant);  // "auto", "reference", "naive", ..., "fused_unblocked", "fused"
bool ParseVariant(const std::string& word, Variant* variant);
std::string VariantWords();  // all of them, for messages

// The steps below kFused.
constexpr bool IsLadderStep(Variant variant) {
  return variant >= Variant::kNaive && variant <= Variant::kFusedUnblocked;
}

// Those that take the filters as they are, not packed: plain loops.
constexpr bool ReadsPlainFilters(Variant variant) {
  return variant >= Variant::kReference && variant <= Variant::kBlocked;
}

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_VARIANT_H_
