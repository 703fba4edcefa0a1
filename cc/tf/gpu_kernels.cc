// The ops' GPU kernels: they check, allocate, plan, and enqueue on TensorFlow's stream. Compiled by g++ alone, and only
// into a build with --define=cuda=1; what nvcc compiles is in cuda/.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "cc/plan/cuda/plan.h"
#include "cc/plan/cuda/plan_cache.h"
#include "cc/tf/chain_op.h"
#include "cc/tf/grad_op.h"
#include "cuda/run/execute.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tsl/platform/tensor_float_32_utils.h"
#include "xla/stream_executor/stream.h"

namespace dwsconv {
namespace {

using cuda::CudaTensors;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

CudaTensors TensorsOf(const Buffers& buffers) {
  CudaTensors tensors;
  tensors.Set(CudaTensor::kX, buffers.input);
  tensors.Set(CudaTensor::kExpandFilter, buffers.expand_filter);
  tensors.Set(CudaTensor::kExpandBias, buffers.expand_bias);
  tensors.Set(CudaTensor::kDepthwiseFilter, buffers.depthwise_filter);
  tensors.Set(CudaTensor::kDepthwiseBias, buffers.depthwise_bias);
  tensors.Set(CudaTensor::kPointwiseFilter, buffers.pointwise_filter);
  tensors.Set(CudaTensor::kBias, buffers.bias);
  tensors.Set(CudaTensor::kGate, buffers.gate);
  tensors.Set(CudaTensor::kResidual, buffers.residual);
  tensors.Set(CudaTensor::kY, buffers.output);
  return tensors;
}

CudaTensors TensorsOf(const BackwardBuffers& buffers) {
  CudaTensors tensors;
  tensors.Set(CudaTensor::kX, buffers.input);
  tensors.Set(CudaTensor::kDepthwiseFilter, buffers.depthwise_filter);
  tensors.Set(CudaTensor::kDepthwiseBias, buffers.depthwise_bias);
  tensors.Set(CudaTensor::kPointwiseFilter, buffers.pointwise_filter);
  tensors.Set(CudaTensor::kBias, buffers.bias);
  tensors.Set(CudaTensor::kResidual, buffers.residual);
  tensors.Set(CudaTensor::kY, buffers.output);
  tensors.Set(CudaTensor::kGrad, buffers.grad);
  tensors.Set(CudaTensor::kDX, buffers.d_input);
  tensors.Set(CudaTensor::kDDepthwiseFilter, buffers.d_depthwise_filter);
  tensors.Set(CudaTensor::kDPointwiseFilter, buffers.d_pointwise_filter);
  tensors.Set(CudaTensor::kDDepthwiseBias, buffers.d_depthwise_bias);
  tensors.Set(CudaTensor::kDBias, buffers.d_bias);
  tensors.Set(CudaTensor::kDResidual, buffers.d_residual);
  return tensors;
}

// Plans for the card that the calling thread's kernels run on, and runs with a workspace of TensorFlow's on its stream.
// float32 is multiplied as TF32 where the card can and TensorFlow's own switch allows it, which is on unless the user
// turns it off.
absl::Status RunOnGpu(OpKernelContext* context, const Chain& chain, const CudaTensors& tensors,
                      std::optional<WantedGradients> gradients) {
  CudaMachine machine;
  std::string error = cuda::CurrentMachine(&machine);
  if (!error.empty()) return absl::InternalError(error);
  CudaOptions options;
  options.gradients = gradients;
  options.aligned = cuda::AlignedForFused(tensors);
  if (chain.dtype == DType::kFloat32 && tsl::tensor_float_32_execution_enabled() && machine.capability >= 80) {
    options.math = CudaMath::kTf32;
  }
  std::shared_ptr<const CudaPlan> plan;
  error = CachedCudaPlan(chain, machine, options, &plan);
  if (!error.empty()) return absl::InternalError(error);
  Tensor workspace;
  TF_RETURN_IF_ERROR(
      context->allocate_temp(tensorflow::DT_UINT8, tensorflow::TensorShape({plan->workspace_bytes}), &workspace));
  error = cuda::Execute(chain, *plan, tensors, workspace.data(),
                        context->op_device_context()->stream()->platform_specific_handle().stream);
  return error.empty() ? absl::OkStatus() : absl::InternalError(error);
}

template <ChainOpKind kKind>
class ChainGpuOp : public tensorflow::OpKernel {
 public:
  explicit ChainGpuOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, ReadChainAttributes(context, kKind, &attributes_));
  }

  void Compute(OpKernelContext* context) override {
    Chain chain;
    Buffers buffers;
    Tensor* output = nullptr;
    OP_REQUIRES_OK(context, PrepareCall(context, attributes_, &chain, &buffers, &output));
    if (output->NumElements() == 0) return;
    OP_REQUIRES_OK(context, RunOnGpu(context, chain, TensorsOf(buffers), std::nullopt));
  }

 private:
  ChainAttributes attributes_;
};

class DepthwiseSepConv2DGradGpuOp : public GradOp<ChainOpKind::kLayer> {
 public:
  using GradOp::GradOp;

  void Compute(OpKernelContext* context) override {
    Chain chain;
    BackwardBuffers buffers;
    Tensor* gradients[kGradients];
    OP_REQUIRES_OK(context, Prepare(context, true, &chain, &buffers, &gradients));
    const auto wanted = [&gradients](int i) { return gradients[i] != nullptr; };
    OP_REQUIRES_OK(context,
                   RunOnGpu(context, chain, TensorsOf(buffers),
                            WantedGradients{wanted(0), wanted(1), wanted(2), wanted(3), wanted(4), wanted(5)}));
  }
};

DWSCONV_REGISTER_KERNEL("GPU", "TfDwsconv>DepthwiseSepConv2D", ChainGpuOp<ChainOpKind::kLayer>);
DWSCONV_REGISTER_KERNEL("GPU", "TfDwsconv>ConvBlock", ChainGpuOp<ChainOpKind::kBlock>);
DWSCONV_REGISTER_KERNEL("GPU", "TfDwsconv>DepthwiseSepConv2DGrad", DepthwiseSepConv2DGradGpuOp);

}  // namespace
}  // namespace dwsconv

extern "C" {

// Calls so far on a GPU by the path's word ("direct", "steps"), of all ops by "auto"; -1 for a word that is none: for
// tests.
int64_t dwsconv_gpu_calls(const char* path) {
  for (int i = 0; i < dwsconv::kCudaPaths; ++i) {
    const auto known = static_cast<dwsconv::CudaPath>(i);
    if (path != nullptr && std::string(path) == dwsconv::CudaPathName(known)) return dwsconv::cuda::Calls(known);
  }
  return -1;
}

}  // extern "C"
