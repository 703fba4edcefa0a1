// How messages show numbers and words.
#ifndef DWSCONV_CORE_WORDS_H_
#define DWSCONV_CORE_WORDS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace dwsconv {

inline std::string Quote(const std::string& word) { return "\"" + word + "\""; }

// "[1,2,3]".
inline std::string Show(const std::vector<int64_t>& numbers) {
  std::string text = "[";
  for (size_t i = 0; i < numbers.size(); ++i) text += (i > 0 ? "," : "") + std::to_string(numbers[i]);
  return text + "]";
}

}  // namespace dwsconv

#endif  // DWSCONV_CORE_WORDS_H_
