// TfDwsconv>BatchNorm and its gradient: registered, and their CPU kernels. The arithmetic is in cc/cpu.
#include <algorithm>
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
  TF_RETURN_IF_ERROR(context->GetAttr("of_batch", &norm->of_batch));
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

// Mean and variance, where they are given.
template <typename Context>
absl::Status CheckStatistics(Context* context, const BatchNorm& norm) {
  int64_t count;
  TF_RETURN_IF_ERROR(context->GetAttr("num_statistics", &count));
  if (count == (norm.of_batch ? 0 : 2)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("statistics must be ", norm.of_batch ? "empty" : "mean and variance",
                                                 " with of_batch ", norm.of_batch, ", but are ", count, " tensors"));
}

absl::Status ForwardShape(InferenceContext* c) {
  BatchNorm norm;
  TF_RETURN_IF_ERROR(ReadNormAttributes(c, &norm));
  TF_RETURN_IF_ERROR(CheckStatistics(c, norm));
  DimensionHandle channels = c->UnknownDim();
  for (int i = 0; i < c->num_inputs(); ++i) TF_RETURN_IF_ERROR(MergeChannels(c, i, &channels));
  c->set_output(0, c->input(0));
  c->set_output(1, c->Vector(channels));
  c->set_output(2, c->Vector(channels));
  return absl::OkStatus();
}

// Whether the gradients by gamma and beta are asked for.
template <typename Context>
absl::Status ReadWanted(Context* context, const BatchNorm& norm, bool* wanted) {
  int64_t count;
  TF_RETURN_IF_ERROR(context->GetAttr("want_parameters", &count));
  if (count < (norm.of_batch ? 1 : 0) || count > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("want_parameters must be 0 or 1, and 1 where of_batch is true, but is ", count));
  }
  *wanted = count == 1;
  return absl::OkStatus();
}

absl::Status BackwardShape(InferenceContext* c) {
  BatchNorm norm;
  bool wanted;
  TF_RETURN_IF_ERROR(ReadNormAttributes(c, &norm));
  TF_RETURN_IF_ERROR(ReadWanted(c, norm, &wanted));
  DimensionHandle channels = c->UnknownDim();
  for (int i = 0; i < 5; ++i) TF_RETURN_IF_ERROR(MergeChannels(c, i, &channels));
  ShapeHandle x;
  TF_RETURN_IF_ERROR(c->Merge(c->input(0), c->input(5), &x));
  c->set_output(0, x);
  for (int i = 1; wanted && i <= 2; ++i) c->set_output(i, c->Vector(channels));
  return absl::OkStatus();
}

