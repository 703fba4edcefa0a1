// The threads of this library: for who has none to lend, like `native`. Part of cc/core/parallel.h.
#ifndef DWSCONV_CORE_OWN_THREADS_H_
#define DWSCONV_CORE_OWN_THREADS_H_

#include "cc/core/parallel.h"

namespace dwsconv {

// A pool of at least `threads` threads if the system gives as many. Work that is scheduled runs even if it gives none
// at all only where the caller does it: ParallelForAhead does. Never null, never destroyed; another one after a fork.
ThreadPool* OwnThreads(int threads);

}  // namespace dwsconv

#endif  // DWSCONV_CORE_OWN_THREADS_H_
