// The backward pass by plain loops with sums in double: right for every problem, used where no block fits and to test.
#ifndef DWSCONV_REF_BACKWARD_REFERENCE_H_
#define DWSCONV_REF_BACKWARD_REFERENCE_H_

#include "cc/core/problem.h"

namespace dwsconv {

// Any layout. False when memory is out: it needs one number in double for each element of Y and of Z.
bool BackwardReference(const Problem& problem, const BackwardBuffers& buffers, int threads);

}  // namespace dwsconv

#endif  // DWSCONV_REF_BACKWARD_REFERENCE_H_
