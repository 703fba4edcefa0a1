// The block op's GPU kernel: checks, allocates, plans, enqueues on TensorFlow's stream. Compiled by g++ alone, and only
// into a build with --define=cuda=1; what nvcc compiles is in cuda/.
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "cc/core/make_block.h"
#include "cc/plan/cuda_plan.h"
#include "cc/tf/block_attributes.h"
#include "cc/tf/layer_inputs.h"
#include "cuda/block.h"
#include "cuda/forward.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tsl/platform/tensor_float_32_utils.h"
#include "xla/stream_executor/stream.h"

namespace dwsconv {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

class ConvBlockGpuOp : public tensorflow::OpKernel {
 public:
  explicit ConvBlockGpuOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, ReadBlockAttributes(context, &attributes_));
  }

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

    CudaMachine machine;
    error = cuda::CurrentMachine(&machine);
    OP_REQUIRES(context, error.empty(), absl::InternalError(error));
    CudaBlockOptions options;
    // TensorFlow's own switch, which is on unless the user turns it off.
    if (block.main.dtype == DType::kFloat32 && tsl::tensor_float_32_execution_enabled() && machine.capability >= 80) {
      options.math = CudaMath::kTf32;
    }
    CudaBlockPlan plan;
    error = MakeCudaBlockPlan(block, machine, options, &plan);
    OP_REQUIRES(context, error.empty(), absl::InternalError(error));
    Tensor workspace;
    OP_REQUIRES_OK(context,
                   context->allocate_temp(tensorflow::DT_UINT8, TensorShape({plan.workspace_bytes}), &workspace));
    void* const stream = context->op_device_context()->stream()->platform_specific_handle().stream;
    error = cuda::ForwardBlock(block, plan, buffers, workspace.data(), stream);
    OP_REQUIRES(context, error.empty(), absl::InternalError(error));
  }

 private:
  BlockAttributes attributes_;
};

#define REGISTER_GPU(T)                                                                                      \
  REGISTER_KERNEL_BUILDER(Name("TfDwsconv>ConvBlock").Device(tensorflow::DEVICE_GPU).TypeConstraint<T>("T"), \
                          ConvBlockGpuOp)
REGISTER_GPU(float);
REGISTER_GPU(tensorflow::bfloat16);
REGISTER_GPU(Eigen::half);
#undef REGISTER_GPU

}  // namespace
}  // namespace dwsconv

extern "C" {

// Calls of the block op so far on a GPU: for tests.
int64_t dwsconv_gpu_block_calls() { return dwsconv::cuda::BlockCalls(); }

}  // extern "C"