class NormOp : public tensorflow::OpKernel {
 public:
  explicit NormOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, ReadNormAttributes(context, &attributes_));
  }

 protected:
  const BatchNorm& attributes() const { return attributes_; }

  // Checks x and the vectors behind it, and fills what they say of a norm.
  absl::Status Prepare(OpKernelContext* context, BatchNorm* norm) const {
    *norm = attributes_;
    const Tensor& x = context->input(0);
    if (x.dims() < 1) return absl::InvalidArgumentError("x must have at least one axis, but is a scalar");
    norm->channels = x.dim_size(x.dims() - 1);
    norm->rows = norm->channels == 0 ? 0 : x.NumElements() / norm->channels;
    constexpr const char* kVectors[] = {"gamma", "beta", "mean", "variance"};
    for (int i = 1; i < std::min(context->num_inputs(), 5); ++i) {
      const Tensor& vector = context->input(i);
      if (vector.dims() == 1 && vector.NumElements() == norm->channels) continue;
      return absl::InvalidArgumentError(absl::StrCat(kVectors[i - 1], " must have shape [", norm->channels,
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
  explicit BatchNormOp(OpKernelConstruction* context) : NormOp(context) {
    if (context->status().ok()) OP_REQUIRES_OK(context, CheckStatistics(context, attributes()));
  }

  void Compute(OpKernelContext* context) override {
    BatchNorm norm;
    OP_REQUIRES_OK(context, Prepare(context, &norm));
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context, Allocate(context, 0, context->input(0).shape(), &y));
    float* statistics[2];
    for (int i : {0, 1}) {
      if (norm.of_batch) {
        Tensor* statistic = nullptr;
        OP_REQUIRES_OK(context, context->allocate_output(1 + i, context->input(1).shape(), &statistic));
        statistics[i] = statistic->flat<float>().data();
      } else {
        context->set_output(1 + i, context->input(3 + i));
        statistics[i] = const_cast<float*>(context->input(3 + i).flat<float>().data());  // read alone
      }
    }
    BatchNormOptions options;
    DevicePool pool(context);
    OP_REQUIRES_OK(context, SetDevice(&pool, ChooseIsa, &options));
    options.pool = &pool;  // other ops run beside it: see BatchNormOptions
    const std::string error = BatchNormForward(norm, y->data(), statistics[0], statistics[1], options);
    OP_REQUIRES(context, error.empty(), absl::ResourceExhaustedError(error));
  }
};

class BatchNormGradOp : public NormOp {
 public:
  explicit BatchNormGradOp(OpKernelConstruction* context) : NormOp(context) {
    if (context->status().ok()) OP_REQUIRES_OK(context, ReadWanted(context, attributes(), &wanted_));
  }

  void Compute(OpKernelContext* context) override {
    BatchNorm norm;
    OP_REQUIRES_OK(context, Prepare(context, &norm));
    const Tensor& grad = context->input(5);
    OP_REQUIRES(context, grad.shape() == context->input(0).shape(),
                absl::InvalidArgumentError(absl::StrCat("grad must have the shape of x, ",
                                                        context->input(0).shape().DebugString(), ", but its shape is ",
                                                        grad.shape().DebugString())));
    Tensor* d_x = nullptr;
    OP_REQUIRES_OK(context, Allocate(context, 0, grad.shape(), &d_x));
    float* of_parameters[2] = {};
    for (int i = 0; wanted_ && i < 2; ++i) {
      Tensor* gradient = nullptr;
      OP_REQUIRES_OK(context, context->allocate_output(1 + i, context->input(1).shape(), &gradient));
      of_parameters[i] = gradient->flat<float>().data();
    }
    BatchNormOptions options;
    DevicePool pool(context);
    OP_REQUIRES_OK(context, SetDevice(&pool, ChooseIsa, &options));
    options.pool = &pool;  // other ops run beside it: see BatchNormOptions
    const auto vector = [context](int i) { return context->input(i).flat<float>().data(); };
    const std::string error = BatchNormBackward(norm, vector(3), vector(4), grad.data(), d_x->data(), of_parameters[0],
                                                of_parameters[1], options);
    OP_REQUIRES(context, error.empty(), absl::ResourceExhaustedError(error));
  }

 private:
  bool wanted_ = false;
};

}  // namespace

REGISTER_OP("TfDwsconv>BatchNorm")
    .Input("x: T")
    .Input("gamma: float")
    .Input("beta: float")
    .Input("statistics: num_statistics * float")
    .Output("y: T")
    .Output("mean: float")
    .Output("variance: float")
    .Attr("T: {float, bfloat16, half}")
    .Attr("epsilon: float")
    .Attr("of_batch: bool = true")
    .Attr("activation: string = 'none'")
    .Attr("alpha: float = 0.2")
    .Attr("max_value: float = inf")
    .Attr("threshold: float = 0")
    .Attr("num_statistics: int >= 0 = 0")
    .SetShapeFn(ForwardShape)
    .Doc(R"doc(
Batch norm and an activation, in one op: activation((x - mean) / sqrt(variance + epsilon) * gamma + beta).

With of_batch mean and variance are those of each channel over all else, summed in double, and gradients pass through
them; otherwise they are the given statistics.

x: [..., C].
gamma: [C].
beta: [C].
statistics: without of_batch mean [C] and variance [C]; else none.
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
    .Output("d_gamma: want_parameters * float")
    .Output("d_beta: want_parameters * float")
    .Attr("T: {float, bfloat16, half}")
    .Attr("epsilon: float")
    .Attr("of_batch: bool = true")
    .Attr("activation: string = 'none'")
    .Attr("alpha: float = 0.2")
    .Attr("max_value: float = inf")
    .Attr("threshold: float = 0")
    .Attr("want_parameters: int >= 0 = 1")
    .SetShapeFn(BackwardShape)
    .Doc(R"doc(
Gradients of TfDwsconv>BatchNorm, by y alone. None passes to statistics that were given.

x: of the forward op, as are gamma, beta, mean, variance and the attributes.
grad: of the loss by y, of its shape.
want_parameters: 0 or 1: whether d_gamma and d_beta are wanted; 1 with of_batch.
)doc");

DWSCONV_REGISTER_KERNEL("CPU", "TfDwsconv>BatchNorm", BatchNormOp);
DWSCONV_REGISTER_KERNEL("CPU", "TfDwsconv>BatchNormGrad", BatchNormGradOp);

}  // namespace dwsconv

// What ran in this process, for tests, as in chain_kernel.cc.
extern "C" {

// Batch norms so far, forward and backward, that ran on the kernels of an ISA.
int64_t dwsconv_batch_norm_calls(const char* isa) { return dwsconv::CountOf(isa, dwsconv::BatchNormCalls); }

}  // extern "C"
