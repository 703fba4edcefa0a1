// The CPU kernel of TfDwsconv>Network: checks, allocates, and runs the program. The arithmetic is in cc/cpu.
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "cc/core/huge_pages.h"
#include "cc/cpu/run/program.h"
#include "cc/tf/content_hash.h"
#include "cc/tf/cpu_kernel.h"
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
    OP_REQUIRES_OK(context, ArgumentStatus(InferProgram(*program_, {}, &inferred_)));
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
      shapes.push_back(SizesOf(context, i));
      from.push_back(context->input(i).data());
    }
    const Tensor& weights = context->input(inputs);
    OP_REQUIRES(context, weights.dims() == 1 && weights.NumElements() == program_->weight_count,
                absl::InvalidArgumentError(absl::StrCat("weights must have shape [", program_->weight_count,
                                                        "], but its shape is ", weights.shape().DebugString())));
    ProgramOptions options;
    DevicePool pool(context);
    OP_REQUIRES_OK(context, SetDevice(&pool, ChooseIsa, &options));
    std::shared_ptr<const PreparedProgram> prepared;
    OP_REQUIRES_OK(context, ArgumentStatus(prepared_->Get(shapes, options.num_threads, &prepared)));

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
    const std::string error = RunProgram(*prepared, packed.get(), weights.data(), from, to, options);
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

DWSCONV_REGISTER_KERNEL("CPU", "TfDwsconv>Network", NetworkOp);

}  // namespace
}  // namespace dwsconv

// What ran in this process, for tests, as in chain_kernel.cc.
extern "C" {

// Calls of programs so far.
int64_t dwsconv_network_calls() { return dwsconv::ProgramCalls(); }

}  // extern "C"
