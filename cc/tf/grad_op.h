// What the gradient op's kernels share: attributes, checks, and the buffers of a call.
#ifndef DWSCONV_TF_GRAD_OP_H_
#define DWSCONV_TF_GRAD_OP_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "cc/core/make_problem.h"
#include "cc/tf/layer_inputs.h"
#include "cc/tf/op_attributes.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace dwsconv {

class GradOp : public tensorflow::OpKernel {
 public:
  explicit GradOp(tensorflow::OpKernelConstruction* context) : OpKernel(context) {
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

 protected:
  // Checks the inputs and allocates the gradients that are wanted. Those without elements have null buffers; *gradients
  // has those that are not null, in the order of kWantedAttributes. The residual's gradient may lie where `grad` does
  // if `in_place`.
  absl::Status Prepare(tensorflow::OpKernelContext* context, bool in_place, Problem* problem, BackwardBuffers* buffers,
                       tensorflow::Tensor* (*gradients)[kGradients]) const {
    const LayerInputs inputs(attributes_);
    int next = inputs.next;
    const int output_at = outputs_ == 1 ? next++ : -1;
    const int grad_at = next;

    const std::string error = MakeProblem(inputs.Read(context, attributes_), problem);
    if (!error.empty()) return absl::InvalidArgumentError(error);
    tensorflow::TensorShape output_shape;
    TF_RETURN_IF_ERROR(tensorflow::TensorShape::BuildTensorShape(OutputShape(*problem), &output_shape));
    const auto check = [&](int at, const char* name) {
      if (at < 0 || context->input(at).shape() == output_shape) return absl::OkStatus();
      return absl::InvalidArgumentError(absl::StrCat(name, " must have the forward op's output shape, ",
                                                     output_shape.DebugString(), ", but its shape is ",
                                                     context->input(at).shape().DebugString()));
    };
    TF_RETURN_IF_ERROR(check(grad_at, "grad"));
    TF_RETURN_IF_ERROR(check(output_at, "output"));
    if (output_at < 0 && problem->out.kind != ActivationKind::kNone && !DerivativeFromInput(problem->out)) {
      return absl::InvalidArgumentError("output must be given for this activation, but is missing");
    }

    inputs.SetBuffers(context, buffers);
    buffers->output = DataOf(context, output_at);
    buffers->grad = DataOf(context, grad_at);

    void** const addresses[kGradients] = {
        &buffers->d_input, &buffers->d_depthwise_filter, &buffers->d_pointwise_filter, &buffers->d_depthwise_bias,
        &buffers->d_bias,  &buffers->d_residual};
    const tensorflow::TensorShape shapes[kGradients] = {
        context->input(kInput).shape(),           context->input(kDepthwiseFilter).shape(),
        context->input(kPointwiseFilter).shape(), tensorflow::TensorShape({problem->CM()}),
        tensorflow::TensorShape({problem->K}),    output_shape,
    };
    int at = 0;
    for (int i = 0; i < kGradients; ++i) {
      (*gradients)[i] = nullptr;
      if (!wanted_[i]) continue;
      tensorflow::Tensor* gradient = nullptr;
      if (in_place && i == kGradients - 1) {
        TF_RETURN_IF_ERROR(context->forward_input_or_allocate_output({grad_at}, at++, shapes[i], &gradient));
      } else {
        TF_RETURN_IF_ERROR(context->allocate_output(at++, shapes[i], &gradient));
      }
      if (gradient->NumElements() == 0) continue;
      *addresses[i] = gradient->data();
      (*gradients)[i] = gradient;
    }
    return absl::OkStatus();
  }

 private:
  Request attributes_;
  bool wanted_[kGradients] = {};
  int64_t outputs_ = 0;
};

}  // namespace dwsconv

#endif  // DWSCONV_TF_GRAD_OP_H_
