// The steps of the optimization ladder (docs/ladder.md) that lead up to the fused, planned kernel.
#ifndef DWSCONV_LAB_LADDER_H_
#define DWSCONV_LAB_LADDER_H_

#include <string>

#include "cc/cpu/run/forward.h"

namespace dwsconv {

// Computes the layer as options.variant says, which is one for which IsLadderStep holds, on channels-last buffers.
// `packed` may be null where ReadsPlainFilters holds. Returns "" or what went wrong (memory).
std::string ForwardLadderStep(const Chain& chain, const Buffers& buffers, const PackedFilters* packed,
                              const ForwardOptions& options);

}  // namespace dwsconv

#endif  // DWSCONV_LAB_LADDER_H_
