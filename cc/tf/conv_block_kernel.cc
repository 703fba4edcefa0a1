// The block op's CPU kernel: checks, allocates, dispatches. The arithmetic is in cc/cpu.
#include <cstdint>
#include <string>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "cc/core/huge_pages.h"
#include "cc/cpu/block.h"
#include "cc/tf/block_attributes.h"
#include "cc/tf/device_pool.h"
#include "cc/tf/filter_cache.h"
#include "cc/tf/layer_inputs.h"
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
    BlockRequest request;
    SetBlockShapes(attributes_, [context](int at) { return Sizes(context->input(at)); }, &request);
    Block block;
    std::string error = MakeBlock(request, &block);
    OP_REQUIRES(context, error.empty(), absl::InvalidArgumentError(error));

    const auto data = [this, context](BlockInput input) { return DataOf(context, attributes_.at[input]); };
    BlockBuffers buffers;
    buffers.main.input = context->input(0).data();
    buffers.expand_filter = data(kBlockExpandFilter);
    buffers.expand_bias = data(kBlockExpandBias);
    buffers.main.depthwise_filter = data(kBlockDepthwiseFilter);
    buffers.main.depthwise_bias = data(kBlockDepthwiseBias);
    buffers.main.pointwise_filter = data(kBlockPointwiseFilter);
    buffers.main.bias = data(kBlockBias);
    buffers.scale = data(kBlockScale);
    buffers.main.residual = data(kBlockResidual);

    Tensor* output = nullptr;
    OP_REQUIRES_OK(context, AllocateOutput(context, block.main, attributes_.at[kBlockResidual], &output));
    if (output->NumElements() == 0) return;
    buffers.main.output = output->data();
    PreferHugePages(buffers.main.output, static_cast<int64_t>(output->TotalBytes()));

    ForwardOptions options;
    error = ChooseIsa(&options.isa);
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
