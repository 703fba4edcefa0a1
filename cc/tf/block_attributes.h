// Reads the block op's attributes and the shapes of its inputs: shared by its shape function and its kernel.
#ifndef DWSCONV_TF_BLOCK_ATTRIBUTES_H_
#define DWSCONV_TF_BLOCK_ATTRIBUTES_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cc/core/make_block.h"
#include "cc/tf/op_attributes.h"

namespace dwsconv {

// The inputs after the first, each a list of at most one tensor, in order.
enum BlockInput {
  kBlockExpandFilter = 0,
  kBlockExpandBias,
  kBlockDepthwiseFilter,
  kBlockDepthwiseBias,
  kBlockPointwiseFilter,
  kBlockBias,
  kBlockScale,
  kBlockResidual,
  kBlockExpandSlopes,
  kBlockDepthwiseSlopes,
  kBlockSlopes,
  kBlockInputs,
};
constexpr const char* kBlockInputNames[kBlockInputs] = {
    "expand_filter", "expand_bias",   "depthwise_filter", "depthwise_bias", "pointwise_filter", "bias", "scale",
    "residual",      "expand_slopes", "depthwise_slopes", "slopes"};

// Those that are weights: packed once, and known again.
constexpr BlockInput kBlockWeights[] = {kBlockExpandFilter,  kBlockExpandBias,      kBlockDepthwiseFilter,
                                        kBlockDepthwiseBias, kBlockPointwiseFilter, kBlockBias,
                                        kBlockExpandSlopes,  kBlockDepthwiseSlopes, kBlockSlopes};

// An op's attributes, and where its inputs are: -1 for those that are not there.
struct BlockAttributes {
  BlockRequest request;
  int at[kBlockInputs];

  bool has(BlockInput input) const { return at[input] >= 0; }
};

template <typename Context>
absl::Status ReadBlockAttributes(Context* context, BlockAttributes* attributes) {
  BlockRequest& request = attributes->request;
  int next = 1;
  for (int i = 0; i < kBlockInputs; ++i) {
    int64_t count;
    TF_RETURN_IF_ERROR(context->GetAttr(absl::StrCat("num_", kBlockInputNames[i]), &count));
    if (count < 0 || count > 1) {
      return absl::InvalidArgumentError(
          absl::StrCat(kBlockInputNames[i], " must be a list of at most 1 tensor, but has ", count));
    }
    attributes->at[i] = count == 1 ? next++ : -1;
  }
  request.has_expand = attributes->has(kBlockExpandFilter);
  request.has_expand_bias = attributes->has(kBlockExpandBias);
  request.has_depthwise = attributes->has(kBlockDepthwiseFilter);
  request.main.has_depthwise_bias = attributes->has(kBlockDepthwiseBias);
  request.has_pointwise = attributes->has(kBlockPointwiseFilter);
  request.main.has_bias = attributes->has(kBlockBias);
  request.has_scale = attributes->has(kBlockScale);
  request.main.has_residual = attributes->has(kBlockResidual);
  TF_RETURN_IF_ERROR(ReadCommonAttributes(context, &request.main));
  TF_RETURN_IF_ERROR(ReadActivation(context, "expand_", &request.expand_activation));
  request.expand_activation.has_slopes = attributes->has(kBlockExpandSlopes);
  request.main.depthwise_activation.has_slopes = attributes->has(kBlockDepthwiseSlopes);
  request.main.activation.has_slopes = attributes->has(kBlockSlopes);
  TF_RETURN_IF_ERROR(context->GetAttr("normalize", &request.normalize));
  TF_RETURN_IF_ERROR(context->GetAttr("epsilon", &request.epsilon));
  const std::string error = CheckBlockAttributes(request);
  return error.empty() ? absl::OkStatus() : absl::InvalidArgumentError(error);
}

// *request with the shapes of the inputs; sizes(i) gives those of input i.
template <typename SizesOf>
void SetBlockShapes(const BlockAttributes& attributes, const SizesOf& sizes, BlockRequest* request) {
  *request = attributes.request;
  request->main.input = sizes(0);
  std::vector<int64_t>* const shapes[kBlockInputs] = {&request->expand_filter,
                                                      &request->expand_bias,
                                                      &request->main.depthwise_filter,
                                                      &request->main.depthwise_bias,
                                                      &request->main.pointwise_filter,
                                                      &request->main.bias,
                                                      &request->scale,
                                                      &request->main.residual,
                                                      &request->expand_activation.slopes,
                                                      &request->main.depthwise_activation.slopes,
                                                      &request->main.activation.slopes};
  for (int i = 0; i < kBlockInputs; ++i) {
    if (attributes.at[i] >= 0) *shapes[i] = sizes(attributes.at[i]);
  }
}

}  // namespace dwsconv

#endif  // DWSCONV_TF_BLOCK_ATTRIBUTES_H_
