// The block op's GPU kernel: checks, allocates, plans, enqueues on TensorFlow's stream. Compiled by g++ alone, and only
// into a build with --define=cuda=1; what nvcc compiles is in cuda/.
#include <cstdint>

#include "cc/plan/cuda/block_plan.h"
#include "cc/tf/block_attributes.h"
#include "cc/tf/block_inputs.h"
#include "cc/tf/gpu_call.h"
#include "cuda/run/block.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace dwsconv {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

class ConvBlockGpuOp : public tensorflow::OpKernel {
 public:
  explicit ConvBlockGpuOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, ReadBlockAttributes(context, &attributes_));
  }

  void Compute(OpKernelContext* context) override {
    Block block;
    BlockBuffers buffers;
    Tensor* output = nullptr;
    OP_REQUIRES_OK(context, PrepareBlock(context, attributes_, &block, &buffers, &output));
    if (output->NumElements() == 0) return;

    CudaMachine machine;
    CudaBlockOptions options;
    OP_REQUIRES_OK(context, CurrentGpu(block.main.dtype, &machine, &options.math));
    OP_REQUIRES_OK(context,
                   PlanAndRun<CudaBlockPlan>(
                       context, [&](CudaBlockPlan* plan) { return MakeCudaBlockPlan(block, machine, options, plan); },
                       [&](const CudaBlockPlan& plan, void* workspace, void* stream) {
                         return cuda::ForwardBlock(block, plan, buffers, workspace, stream);
                       }));
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
