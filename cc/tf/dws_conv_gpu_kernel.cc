// The op's GPU kernel: checks, allocates, plans, enqueues on TensorFlow's stream. Compiled by g++ alone, and only into
// a build with --define=cuda=1; what nvcc compiles is in cuda/.
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "cc/core/make_problem.h"
#include "cc/plan/cuda_plan.h"
#include "cc/tf/device_pool.h"
#include "cc/tf/op_attributes.h"
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

class DepthwiseSepConv2DGpuOp : public tensorflow::OpKernel {
 public:
  explicit DepthwiseSepConv2DGpuOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, ReadAttributes(context, &attributes_));
  }

  void Compute(OpKernelContext* context) override {
    int next = kFirstOptional;
    const int depthwise_bias_at = attributes_.has_depthwise_bias ? next++ : -1;
    const int bias_at = attributes_.has_bias ? next++ : -1;
    const int residual_at = attributes_.has_residual ? next++ : -1;

    Request request = attributes_;
    request.input = Sizes(context->input(kInput));
    request.depthwise_filter = Sizes(context->input(kDepthwiseFilter));
    request.pointwise_filter = Sizes(context->input(kPointwiseFilter));
    if (depthwise_bias_at > 0) request.depthwise_bias = Sizes(context->input(depthwise_bias_at));
    if (bias_at > 0) request.bias = Sizes(context->input(bias_at));
    if (residual_at > 0) request.residual = Sizes(context->input(residual_at));
    Problem problem;
    std::string error = MakeProblem(request, &problem);
    OP_REQUIRES(context, error.empty(), absl::InvalidArgumentError(error));

    const auto data = [context](int at) { return at < 0 ? nullptr : context->input(at).data(); };
    ForwardBuffers buffers;
    buffers.input = data(kInput);
    buffers.depthwise_filter = data(kDepthwiseFilter);
    buffers.pointwise_filter = data(kPointwiseFilter);
    buffers.depthwise_bias = data(depthwise_bias_at);
    buffers.bias = data(bias_at);
    buffers.residual = data(residual_at);

    TensorShape shape;
    OP_REQUIRES_OK(context, TensorShape::BuildTensorShape(OutputShape(problem), &shape));
    Tensor* output = nullptr;
    if (residual_at > 0) {
      OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({residual_at}, 0, shape, &output));
    } else {
      OP_REQUIRES_OK(context, context->allocate_output(0, shape, &output));
    }
    if (output->NumElements() == 0) return;
    buffers.output = output->data();

    CudaMachine machine;
    error = cuda::CurrentMachine(&machine);
    OP_REQUIRES(context, error.empty(), absl::InternalError(error));
    CudaOptions options;
    // TensorFlow's own switch, which is on unless the user turns it off.
    if (problem.dtype == DType::kFloat32 && tsl::tensor_float_32_execution_enabled() && machine.capability >= 80) {
      options.math = CudaMath::kTf32;
    }
    CudaPlan plan;
    error = MakeCudaPlan(problem, machine, options, &plan);
    OP_REQUIRES(context, error.empty(), absl::InternalError(error));
    Tensor workspace;
    OP_REQUIRES_OK(context,
                   context->allocate_temp(tensorflow::DT_UINT8, TensorShape({plan.workspace_bytes}), &workspace));
    void* const stream = context->op_device_context()->stream()->platform_specific_handle().stream;
    error = cuda::Forward(problem, plan, buffers, workspace.data(), stream);
    OP_REQUIRES(context, error.empty(), absl::InternalError(error));
  }

 private:
  Request attributes_;
};

#define REGISTER_GPU(T)                                                                                               \
  REGISTER_KERNEL_BUILDER(Name("TfDwsconv>DepthwiseSepConv2D").Device(tensorflow::DEVICE_GPU).TypeConstraint<T>("T"), \
                          DepthwiseSepConv2DGpuOp)
REGISTER_GPU(float);
REGISTER_GPU(tensorflow::bfloat16);
REGISTER_GPU(Eigen::half);
#undef REGISTER_GPU

}  // namespace
}  // namespace dwsconv

extern "C" {

// Calls so far on a GPU, by the path's word ("direct", "two_step", "stream"), or -1 for a word that is none: for tests.
int64_t dwsconv_gpu_calls(const char* path) {
  for (dwsconv::CudaPath known :
       {dwsconv::CudaPath::kDirect, dwsconv::CudaPath::kTwoStep, dwsconv::CudaPath::kStream}) {
    if (path != nullptr && std::string(path) == dwsconv::CudaPathName(known)) {
      return dwsconv::cuda::ForwardCalls(known);
    }
  }
  return -1;
}

}  // extern "C"
