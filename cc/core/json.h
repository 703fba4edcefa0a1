// JSON that strangers wrote: parsed without exceptions, its depth bounded, no key twice in an object.
#ifndef DWSCONV_CORE_JSON_H_
#define DWSCONV_CORE_JSON_H_

#include <cstddef>
#include <cstdint>
#include <exception>
#include <nlohmann/json.hpp>
#include <string>
#include <unordered_set>
#include <vector>

#include "cc/core/words.h"

namespace dwsconv {

using Json = nlohmann::json;  // keys in a tree: a list of a million would take hours

// Fills *json and returns "", or returns what is wrong. `what` is what the text is, for messages.
inline std::string ParseJson(const std::string& text, const std::string& what, Json* json) {
  constexpr size_t kMostDepth = 16;
  std::vector<std::unordered_set<std::string>> keys;  // of the objects around
  bool deep = false;
  std::string twice;
  const auto look = [&](int, nlohmann::detail::parse_event_t event, Json& value) {
    using Event = nlohmann::detail::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      if (keys.size() >= kMostDepth) {
        deep = true;
        return false;  // what is in there is not kept, nor is its end told
      }
      keys.emplace_back();
      return true;
    }
    if (event == Event::object_end || event == Event::array_end) keys.pop_back();
    if (event == Event::key && !keys.empty() && !keys.back().insert(value.get_ref<const std::string&>()).second) {
      twice = value.get_ref<const std::string&>();
    }
    return true;
  };
  try {
    *json = Json::parse(text, look, /*allow_exceptions=*/false);
  } catch (const std::exception& error) {  // no memory
    return what + " cannot be read: " + error.what();
  }
  if (deep) return what + " must not be nested deeper than " + std::to_string(kMostDepth);
  if (json->is_discarded()) return what + " must be JSON, but is not";
  if (!twice.empty()) return what + " must not have a key twice in an object; " + Quote(twice) + " is";
  return "";
}

}  // namespace dwsconv

#endif  // DWSCONV_CORE_JSON_H_
