// TfDwsconv>BatchNorm and its gradient: registered, and their CPU kernels. The arithmetic is in cc/cpu.
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "cc/core/attributes.h"
#include "cc/core/huge_pages.h"
#include "cc/cpu/run/batch_norm.h"
#include "cc/tf/chain_op.h"
#include "cc/tf/cpu_kernel.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace dwsconv {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// Fills what the attributes say of a norm.
template <typename Context>
absl::Status ReadNormAttributes(Context* context, BatchNorm* norm) {
  ActivationRequest activation;
  tensorflow::DataType dtype;
  TF_RETURN_IF_ERROR(ReadActivation(context, "", &activation));
  TF_RETURN_IF_ERROR(context->GetAttr("T", &dtype));
  TF_RETURN_IF_ERROR(ToDType(dtype, &norm->dtype));
  TF_RETURN_IF_ERROR(context->GetAttr("epsilon", &norm->epsilon));
  TF_RETURN_IF_ERROR(ArgumentStatus(CheckEpsilon(norm->epsilon)));
  if (activation.word == "prelu") {
    return absl::InvalidArgumentError("activation must not be \"prelu\", which has weights");
  }
  TF_RETURN_IF_ERROR(ArgumentStatus(CheckActivation("", activation)));
  norm->activation = ToActivation(activation, norm->dtype);
  return absl::OkStatus();
}

// Merges the channels of input i, its last axis, into *channels.
absl::Status MergeChannels(InferenceContext* c, int i, DimensionHandle* channels) {
  ShapeHandle shape = c->input(i);
  if (i == 0) {
    TF_RETURN_IF_ERROR(c->WithRankAtLeast(shape, 1, &shape));
  } else {
    TF_RETURN_IF_ERROR(c->WithRank(shape, 1, &shape));
  }
  if (!c->RankKnown(shape)) return absl::OkStatus();
  return c->Merge(*channels, c->Dim(shape, -1), channels);
}

absl::Status ForwardShape(InferenceContext* c) {
  BatchNorm unused;
  TF_RETURN_IF_ERROR(ReadNormAttributes(c, &unused));
  DimensionHandle channels = c->UnknownDim();
  for (int i = 0; i < 3; ++i) TF_RETURN_IF_ERROR(MergeChannels(c, i, &channels));
  c->set_output(0, c->input(0));
  c->set_output(1, c->Vector(channels));
  c->set_output(2, c->Vector(channels));
  return absl::OkStatus();
}

absl::Status BackwardShape(InferenceContext* c) {
  BatchNorm unused;
  TF_RETURN_IF_ERROR(ReadNormAttributes(c, &unused));
  DimensionHandle channels = c->UnknownDim();
  for (int i = 0; i < 5; ++i) TF_RETURN_IF_ERROR(MergeChannels(c, i, &channels));
  ShapeHandle x;
  TF_RETURN_IF_ERROR(c->Merge(c->input(0), c->input(5), &x));
  c->set_output(0, x);
  c->set_output(1, c->Vector(channels));
  c->set_output(2, c->Vector(channels));
  return absl::OkStatus();
}

class NormOp : public tensorflow::OpKernel {
 public:
  explicit NormOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, ReadNormAttributes(context, &attributes_));
  }

 protected:
  // Checks x and the vectors behind it (`vectors` names them), and fills what they say of a norm.
  absl::Status Prepare(OpKernelContext* context, std::initializer_list<const char*> vectors, BatchNorm* norm) const {
    *norm = attributes_;
    const Tensor& x = context->input(0);
    if (x.dims() < 1) return absl::InvalidArgumentError("x must have at least one axis, but is a scalar");
    norm->channels = x.dim_size(x.dims() - 1);
    norm->rows = norm->channels == 0 ? 0 : x.NumElements() / norm->channels;
    int i = 1;
    for (const char* name : vectors) {
      const Tensor& vector = context->input(i++);
      if (vector.dims() == 1 && vector.NumElements() == norm->channels) continue;
      return absl::InvalidArgumentError(absl::StrCat(name, " must have shape [", norm->channels,
                                                     "], as x has so many channels, but its shape is ",
                                                     vector.shape().DebugString()));
    }
    norm->x = x.data();
    norm->gamma = context->input(1).flat<float>().data();
    norm->beta = context->input(2).flat<float>().data();
    return absl::OkStatus();
  }

  // A large output, on large pages.
  static absl::Status Allocate(OpKernelContext* context, int i, const tensorflow::TensorShape& shape, Tensor** output) {
    TF_RETURN_IF_ERROR(context->allocate_output(i, shape, output));
    PreferHugePages((*output)->data(), static_cast<int64_t>((*output)->TotalBytes()));
    return absl::OkStatus();
  }

 private:
  BatchNorm attributes_;
};

class BatchNormOp : public NormOp {
 public:
  using NormOp::NormOp;

