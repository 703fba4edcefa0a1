// The op library's own copy of the tuned plans, for tf_dwsconv.tune and its tests: called through ctypes. Any thread
// may call at any time.
#include <cstdint>

#include "cc/plan/tuned_plans.h"

extern "C" {

// Reads the file of tuned plans anew, silently: the module `native` has its say. Returns how many it has for this CPU.
int64_t dwsconv_reload_plans() { return dwsconv::ReloadTunedPlans(/*warn=*/false); }

// How many plans of the op's calls came from there.
int64_t dwsconv_tuned_calls() { return dwsconv::TunedPlansUsed(); }

}  // extern "C"
