// Pools that do their worst, for tests.
#ifndef DWSCONV_CORE_TESTING_POOLS_H_
#define DWSCONV_CORE_TESTING_POOLS_H_

#include <functional>
#include <utility>
#include <vector>

#include "cc/core/parallel.h"

namespace dwsconv {

// Keeps the work for later: what a pool without a free thread does.
class Later : public ThreadPool {
 public:
  void Schedule(std::function<void()> work) override { kept.push_back(std::move(work)); }
  std::vector<std::function<void()>> kept;
};

// Runs it at once, in the thread that asks: what a pool without room does.
class Now : public ThreadPool {
 public:
  void Schedule(std::function<void()> work) override { work(); }
};

}  // namespace dwsconv

#endif  // DWSCONV_CORE_TESTING_POOLS_H_
