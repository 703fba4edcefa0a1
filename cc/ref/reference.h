// The definition of problem.h in plain loops, sums in double: correct for everything, fast for nothing.
#ifndef DWSCONV_REF_REFERENCE_H_
#define DWSCONV_REF_REFERENCE_H_

#include "cc/core/problem.h"

namespace dwsconv {

void ForwardReference(const Problem& problem, const ForwardBuffers& buffers, int threads);

}  // namespace dwsconv

#endif  // DWSCONV_REF_REFERENCE_H_
