// The gradient op's CPU kernel: checks, allocates, dispatches. The arithmetic is in cc/cpu.
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cc/core/huge_pages.h"
#include "cc/core/make_problem.h"
#include "cc/cpu/backward.h"
#include "cc/tf/device_pool.h"
#include "cc/tf/layer_inputs.h"
#include "cc/tf/op_attributes.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace dwsconv {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

class DepthwiseSepConv2DGradOp : public tensorflow::OpKernel {
 public:
  explicit DepthwiseSepConv2DGradOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, ReadAttributes(context, &attributes_));
    for (int i = 0; i < kGradients; ++i) {
      int64_t count;
      OP_REQUIRES_OK(context, context->GetAttr(kWantedAttributes[i], &count));
      OP_REQUIRES(context, count == 0 || count == 1,
                  absl::InvalidArgumentError(absl::StrCat(kWantedAttributes[i], " must be 0 or 1, but is ", count)));
      wanted_[i] = count == 1;
    }
    OP_REQUIRES_OK(context, context->GetAttr("num_output", &outputs_));
    OP_REQUIRES(
        context, outputs_ <= 1,
        absl::InvalidArgumentError(absl::StrCat("output must be a list of at most 1 tensor, but has ", outputs_)));
  }

  void Compute(OpKernelContext* context) override {
    const LayerInputs inputs(attributes_);
    int next = inputs.next;
    const int output_at = outputs_ == 1 ? next++ : -1;
    const int grad_at = next;

    Problem problem;
    std::string error = MakeProblem(inputs.Read(context, attributes_), &problem);
    OP_REQUIRES(context, error.empty(), absl::InvalidArgumentError(error));
    TensorShape output_shape;
    OP_REQUIRES_OK(context, TensorShape::BuildTensorShape(OutputShape(problem), &output_shape));
    const auto check = [&](int at, const char* name) {
      if (at < 0 || context->input(at).shape() == output_shape) return absl::OkStatus();
      return absl::InvalidArgumentError(absl::StrCat(name, " must have the forward op's output shape, ",
                                                     output_shape.DebugString(), ", but its shape is ",
                                                     context->input(at).shape().DebugString()));
    };
    OP_REQUIRES_OK(context, check(grad_at, "grad"));
    OP_REQUIRES_OK(context, check(output_at, "output"));
    OP_REQUIRES(context, output_at > 0 || problem.out.kind == ActivationKind::kNone || DerivativeFromInput(problem.out),
                absl::InvalidArgumentError("output must be given for this activation, but is missing"));

    BackwardBuffers buffers;
    inputs.SetBuffers(context, &buffers);
    buffers.output = DataOf(context, output_at);
    buffers.grad = DataOf(context, grad_at);

    void** const gradients[kGradients] = {
        &buffers.d_input, &buffers.d_depthwise_filter, &buffers.d_pointwise_filter, &buffers.d_depthwise_bias,
        &buffers.d_bias,  &buffers.d_residual};
    const TensorShape shapes[kGradients] = {
        context->input(kInput).shape(),
        context->input(kDepthwiseFilter).shape(),
        context->input(kPointwiseFilter).shape(),
        TensorShape({problem.CM()}),
        TensorShape({problem.K}),
        output_shape,
    };
    int at = 0;
    for (int i = 0; i < kGradients; ++i) {
      if (!wanted_[i]) continue;
      Tensor* gradient = nullptr;
      OP_REQUIRES_OK(context, context->allocate_output(at++, shapes[i], &gradient));
      if (gradient->NumElements() == 0) continue;
      *gradients[i] = gradient->data();
      PreferHugePages(gradient->data(), static_cast<int64_t>(gradient->TotalBytes()));
    }

    BackwardOptions options;
    error = ChooseIsa(&options.isa);
    OP_REQUIRES(context, error.empty(), absl::FailedPreconditionError(error));
    DevicePool pool(context);
    options.num_threads = pool.threads();
    options.pool = pool.get();
    error = Backward(problem, buffers, options);
    OP_REQUIRES(context, error.empty(), absl::ResourceExhaustedError(error));
  }

 private:
  Request attributes_;
  bool wanted_[kGradients] = {};
  int64_t outputs_ = 0;
};

#define REGISTER_CPU(T)                                                                               \
  REGISTER_KERNEL_BUILDER(                                                                            \
      Name("TfDwsconv>DepthwiseSepConv2DGrad").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
      DepthwiseSepConv2DGradOp)
REGISTER_CPU(float);
REGISTER_CPU(tensorflow::bfloat16);
REGISTER_CPU(Eigen::half);
#undef REGISTER_CPU

}  // namespace
}  // namespace dwsconv

// What ran in this process, for tests, as in dws_conv_kernel.cc.
extern "C" {

// Calls that ran on the backward kernels of an ISA, or -1 for a word that is none.
int64_t dwsconv_backward_calls(const char* isa) {
  dwsconv::Isa parsed;
  if (isa == nullptr || !dwsconv::ParseIsa(isa, &parsed)) return -1;
  return dwsconv::BackwardCalls(parsed);
}

// Calls that ran on plain loops because no block of the problem fits.
int64_t dwsconv_backward_plain_calls() { return dwsconv::BackwardPlainCalls(); }

}  // extern "C"
