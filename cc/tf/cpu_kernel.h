// What the CPU kernels of all our ops share: the device's threads, and counters that tests read.
#ifndef DWSCONV_TF_CPU_KERNEL_H_
#define DWSCONV_TF_CPU_KERNEL_H_

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "cc/core/cpu_features.h"
#include "cc/core/parallel.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/platform/threadpool.h"

namespace dwsconv {

// As many threads as TensorFlow gives an op, but of our own: they look for the next layer's work for a while before
// they sleep, where TensorFlow's would have to be woken for each call. While they look they give way to anyone
// (own_threads.cc).
class DevicePool : public ThreadPool {
 public:
  explicit DevicePool(tensorflow::OpKernelContext* context)
      : threads_(*context->device()->tensorflow_cpu_worker_threads()) {}

  void Schedule(std::function<void()> work) override { threads_.workers->Schedule(std::move(work)); }

  // No more than TensorFlow gives an op, nor than the user asks of us.
  int threads() const { return std::max(1, std::min(threads_.num_threads, ResolveThreads(0))); }

  // TensorFlow's threads instead where DWSCONV_POOL=tensorflow asks for them: for measurements (docs/tuning.md).
  ThreadPool* get() {
    const char* word = std::getenv("DWSCONV_POOL");
    return word != nullptr && std::strcmp(word, "tensorflow") == 0 ? this : nullptr;
  }

 private:
  const tensorflow::DeviceBase::CpuWorkerThreads& threads_;
};

// Fills what a call's options say of the machine. `choose` picks the instruction set.
template <typename Options>
absl::Status SetDevice(DevicePool* pool, std::string (*choose)(Isa*), Options* options) {
  const std::string error = choose(&options->isa);
  options->num_threads = pool->threads();
  options->pool = pool->get();
  return error.empty() ? absl::OkStatus() : absl::FailedPreconditionError(error);
}

// What `count` says of an instruction set, or -1 for a word that is none.
inline int64_t CountOf(const char* isa, int64_t (*count)(Isa)) {
  Isa parsed;
  return isa == nullptr || !ParseIsa(isa, &parsed) ? -1 : count(parsed);
}

}  // namespace dwsconv

#endif  // DWSCONV_TF_CPU_KERNEL_H_
