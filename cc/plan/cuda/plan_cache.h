// The GPU planner's plans, remembered.
#ifndef DWSCONV_PLAN_CUDA_PLAN_CACHE_H_
#define DWSCONV_PLAN_CUDA_PLAN_CACHE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "cc/core/chain.h"
#include "cc/plan/cuda/plan.h"

namespace dwsconv {

// MakeCudaPlan, searched for once a process: the search takes several microseconds, which is as long as a small layer.
// Errors are not remembered. Any thread may call.
std::string CachedCudaPlan(const Chain& chain, const CudaMachine& machine, const CudaOptions& options,
                           std::shared_ptr<const CudaPlan>* plan);

// Plans that it has searched for so far, in this process.
int64_t CudaPlansMade();

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_CUDA_PLAN_CACHE_H_
