// The definition of chain.h in plain loops, sums in double: correct for everything, fast for nothing.
#ifndef DWSCONV_REF_REFERENCE_H_
#define DWSCONV_REF_REFERENCE_H_

#include "cc/core/chain.h"

namespace dwsconv {

void ForwardReference(const Chain& chain, const Buffers& buffers, int threads);

}  // namespace dwsconv

#endif  // DWSCONV_REF_REFERENCE_H_
