// The gradient op's GPU kernel: checks, allocates, plans, enqueues on TensorFlow's stream. Compiled by g++ alone, and
// only into a build with --define=cuda=1; what nvcc compiles is in cuda/.
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "cc/plan/cuda/backward_plan.h"
#include "cc/tf/gpu_call.h"
#include "cc/tf/grad_op.h"
#include "cuda/run/backward.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace dwsconv {
namespace {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;

class DepthwiseSepConv2DGradGpuOp : public GradOp {
 public:
  using GradOp::GradOp;

  void Compute(OpKernelContext* context) override {
    Problem problem;
    BackwardBuffers buffers;
    Tensor* gradients[kGradients];
    OP_REQUIRES_OK(context, Prepare(context, true, &problem, &buffers, &gradients));

    WantedGradients asked;
    bool* const flags[kGradients] = {
        &asked.input, &asked.depthwise_filter, &asked.pointwise_filter, &asked.depthwise_bias,
        &asked.bias,  &asked.residual};
    for (int i = 0; i < kGradients; ++i) *flags[i] = gradients[i] != nullptr;
    CudaMachine machine;
    CudaBackwardOptions options;
    options.aligned = cuda::AlignedForFused(buffers);
    OP_REQUIRES_OK(context, CurrentGpu(problem.dtype, &machine, &options.math));
    OP_REQUIRES_OK(context, PlanAndRun<CudaBackwardPlan>(
                                context,
                                [&](CudaBackwardPlan* plan) {
                                  return MakeCudaBackwardPlan(problem, machine, asked, options, plan);
                                },
                                [&](const CudaBackwardPlan& plan, void* workspace, void* stream) {
                                  return cuda::Backward(problem, plan, buffers, workspace, stream);
                                }));
  }
};

#define REGISTER_GPU(T)                                                                               \
  REGISTER_KERNEL_BUILDER(                                                                            \
      Name("TfDwsconv>DepthwiseSepConv2DGrad").Device(tensorflow::DEVICE_GPU).TypeConstraint<T>("T"), \
      DepthwiseSepConv2DGradGpuOp)
REGISTER_GPU(float);
REGISTER_GPU(tensorflow::bfloat16);
REGISTER_GPU(Eigen::half);
#undef REGISTER_GPU

}  // namespace
}  // namespace dwsconv

extern "C" {

// Calls of the gradient so far on a GPU, by the path's word, or -1 for a word that is none: for tests.
int64_t dwsconv_gpu_backward_calls(const char* path) {
  for (int i = 1; i < dwsconv::kCudaBackwardPaths; ++i) {
    const auto known = static_cast<dwsconv::CudaBackwardPath>(i);
    if (path != nullptr && std::string(path) == dwsconv::CudaBackwardPathName(known)) {
      return dwsconv::cuda::BackwardCalls(known);
    }
  }
  return -1;
}

}  // extern "C"
