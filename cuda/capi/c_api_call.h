// What the C functions of all passes share.
#ifndef DWSCONV_CUDA_CAPI_C_API_CALL_H_
#define DWSCONV_CUDA_CAPI_C_API_CALL_H_

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "cc/core/make_problem.h"
#include "cc/core/problem.h"
#include "cuda/capi/c_api.h"

namespace dwsconv {

// The problem that a call's shapes and attributes are. "" or what is wrong with them.
std::string ProblemOf(const DwsconvCudaCall& call, Problem* problem);

// The message as C sees it: it lives until the thread's next call.
const char* Keep(const std::string& error);

// A plan as C sees it; its text is cut where it is too long.
template <typename Plan, typename Result>
void Answer(const Problem& problem, const Plan& plan, const std::string& text, Result* result) {
  const std::vector<int64_t> shape = OutputShape(problem);
  std::copy(shape.begin(), shape.end(), result->output);
  result->workspace_bytes = plan.workspace_bytes;
  result->modelled_us = plan.modelled_us;
  const size_t length = std::min(text.size(), sizeof(result->text) - 1);
  std::memcpy(result->text, text.data(), length);
  result->text[length] = '\0';
}

}  // namespace dwsconv

#endif  // DWSCONV_CUDA_CAPI_C_API_CALL_H_
