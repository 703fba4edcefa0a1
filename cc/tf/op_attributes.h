// Reads the op's attributes: shared by its shape function and its kernels.
#ifndef DWSCONV_TF_OP_ATTRIBUTES_H_
#define DWSCONV_TF_OP_ATTRIBUTES_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cc/core/make_problem.h"
#include "cc/core/problem.h"
#include "tensorflow/core/framework/types.pb.h"
#include "tensorflow/core/platform/errors.h"  // TF_RETURN_IF_ERROR

namespace dwsconv {

// Position of the op's inputs; the lists may be empty, so what follows them moves up.
constexpr int kInput = 0, kDepthwiseFilter = 1, kPointwiseFilter = 2, kFirstOptional = 3;

// The gradient op's outputs, in order, by the attributes that say which of them there are.
constexpr int kGradients = 6;
constexpr const char* kWantedAttributes[kGradients] = {
    "want_input", "want_depthwise_filter", "want_pointwise_filter", "want_depthwise_bias",
    "want_bias",  "want_residual"};

inline absl::Status ToDType(tensorflow::DataType from, DType* to) {
  switch (from) {
    case tensorflow::DT_FLOAT:
      *to = DType::kFloat32;
      return absl::OkStatus();
    case tensorflow::DT_BFLOAT16:
      *to = DType::kBFloat16;
      return absl::OkStatus();
    case tensorflow::DT_HALF:
      *to = DType::kFloat16;
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("T must be float, bfloat16 or half, but is ", tensorflow::DataType_Name(from)));
  }
}

// Fills *request but for the slopes. `stage` is what the attributes' names begin with.
template <typename Context>
absl::Status ReadActivation(Context* context, const std::string& stage, ActivationRequest* request) {
  TF_RETURN_IF_ERROR(context->GetAttr(stage + "activation", &request->word));
  TF_RETURN_IF_ERROR(context->GetAttr(stage + "alpha", &request->alpha));
  TF_RETURN_IF_ERROR(context->GetAttr(stage + "max_value", &request->max_value));
  return context->GetAttr(stage + "threshold", &request->threshold);
}

// Fills what the ops share of *request: neither the shapes nor which inputs there are. Context:
// shape_inference::InferenceContext or OpKernelConstruction.
template <typename Context>
absl::Status ReadCommonAttributes(Context* context, Request* request) {
  tensorflow::DataType dtype;
  TF_RETURN_IF_ERROR(context->GetAttr("T", &dtype));
  TF_RETURN_IF_ERROR(ToDType(dtype, &request->dtype));
  // GetAttr appends to a list.
  request->strides.clear();
  request->dilations.clear();
  request->explicit_paddings.clear();
  TF_RETURN_IF_ERROR(context->GetAttr("strides", &request->strides));
  TF_RETURN_IF_ERROR(context->GetAttr("dilations", &request->dilations));
  TF_RETURN_IF_ERROR(context->GetAttr("padding", &request->padding));
  TF_RETURN_IF_ERROR(context->GetAttr("explicit_paddings", &request->explicit_paddings));
  TF_RETURN_IF_ERROR(context->GetAttr("data_format", &request->data_format));
  TF_RETURN_IF_ERROR(ReadActivation(context, "depthwise_", &request->depthwise_activation));
  return ReadActivation(context, "", &request->activation);
}

// Fills everything of *request but the shapes.
template <typename Context>
absl::Status ReadAttributes(Context* context, Request* request) {
  TF_RETURN_IF_ERROR(ReadCommonAttributes(context, request));
  const struct {
    const char* attribute;
    const char* input;
    bool* present;
  } optionals[] = {{"num_depthwise_bias", "depthwise_bias", &request->has_depthwise_bias},
                   {"num_bias", "bias", &request->has_bias},
                   {"num_residual", "residual", &request->has_residual}};
  for (const auto& optional : optionals) {
    int64_t count;
    TF_RETURN_IF_ERROR(context->GetAttr(optional.attribute, &count));
    if (count < 0 || count > 1) {
      return absl::InvalidArgumentError(
          absl::StrCat(optional.input, " must be a list of at most 1 tensor, but has ", count));
    }
    *optional.present = count == 1;
  }
  const std::string error = CheckAttributes(*request);
  return error.empty() ? absl::OkStatus() : absl::InvalidArgumentError(error);
}

}  // namespace dwsconv

#endif  // DWSCONV_TF_OP_ATTRIBUTES_H_
