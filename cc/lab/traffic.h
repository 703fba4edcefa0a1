// What a forward pass moves through the caches of one core, by simulation: the layer's own tasks, run by kernels that
// report their loads and stores instead of computing.
#ifndef DWSCONV_LAB_TRAFFIC_H_
#define DWSCONV_LAB_TRAFFIC_H_

#include <string>

#include "cc/cpu/run/forward.h"
#include "cc/lab/cache_sim.h"

namespace dwsconv {

struct KernelTable;

struct Caches {
  CacheSize l1d, l2, l3;
};

// Those of the machine, with ways as usual: CPUs do not all tell theirs.
Caches CachesOf(const Machine& machine);

struct Traffic {
  Moved beyond_l2;  // bytes between L2 and what lies behind it
  Moved memory;     // bytes between L3 and memory
};

// Simulates Forward on one thread, from empty caches to everything dirty in memory. Channels-last, an output that is
// not empty, the variants kAuto and kFused, without biases and residual. Returns "" or what went wrong (memory).
// Simulations wait for one another.
std::string SimulateTraffic(const Chain& chain, const ForwardOptions& options, const Caches& caches, Traffic* traffic);

// The kernels that only count, for those of Kernels(isa, chain).
#define DWSCONV_DECLARE(name, isa, bf16) const KernelTable& Counted##name();
DWSCONV_FOR_TARGETS(DWSCONV_DECLARE)
#undef DWSCONV_DECLARE

}  // namespace dwsconv

#endif  // DWSCONV_LAB_TRAFFIC_H_
