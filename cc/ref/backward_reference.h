// The backward pass by plain loops with sums in double: right for every chain, used where no block fits and to test.
#ifndef DWSCONV_REF_BACKWARD_REFERENCE_H_
#define DWSCONV_REF_BACKWARD_REFERENCE_H_

#include "cc/core/chain.h"

namespace dwsconv {

// Any layout. False when memory is out: it needs one number in double for each element of Y and of Z.
bool BackwardReference(const Chain& chain, const BackwardBuffers& buffers, int threads);

}  // namespace dwsconv

#endif  // DWSCONV_REF_BACKWARD_REFERENCE_H_
