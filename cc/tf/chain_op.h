// What the ops of chains share: attributes and inputs into a Request, inputs into Buffers. The shape functions and the
// kernels, on CPU and GPU, of TfDwsconv>DepthwiseSepConv2D, its gradient and TfDwsconv>ConvBlock all read them here.
#ifndef DWSCONV_TF_CHAIN_OP_H_
#define DWSCONV_TF_CHAIN_OP_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cc/core/infer.h"
#include "cc/tf/op_support.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace dwsconv {

enum class ChainOpKind { kLayer, kBlock };

// A tensor that a chain may read besides its input: its name, and where its shape and its address go.
struct ChainInput {
  const char* name;
  std::optional<Shape>& (*shape)(Request& request);
  const void* Buffers::* buffer;
  bool weights;  // packed once, and known again
};

// In the order of the block's inputs. The layer has some of them, its two filters first.
inline const ChainInput kChainInputs[] = {
    {"expand_filter", [](Request& r) -> auto& { return r.expand_filter; }, &Buffers::expand_filter, true},
    {"expand_bias", [](Request& r) -> auto& { return r.expand_bias; }, &Buffers::expand_bias, true},
    {"depthwise_filter", [](Request& r) -> auto& { return r.depthwise_filter; }, &Buffers::depthwise_filter, true},
    {"depthwise_bias", [](Request& r) -> auto& { return r.depthwise_bias; }, &Buffers::depthwise_bias, true},
    {"pointwise_filter", [](Request& r) -> auto& { return r.pointwise_filter; }, &Buffers::pointwise_filter, true},
    {"bias", [](Request& r) -> auto& { return r.bias; }, &Buffers::bias, true},
    {"scale", [](Request& r) -> auto& { return r.gate; }, &Buffers::gate, false},
    {"residual", [](Request& r) -> auto& { return r.residual; }, &Buffers::residual, false},
    {"expand_slopes", [](Request& r) -> auto& { return r.expand_activation.slopes; }, &Buffers::expand_slopes, true},
    {"depthwise_slopes", [](Request& r) -> auto& { return r.depthwise_activation.slopes; }, &Buffers::depthwise_slopes,
     true},
    {"slopes", [](Request& r) -> auto& { return r.activation.slopes; }, &Buffers::slopes, true},
};
constexpr int kChainInputCount = 11;
enum { kDepthwiseFilter = 2, kDepthwiseBias = 3, kPointwiseFilter = 4, kBias = 5, kResidual = 7 };

// An op's attributes, with a shape of unknown rank for each tensor that is there, and where its inputs are.
struct ChainAttributes {
  Request request;
  int at[kChainInputCount];  // -1 for those that are not there
  int next = 1;              // the first input behind them

  // The request with the shapes of the inputs; shape(i) gives that of input i.
  template <typename ShapeOf>
  Request WithShapes(const ShapeOf& shape) const {
    Request filled = request;
    filled.input = shape(0);
    for (int i = 0; i < kChainInputCount; ++i) {
      if (at[i] >= 0) kChainInputs[i].shape(filled) = shape(at[i]);
    }
    return filled;
  }
};

// The length of a list that has at most one tensor. Context: shape_inference::InferenceContext or OpKernelConstruction.
template <typename Context>
absl::Status ReadCount(Context* context, const std::string& name, int64_t* count) {
  TF_RETURN_IF_ERROR(context->GetAttr("num_" + name, count));
  if (*count >= 0 && *count <= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " must be a list of at most 1 tensor, but has ", *count));
}

// `stage` is what the attributes' names begin with.
template <typename Context>
absl::Status ReadActivation(Context* context, const std::string& stage, ActivationRequest* request) {
  TF_RETURN_IF_ERROR(context->GetAttr(stage + "activation", &request->word));
  TF_RETURN_IF_ERROR(context->GetAttr(stage + "alpha", &request->alpha));
  TF_RETURN_IF_ERROR(context->GetAttr(stage + "max_value", &request->max_value));
  return context->GetAttr(stage + "threshold", &request->threshold);
}

