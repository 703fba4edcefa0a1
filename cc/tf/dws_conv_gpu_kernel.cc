// The op's GPU kernel: checks, allocates, plans, enqueues on TensorFlow's stream. Compiled by g++ alone, and only into
// a build with --define=cuda=1; what nvcc compiles is in cuda/.
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "cc/core/make_problem.h"
#include "cc/plan/cuda/forward_plan.h"
#include "cc/tf/gpu_call.h"
#include "cc/tf/layer_inputs.h"
#include "cc/tf/op_attributes.h"
#include "cuda/run/forward.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace dwsconv {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

class DepthwiseSepConv2DGpuOp : public tensorflow::OpKernel {
 public:
  explicit DepthwiseSepConv2DGpuOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, ReadAttributes(context, &attributes_));
  }

  void Compute(OpKernelContext* context) override {
    const LayerInputs inputs(attributes_);

    Problem problem;
    const std::string error = MakeProblem(inputs.Read(context, attributes_), &problem);
    OP_REQUIRES(context, error.empty(), absl::InvalidArgumentError(error));

    ForwardBuffers buffers;
    inputs.SetBuffers(context, &buffers);

    Tensor* output = nullptr;
    OP_REQUIRES_OK(context, AllocateOutput(context, problem, inputs.residual, &output));
    if (output->NumElements() == 0) return;
    buffers.output = output->data();

    CudaMachine machine;
    CudaOptions options;
    OP_REQUIRES_OK(context, CurrentGpu(problem.dtype, &machine, &options.math));
    OP_REQUIRES_OK(context, PlanAndRun<CudaPlan>(
                                context, [&](CudaPlan* plan) { return MakeCudaPlan(problem, machine, options, plan); },
                                [&](const CudaPlan& plan, void* workspace, void* stream) {
                                  return cuda::Forward(problem, plan, buffers, workspace, stream);
                                }));
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
