// What the shape function and the kernel of TfDwsconv>Network share: its attributes, read.
#ifndef DWSCONV_TF_NETWORK_OP_H_
#define DWSCONV_TF_NETWORK_OP_H_

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cc/core/program_infer.h"
#include "cc/core/program_text.h"
#include "cc/tf/op_support.h"

namespace dwsconv {

// The program of a text, read once for the shape functions and kernels of a while. Any thread may call.
inline absl::Status ReadProgram(const std::string& text, std::shared_ptr<const Program>* program) {
  constexpr size_t kKept = 4;
  static std::mutex& mutex = *new std::mutex;
  static auto& known = *new std::list<std::pair<std::string, std::shared_ptr<const Program>>>;  // the last first
  {
    std::lock_guard<std::mutex> lock(mutex);
    for (auto entry = known.begin(); entry != known.end(); ++entry) {
      if (entry->first != text) continue;
      known.splice(known.begin(), known, entry);
      *program = entry->second;
      return absl::OkStatus();
    }
  }
  auto read = std::make_shared<Program>();
  TF_RETURN_IF_ERROR(ArgumentStatus(ParseProgram(text, read.get())));
  *program = std::move(read);
  std::lock_guard<std::mutex> lock(mutex);
  known.emplace_front(text, *program);
  if (known.size() > kKept) known.pop_back();
  return absl::OkStatus();
}

// Context: shape_inference::InferenceContext or OpKernelConstruction.
template <typename Context>
absl::Status ReadNetworkAttributes(Context* context, std::string* text, std::shared_ptr<const Program>* program) {
  TF_RETURN_IF_ERROR(context->GetAttr("program", text));
  TF_RETURN_IF_ERROR(ReadProgram(*text, program));
  tensorflow::DataType dtype;
  DType type = DType::kFloat32;
  TF_RETURN_IF_ERROR(context->GetAttr("T", &dtype));
  TF_RETURN_IF_ERROR(ToDType(dtype, &type));
  if (type != (*program)->dtype) {
    return absl::InvalidArgumentError(
        absl::StrCat("T must be the program's dtype, ", DTypeWord((*program)->dtype), ", but is ", DTypeWord(type)));
  }
  const std::pair<const char*, size_t> counts[] = {{"inputs", (*program)->inputs.size()},
                                                   {"outputs", (*program)->outputs.size()}};
  for (const auto& [name, wanted] : counts) {
    int64_t count;
    TF_RETURN_IF_ERROR(context->GetAttr(absl::StrCat("num_", name), &count));
    if (count != static_cast<int64_t>(wanted)) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " must be a list of ", wanted, " tensors, as the program has, but has ", count));
    }
  }
  return absl::OkStatus();
}

}  // namespace dwsconv

#endif  // DWSCONV_TF_NETWORK_OP_H_
