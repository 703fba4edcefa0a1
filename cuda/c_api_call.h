// What the C functions of all passes share.
#ifndef DWSCONV_CUDA_C_API_CALL_H_
#define DWSCONV_CUDA_C_API_CALL_H_

#include <string>

#include "cc/core/problem.h"
#include "cuda/c_api.h"

namespace dwsconv {

// The problem that a call's shapes and attributes are. "" or what is wrong with them.
std::string ProblemOf(const DwsconvCudaCall& call, Problem* problem);

// The message as C sees it: it lives until the thread's next call.
const char* Keep(const std::string& error);

}  // namespace dwsconv

#endif  // DWSCONV_CUDA_C_API_CALL_H_
