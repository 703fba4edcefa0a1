// The CPU kernel of TfDwsconv>Network: checks, allocates, and runs the program. The arithmetic is in cc/cpu.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "cc/core/huge_pages.h"
#include "cc/cpu/run/program.h"
#include "cc/tf/content_hash.h"
#include "cc/tf/device_pool.h"
#include "cc/tf/filter_cache.h"
#include "cc/tf/network_op.h"
#include "tensorflow/core/framework/cancellation.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace dwsconv {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

class NetworkOp : public tensorflow::OpKernel {
 public:
  explicit NetworkOp(OpKernelConstruction* context) : OpKernel(context) {
    std::string text;
    OP_REQUIRES_OK(context, ReadNetworkAttributes(context, &text, &program_));
    OP_REQUIRES_OK(context, context->GetAttr("stable_filters", &stable_filters_));
    const std::string error = InferProgram(*program_, {}, &inferred_);
    OP_REQUIRES(context, error.empty(), absl::InvalidArgumentError(error));
    prepared_ = std::make_unique<PreparedPrograms>(program_);
    for (uint64_t seed : {0, 1}) {
      key_[seed] = static_cast<int64_t>(HashBytes(text.data(), text.size(), seed));
    }
    key_[2] = static_cast<int64_t>(text.size());
  }

  // With a function its weights often go.
  ~NetworkOp() override { FilterCache::Networks().Sweep(); }

  void Compute(OpKernelContext* context) override {
    const int inputs = context->num_inputs() - 1;
    std::vector<std::vector<int64_t>> shapes;
    std::vector<const void*> from;
    for (int i = 0; i < inputs; ++i) {
      const auto sizes = context->input(i).shape().dim_sizes();
      shapes.emplace_back(sizes.begin(), sizes.end());
      from.push_back(context->input(i).data());
    }
    const Tensor& weights = context->input(inputs);
    OP_REQUIRES(context, weights.dims() == 1 && weights.NumElements() == program_->weight_count,
                absl::InvalidArgumentError(absl::StrCat("weights must have shape [", program_->weight_count,
                                                        "], but its shape is ", weights.shape().DebugString())));
    ProgramOptions options;
    std::string error = ChooseIsa(&options.isa);
    OP_REQUIRES(context, error.empty(), absl::FailedPreconditionError(error));
    DevicePool pool(context);
    options.num_threads = pool.threads();
    options.pool = pool.get();
    std::shared_ptr<const PreparedProgram> prepared;
    error = prepared_->Get(shapes, options.num_threads, &prepared);
    OP_REQUIRES(context, error.empty(), absl::InvalidArgumentError(error));

    std::vector<void*> to;
    for (size_t i = 0; i < prepared->inferred.outputs.size(); ++i) {
      tensorflow::TensorShape shape;
      const int slot = prepared->inferred.outputs[i];
      OP_REQUIRES_OK(context, ToTensorShape(prepared->inferred.shapes[static_cast<size_t>(slot)], &shape));
      Tensor* output = nullptr;
      OP_REQUIRES_OK(context, context->allocate_output(static_cast<int>(i), shape, &output));
      PreferHugePages(output->data(), static_cast<int64_t>(output->TotalBytes()));
      to.push_back(output->data());
    }
    PackKey key = key_;
    key[3] = static_cast<int64_t>(options.isa);
    const auto packed = FilterCache::Networks().Get(key, weights, stable_filters_, [&] {
      return PackedProgram::Make(*program_, inferred_, weights.data(), options.isa);
    });
    if (tensorflow::CancellationManager* const manager = context->cancellation_manager()) {
      options.cancelled = [manager] { return manager->IsCancelled(); };
    }
    error = RunProgram(*prepared, packed.get(), weights.data(), from, to, options);
    OP_REQUIRES(context, error != kCancelled, absl::CancelledError(error));
    OP_REQUIRES(context, error.empty(), absl::ResourceExhaustedError(error));
  }

 private:
  std::shared_ptr<const Program> program_;
  InferredProgram inferred_;  // as far as it is known without inputs
  std::unique_ptr<PreparedPrograms> prepared_;
  PackKey key_{};  // what tells packed filters of this program from others
  bool stable_filters_ = false;
};

#define REGISTER_CPU(T) \
  REGISTER_KERNEL_BUILDER(Name("TfDwsconv>Network").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), NetworkOp)
REGISTER_CPU(float);
REGISTER_CPU(tensorflow::bfloat16);
REGISTER_CPU(Eigen::half);
#undef REGISTER_CPU

}  // namespace
}  // namespace dwsconv

// What ran in this process, for tests, as in chain_kernel.cc.
extern "C" {

// Calls of programs so far.
int64_t dwsconv_network_calls() { return dwsconv::ProgramCalls(); }

// The cache of packed networks, as dwsconv_filter_cache has that of filters.
void dwsconv_network_cache(int64_t values[6]) {
  const dwsconv::FilterCache::Stats stats = dwsconv::FilterCache::Networks().stats();
  const int64_t all[6] = {stats.entries, stats.bytes, stats.held, stats.hits, stats.misses, stats.inserts};
  std::copy(all, all + 6, values);
}

void dwsconv_network_cache_clear() { dwsconv::FilterCache::Networks().Clear(); }

}  // extern "C"