  void Compute(OpKernelContext* context) override {
    BatchNorm norm;
    OP_REQUIRES_OK(context, Prepare(context, {"gamma", "beta"}, &norm));
    Tensor *y = nullptr, *mean = nullptr, *variance = nullptr;
    OP_REQUIRES_OK(context, Allocate(context, 0, context->input(0).shape(), &y));
    OP_REQUIRES_OK(context, context->allocate_output(1, context->input(1).shape(), &mean));
    OP_REQUIRES_OK(context, context->allocate_output(2, context->input(1).shape(), &variance));
    BatchNormOptions options;
    DevicePool pool(context);
    OP_REQUIRES_OK(context, SetDevice(&pool, ChooseIsa, &options));
    options.pool = &pool;  // other ops run beside it: see BatchNormOptions
    const std::string error =
        BatchNormForward(norm, y->data(), mean->flat<float>().data(), variance->flat<float>().data(), options);
    OP_REQUIRES(context, error.empty(), absl::ResourceExhaustedError(error));
  }
};

class BatchNormGradOp : public NormOp {
 public:
  using NormOp::NormOp;

  void Compute(OpKernelContext* context) override {
    BatchNorm norm;
    OP_REQUIRES_OK(context, Prepare(context, {"gamma", "beta", "mean", "variance"}, &norm));
    const Tensor& grad = context->input(5);
    OP_REQUIRES(context, grad.shape() == context->input(0).shape(),
                absl::InvalidArgumentError(absl::StrCat("grad must have the shape of x, ",
                                                        context->input(0).shape().DebugString(), ", but its shape is ",
                                                        grad.shape().DebugString())));
    Tensor *d_x = nullptr, *d_gamma = nullptr, *d_beta = nullptr;
    OP_REQUIRES_OK(context, Allocate(context, 0, grad.shape(), &d_x));
    OP_REQUIRES_OK(context, context->allocate_output(1, context->input(1).shape(), &d_gamma));
    OP_REQUIRES_OK(context, context->allocate_output(2, context->input(1).shape(), &d_beta));
    BatchNormOptions options;
    DevicePool pool(context);
    OP_REQUIRES_OK(context, SetDevice(&pool, ChooseIsa, &options));
    options.pool = &pool;  // other ops run beside it: see BatchNormOptions
    const auto vector = [context](int i) { return context->input(i).flat<float>().data(); };
    const std::string error = BatchNormBackward(norm, vector(3), vector(4), grad.data(), d_x->data(),
                                                d_gamma->flat<float>().data(), d_beta->flat<float>().data(), options);
    OP_REQUIRES(context, error.empty(), absl::ResourceExhaustedError(error));
  }
};

}  // namespace

REGISTER_OP("TfDwsconv>BatchNorm")
    .Input("x: T")
    .Input("gamma: float")
    .Input("beta: float")
    .Output("y: T")
    .Output("mean: float")
    .Output("variance: float")
    .Attr("T: {float, bfloat16, half}")
    .Attr("epsilon: float")
    .Attr("activation: string = 'none'")
    .Attr("alpha: float = 0.2")
    .Attr("max_value: float = inf")
    .Attr("threshold: float = 0")
    .SetShapeFn(ForwardShape)
    .Doc(R"doc(
Batch norm in training and an activation, in one op: activation((x - mean) / sqrt(variance + epsilon) * gamma + beta).

Mean and variance are those of each channel over all else, in double. The gradient passes through them.

x: [..., C].
gamma: [C].
beta: [C].
y: as x.
mean: [C].
variance: [C], divided by the number of values, not by one less.
activation: a word of TfDwsconv>DepthwiseSepConv2D but prelu; alpha, max_value and threshold are its parameters.
)doc");

REGISTER_OP("TfDwsconv>BatchNormGrad")
    .Input("x: T")
    .Input("gamma: float")
    .Input("beta: float")
    .Input("mean: float")
    .Input("variance: float")
    .Input("grad: T")
    .Output("d_x: T")
    .Output("d_gamma: float")
    .Output("d_beta: float")
    .Attr("T: {float, bfloat16, half}")
    .Attr("epsilon: float")
    .Attr("activation: string = 'none'")
    .Attr("alpha: float = 0.2")
    .Attr("max_value: float = inf")
    .Attr("threshold: float = 0")
    .SetShapeFn(BackwardShape)
    .Doc(R"doc(
Gradients of TfDwsconv>BatchNorm, by y alone.

x: of the forward op, as are gamma, beta, mean, variance and the attributes.
grad: of the loss by y, of its shape.
)doc");

DWSCONV_REGISTER_KERNEL("CPU", "TfDwsconv>BatchNorm", BatchNormOp);
DWSCONV_REGISTER_KERNEL("CPU", "TfDwsconv>BatchNormGrad", BatchNormGradOp);

}  // namespace dwsconv

// What ran in this process, for tests, as in chain_kernel.cc.
extern "C" {

// Batch norms so far, forward and backward, that ran on the kernels of an ISA.
int64_t dwsconv_batch_norm_calls(const char* isa) { return dwsconv::CountOf(isa, dwsconv::BatchNormCalls); }

}  // extern "C"
