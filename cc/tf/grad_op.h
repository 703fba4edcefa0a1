// What the gradient op's kernels share: attributes, checks, and the buffers of a call.
#ifndef DWSCONV_TF_GRAD_OP_H_
#define DWSCONV_TF_GRAD_OP_H_

#include <cstdint>
#include <string>

#include "cc/cpu/run/backward.h"
#include "cc/tf/chain_op.h"

namespace dwsconv {

// The op's outputs, in order, by the attributes that say which of them there are.
constexpr int kGradients = 6;
constexpr const char* kWantedAttributes[kGradients] = {
    "want_input", "want_depthwise_filter", "want_pointwise_filter", "want_depthwise_bias",
    "want_bias",  "want_residual"};

struct GradAttributes {
  bool wanted[kGradients] = {};
  bool has_output = false;
};

template <typename Context>
absl::Status ReadGradAttributes(Context* context, GradAttributes* attributes) {
  int64_t count;
  for (int i = 0; i < kGradients; ++i) {
    TF_RETURN_IF_ERROR(context->GetAttr(kWantedAttributes[i], &count));
    if (count < 0 || count > 1) {
      return absl::InvalidArgumentError(absl::StrCat(kWantedAttributes[i], " must be 0 or 1, but is ", count));
    }
    attributes->wanted[i] = count == 1;
  }
  TF_RETURN_IF_ERROR(ReadCount(context, "output", &count));
  attributes->has_output = count == 1;
  return absl::OkStatus();
}

// Why a gradient op cannot be asked for: a gradient of what is not there, or of a chain that no kernel differentiates.
inline absl::Status CheckGradients(const Chain& chain, const GradAttributes& grad) {
  const std::string refused = BackwardRefuses(chain);
  if (!refused.empty()) return absl::InvalidArgumentError(refused);
  const bool there[kGradients] = {true, true, chain.has_project, true, chain.has_project, true};
  for (int i = 0; i < kGradients; ++i) {
    if (grad.wanted[i] && !there[i]) {
      return absl::InvalidArgumentError(absl::StrCat(kWantedAttributes[i], " must be 0 where there is no projection"));
    }
  }
  return absl::OkStatus();
}

template <ChainOpKind kKind>
class GradOp : public tensorflow::OpKernel {
 public:
  explicit GradOp(tensorflow::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, ReadChainAttributes(context, kKind, &attributes_));
    OP_REQUIRES_OK(context, ReadGradAttributes(context, &grad_));
  }

 protected:
  // Checks the inputs and allocates the gradients that are wanted. Those without elements have null buffers; *gradients
  // has those that are not null, in the order of kWantedAttributes. The residual's gradient may lie where `grad` does
  // if `in_place`.
  absl::Status Prepare(tensorflow::OpKernelContext* context, bool in_place, Chain* chain, BackwardBuffers* buffers,
                       tensorflow::Tensor* (*gradients)[kGradients]) const {
    int next = attributes_.next;
    const int output_at = grad_.has_output ? next++ : -1;
    const int grad_at = next;
    TF_RETURN_IF_ERROR(InferCall(context, attributes_, chain));
    TF_RETURN_IF_ERROR(CheckGradients(*chain, grad_));
    tensorflow::TensorShape output_shape;
    TF_RETURN_IF_ERROR(ToTensorShape(OutputShape(*chain), &output_shape));
    const auto check = [&](int at, const char* name) {
      if (at < 0 || context->input(at).shape() == output_shape) return absl::OkStatus();
      return absl::InvalidArgumentError(absl::StrCat(name, " must have the forward op's output shape, ",
                                                     output_shape.DebugString(), ", but its shape is ",
                                                     context->input(at).shape().DebugString()));
    };
    TF_RETURN_IF_ERROR(check(grad_at, "grad"));
    TF_RETURN_IF_ERROR(check(output_at, "output"));
    if (output_at < 0 && chain->out.kind != ActivationKind::kNone && !DerivativeFromInput(chain->out)) {
      return absl::InvalidArgumentError("output must be given for this activation, but is missing");
    }

    const auto data = [&](int input) { return DataOf(context, attributes_.at[input]); };
    buffers->input = context->input(0).data();
    buffers->depthwise_filter = data(kDepthwiseFilter);
    buffers->pointwise_filter = data(kPointwiseFilter);
    buffers->depthwise_bias = data(kDepthwiseBias);
    buffers->bias = data(kBias);
    buffers->residual = data(kResidual);
    buffers->output = DataOf(context, output_at);
    buffers->grad = DataOf(context, grad_at);

    void** const addresses[kGradients] = {
        &buffers->d_input, &buffers->d_depthwise_filter, &buffers->d_pointwise_filter, &buffers->d_depthwise_bias,
        &buffers->d_bias,  &buffers->d_residual};
    const tensorflow::TensorShape shapes[kGradients] = {
        context->input(0).shape(),
        context->input(attributes_.at[kDepthwiseFilter]).shape(),
        chain->has_project ? context->input(attributes_.at[kPointwiseFilter]).shape() : tensorflow::TensorShape(),
        tensorflow::TensorShape({chain->CM()}),
        tensorflow::TensorShape({chain->K}),
        output_shape,
    };
    int at = 0;
    for (int i = 0; i < kGradients; ++i) {
      (*gradients)[i] = nullptr;
      if (!grad_.wanted[i]) continue;
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
  ChainAttributes attributes_;
  GradAttributes grad_;
};

}  // namespace dwsconv

#endif  // DWSCONV_TF_GRAD_OP_H_
