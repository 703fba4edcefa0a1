// Runs a plan of a chain on channels-last buffers: the one place where forward kernels are called.
#ifndef DWSCONV_CPU_RUN_EXECUTOR_H_
#define DWSCONV_CPU_RUN_EXECUTOR_H_

#include <cstdint>
#include <functional>
#include <string>

#include "cc/core/chain.h"
#include "cc/core/parallel.h"
#include "cc/cpu/pack.h"
#include "cc/plan/plan.h"

namespace dwsconv {

constexpr char kOutOfMemory[] = "out of memory for the working buffers of the depthwise-separable convolution";

// Told of channels [c, c + channels) of output rows [row, row + rows) of image n as soon as they are whole, by the
// thread that made them, in whose cache they lie. Of rows of which no task has all, and those around the caches, nobody
// is told.
using RowsDone = std::function<void(int64_t n, int64_t row, int64_t rows, int64_t c, int64_t channels)>;

// `packed` is of the chain, and `plan` of the chain and the packed filters' kernels. Returns "" or what went wrong
// (memory).
std::string Execute(const Chain& chain, const Buffers& buffers, const PackedFilters& packed, const Plan& plan,
                    ThreadPool* pool, const RowsDone* rows_done = nullptr);

// How often this process went a way of cutting a chain, for tests; -1 for a word that is none. Of calls that begin with
// an expansion: "images", whole ones, all channels at a time; "pieces", whole ones, channels piece by piece;
// "channels", pieces of channels as tasks; "shares", those whose output channels were shared out, too; "strips", of
// rows. Of strips: "kept", those that found rows of A kept from the strip before. Of dense convolutions: "windows",
// whose products read X. Of gates on X: "gated filters", those that met the filter in its place.
int64_t ChainWay(const std::string& way);

}  // namespace dwsconv

#endif  // DWSCONV_CPU_RUN_EXECUTOR_H_
