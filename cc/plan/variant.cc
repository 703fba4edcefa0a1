#include "cc/plan/variant.h"

#include <iterator>

namespace dwsconv {
namespace {

// In the order of the enumeration.
constexpr const char* kWords[] = {"auto",    "reference", "naive",  "reordered",       "unrolled",
                                  "blocked", "simd",      "openmp", "fused_unblocked", "fused"};
static_assert(std::size(kWords) == static_cast<size_t>(Variant::kFused) + 1, "a word for every variant");

}  // namespace

const char* VariantName(Variant variant) { return kWords[static_cast<int>(variant)]; }

bool ParseVariant(const std::string& word, Variant* variant) {
  for (size_t i = 0; i < std::size(kWords); ++i) {
    if (word == kWords[i]) {
      *variant = static_cast<Variant>(i);
      return true;
    }
  }
  return false;
}

std::string VariantWords() {
  std::string words;
  for (const char* word : kWords) words += (words.empty() ? "\"" : ", \"") + std::string(word) + "\"";
  return words;
}

}  // namespace dwsconv
