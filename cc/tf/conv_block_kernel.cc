// The block op's CPU kernel: checks, allocates, dispatches. The arithmetic is in cc/cpu.
#include <cstdint>
#include <string>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "cc/core/huge_pages.h"
#include "cc/cpu/block.h"
#include "cc/tf/block_attributes.h"
#include "cc/tf/block_inputs.h"
#include "cc/tf/device_pool.h"
#include "cc/tf/filter_cache.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace dwsconv {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

class ConvBlockOp : public tensorflow::OpKernel {
 public:
  explicit ConvBlockOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, ReadBlockAttributes(context, &attributes_));
    OP_REQUIRES_OK(context, context->GetAttr("stable_filters", &stable_filters_));
  }

  // With a function its filters often go.
  ~ConvBlockOp() override { FilterCache::Global().Sweep(); }

  void Compute(OpKernelContext* context) override {
    Block block;
    BlockBuffers buffers;
    Tensor* output = nullptr;
    OP_REQUIRES_OK(context, PrepareBlock(context, attributes_, &block, &buffers, &output));
    if (output->NumElements() == 0) return;
    PreferHugePages(buffers.main.output, static_cast<int64_t>(output->TotalBytes()));

    ForwardOptions options;
    std::string error = ChooseIsa(&options.isa);
    OP_REQUIRES(context, error.empty(), absl::FailedPreconditionError(error));
    DevicePool pool(context);
    options.num_threads = pool.threads();
    options.pool = pool.get();
    absl::InlinedVector<const Tensor*, 6> filters;
    for (int i = 0; i < kBlockScale; ++i) {
      if (attributes_.at[i] >= 0) filters.push_back(&context->input(attributes_.at[i]));
    }
    const PackedBlockPtr packed = FilterCache::Global().Get(block, options.isa, buffers, filters, stable_filters_);
    error = ForwardBlock(block, buffers, packed.get(), options);
    OP_REQUIRES(context, error.empty(), absl::ResourceExhaustedError(error));
  }

 private:
  BlockAttributes attributes_;
  bool stable_filters_ = false;
};

#define REGISTER_CPU(T)                                                                                      \
  REGISTER_KERNEL_BUILDER(Name("TfDwsconv>ConvBlock").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
                          ConvBlockOp)
REGISTER_CPU(float);
REGISTER_CPU(tensorflow::bfloat16);
REGISTER_CPU(Eigen::half);
#undef REGISTER_CPU

}  // namespace
}  // namespace dwsconv

// What ran in this process, for tests, as in dws_conv_kernel.cc.
extern "C" {

// How often a way of cutting an expanded block was gone (cc/cpu/block.h), or -1 for a word that is none.
int64_t dwsconv_block_ways(const char* way) { return way == nullptr ? -1 : dwsconv::ExpandWay(way); }

}  // extern "C"
