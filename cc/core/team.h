// Threads for a whole network: they come once a call and wait for its steps, which are too short to wake anybody for.
// Part of cc/core/parallel.h: a Team is a ThreadPool that ParallelForAhead knows.
#ifndef DWSCONV_CORE_TEAM_H_
#define DWSCONV_CORE_TEAM_H_

#include <memory>

#include "cc/core/parallel.h"

namespace dwsconv {

struct TeamState;  // shared with the helpers, of which some may come late

// While it lives, up to threads - 1 helpers of `workers` look for the jobs that its owner, one thread, hands out by
// ParallelForAhead({..., &team}, ...). Between two jobs a helper spins for some microseconds, then yields its core to
// whoever wants it, then sleeps. A helper that gets no core is not waited for, unless it is in the middle of a task.
class Team : public ThreadPool {
 public:
  explicit Team(const Workers& workers);
  ~Team() override;  // the helpers leave; nobody waits for those that never came
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // Not for work of others: it runs at once, in the caller.
  void Schedule(std::function<void()> work) override { work(); }
  Team* team() override { return this; }

  // work(worker) once in the caller, as worker 0, and in each helper that comes meanwhile, as 1 and so on below
  // `threads`. Returns when all that came have left.
  void Run(int threads, const std::function<void(int worker)>& work);

 private:
  const int threads_;
  std::shared_ptr<TeamState> state_;  // null without helpers
};

}  // namespace dwsconv

#endif  // DWSCONV_CORE_TEAM_H_
