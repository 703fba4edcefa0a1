// What all ops share, on CPU and GPU: dtypes, shapes, errors as statuses, and their kernels' registration.
#ifndef DWSCONV_TF_OP_SUPPORT_H_
#define DWSCONV_TF_OP_SUPPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cc/core/chain.h"
#include "cc/core/infer.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/types.pb.h"
#include "tensorflow/core/platform/errors.h"  // TF_RETURN_IF_ERROR

// Registers a kernel's class for an op on a device ("CPU", "GPU"), for each of our dtypes.
#define DWSCONV_REGISTER_KERNEL(device, op, ...)                                                           \
  REGISTER_KERNEL_BUILDER(Name(op).Device(device).TypeConstraint<float>("T"), __VA_ARGS__);                \
  REGISTER_KERNEL_BUILDER(Name(op).Device(device).TypeConstraint<tensorflow::bfloat16>("T"), __VA_ARGS__); \
  REGISTER_KERNEL_BUILDER(Name(op).Device(device).TypeConstraint<Eigen::half>("T"), __VA_ARGS__)

namespace dwsconv {

// What is wrong with an argument, in words; "" for nothing.
inline absl::Status ArgumentStatus(const std::string& error) {
  return error.empty() ? absl::OkStatus() : absl::InvalidArgumentError(error);
}

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

// What a graph knows of the shape of input i.
inline Shape ShapeOf(tensorflow::shape_inference::InferenceContext* c, int i) {
  if (!c->RankKnown(c->input(i))) return Shape();
  std::vector<int64_t> sizes;
  for (int axis = 0; axis < c->Rank(c->input(i)); ++axis) {
    const auto size = c->Dim(c->input(i), axis);
    sizes.push_back(c->ValueKnown(size) ? c->Value(size) : kUnknown);
  }
  return sizes;
}

// A shape of sizes some of which a graph may not know.
inline tensorflow::shape_inference::ShapeHandle MakeShape(tensorflow::shape_inference::InferenceContext* c,
                                                          const std::vector<int64_t>& sizes) {
  std::vector<tensorflow::shape_inference::DimensionHandle> handles;
  for (int64_t size : sizes) handles.push_back(size == kUnknown ? c->UnknownDim() : c->MakeDim(size));
  return c->MakeShape(handles);
}

// The sizes of a kernel's input i.
inline std::vector<int64_t> SizesOf(tensorflow::OpKernelContext* context, int i) {
  const auto sizes = context->input(i).shape().dim_sizes();
  return {sizes.begin(), sizes.end()};
}

inline absl::Status ToTensorShape(const std::vector<int64_t>& sizes, tensorflow::TensorShape* shape) {
  return tensorflow::TensorShape::BuildTensorShape(sizes, shape);
}

}  // namespace dwsconv

#endif  // DWSCONV_TF_OP_SUPPORT_H_
