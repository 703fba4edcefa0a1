// The gradient op's GPU kernel: checks, allocates, plans, enqueues on TensorFlow's stream. Compiled by g++ alone, and
// only into a build with --define=cuda=1; what nvcc compiles is in cuda/.
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "cc/plan/cuda_backward_plan.h"
#include "cc/tf/grad_op.h"
#include "cuda/backward.h"
#include "cuda/forward.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tsl/platform/tensor_float_32_utils.h"
#include "xla/stream_executor/stream.h"

namespace dwsconv {
namespace {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

class DepthwiseSepConv2DGradGpuOp : public GradOp {
 public:
  using GradOp::GradOp;

  void Compute(OpKernelContext* context) override {
    Problem problem;
    BackwardBuffers buffers;
    Tensor* gradients[kGradients];
    OP_REQUIRES_OK(context, Prepare(context, true, &problem, &buffers, &gradients));

    CudaMachine machine;
    std::string error = cuda::CurrentMachine(&machine);
    OP_REQUIRES(context, error.empty(), absl::InternalError(error));
    WantedGradients asked;
    bool* const flags[kGradients] = {
        &asked.input, &asked.depthwise_filter, &asked.pointwise_filter, &asked.depthwise_bias,
        &asked.bias,  &asked.residual};
    for (int i = 0; i < kGradients; ++i) *flags[i] = gradients[i] != nullptr;
    CudaBackwardOptions options;
    // TensorFlow's own switch, which is on unless the user turns it off.
    if (problem.dtype == DType::kFloat32 && tsl::tensor_float_32_execution_enabled() && machine.capability >= 80) {
      options.math = CudaMath::kTf32;
    }
    CudaBackwardPlan plan;
    error = MakeCudaBackwardPlan(problem, machine, asked, options, &plan);
    OP_REQUIRES(context, error.empty(), absl::InternalError(error));
    Tensor workspace;
    OP_REQUIRES_OK(context,
                   context->allocate_temp(tensorflow::DT_UINT8, TensorShape({plan.workspace_bytes}), &workspace));
    void* const stream = context->op_device_context()->stream()->platform_specific_handle().stream;
    error = cuda::Backward(problem, plan, buffers, workspace.data(), stream);
    OP_REQUIRES(context, error.empty(), absl::InternalError(error));
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