// Fills *attributes, and checks what can be checked without shapes.
template <typename Context>
absl::Status ReadChainAttributes(Context* context, ChainOpKind kind, ChainAttributes* attributes) {
  Request& request = attributes->request;
  const bool block = kind == ChainOpKind::kBlock;
  const auto add = [&](int i) {
    attributes->at[i] = attributes->next++;
    kChainInputs[i].shape(request) = Shape();
  };
  std::fill(attributes->at, attributes->at + kChainInputCount, -1);
  if (!block) {
    add(kDepthwiseFilter);
    add(kPointwiseFilter);
  }
  for (int i = 0; i < kChainInputCount; ++i) {
    if (!block && i != kDepthwiseBias && i != kBias && i != kResidual) continue;
    int64_t count;
    TF_RETURN_IF_ERROR(ReadCount(context, kChainInputs[i].name, &count));
    if (count == 1) add(i);
  }
  tensorflow::DataType dtype;
  TF_RETURN_IF_ERROR(context->GetAttr("T", &dtype));
  TF_RETURN_IF_ERROR(ToDType(dtype, &request.dtype));
  // GetAttr appends to a list.
  request.strides.clear();
  request.dilations.clear();
  TF_RETURN_IF_ERROR(context->GetAttr("strides", &request.strides));
  TF_RETURN_IF_ERROR(context->GetAttr("dilations", &request.dilations));
  TF_RETURN_IF_ERROR(context->GetAttr("padding", &request.padding));
  TF_RETURN_IF_ERROR(context->GetAttr("explicit_paddings", &request.explicit_paddings));
  TF_RETURN_IF_ERROR(context->GetAttr("data_format", &request.data_format));
  TF_RETURN_IF_ERROR(ReadActivation(context, "depthwise_", &request.depthwise_activation));
  TF_RETURN_IF_ERROR(ReadActivation(context, "", &request.activation));
  if (block) {
    TF_RETURN_IF_ERROR(ReadActivation(context, "expand_", &request.expand_activation));
    TF_RETURN_IF_ERROR(context->GetAttr("normalize", &request.normalize));
    TF_RETURN_IF_ERROR(context->GetAttr("epsilon", &request.epsilon));
  }
  Chain unused;
  return ArgumentStatus(Infer(request, &unused));
}

// For shape functions: infers the chain from what the graph knows.
inline absl::Status InferInGraph(tensorflow::shape_inference::InferenceContext* c, ChainOpKind kind, Chain* chain,
                                 ChainAttributes* attributes) {
  TF_RETURN_IF_ERROR(ReadChainAttributes(c, kind, attributes));
  return ArgumentStatus(Infer(attributes->WithShapes([c](int i) { return ShapeOf(c, i); }), chain));
}

// For kernels: checks a call's shapes.
inline absl::Status InferCall(tensorflow::OpKernelContext* context, const ChainAttributes& attributes, Chain* chain) {
  return ArgumentStatus(Infer(attributes.WithShapes([context](int i) { return SizesOf(context, i); }), chain));
}

// Null for an input that is not there.
inline const void* DataOf(tensorflow::OpKernelContext* context, int at) {
  return at < 0 ? nullptr : context->input(at).data();
}

// Checks a call, allocates its output, in the residual's memory where nobody else reads that, and collects the
// addresses of all. An output without elements needs no more.
inline absl::Status PrepareCall(tensorflow::OpKernelContext* context, const ChainAttributes& attributes, Chain* chain,
                                Buffers* buffers, tensorflow::Tensor** output) {
  TF_RETURN_IF_ERROR(InferCall(context, attributes, chain));
  buffers->input = context->input(0).data();
  for (int i = 0; i < kChainInputCount; ++i) buffers->*kChainInputs[i].buffer = DataOf(context, attributes.at[i]);
  tensorflow::TensorShape shape;
  TF_RETURN_IF_ERROR(ToTensorShape(OutputShape(*chain), &shape));
  const int residual = attributes.at[kResidual];
  TF_RETURN_IF_ERROR(residual < 0 ? context->allocate_output(0, shape, output)
                                  : context->forward_input_or_allocate_output({residual}, 0, shape, output));
  buffers->output = (*output)->data();
  return absl::OkStatus();
}

}  // namespace dwsconv

#endif  // DWSCONV_TF_CHAIN_OP_H_
