// TEMPORARY: the names that cuda/ and its planners still use.
#ifndef DWSCONV_CORE_PROBLEM_H_
#define DWSCONV_CORE_PROBLEM_H_
#include "cc/core/chain.h"
namespace dwsconv {
using Problem = Chain;
using ForwardBuffers = Buffers;
}  // namespace dwsconv
#endif
