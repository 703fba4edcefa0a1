// Registers the op of programs: inputs, attributes, documentation and shape function.
#include <cstdint>
#include <string>
#include <vector>

#include "cc/tf/network_op.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace dwsconv {
namespace {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

absl::Status NetworkShape(InferenceContext* c) {
  std::string text;
  std::shared_ptr<const Program> program;
  TF_RETURN_IF_ERROR(ReadNetworkAttributes(c, &text, &program));
  ShapeHandle weights;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(c->num_inputs() - 1), 1, &weights));
  DimensionHandle unused;
  TF_RETURN_IF_ERROR(c->WithValue(c->Dim(weights, 0), program->weight_count, &unused));
  std::vector<Shape> shapes;
  for (int i = 0; i + 1 < c->num_inputs(); ++i) shapes.push_back(ShapeOf(c, i));
  InferredProgram inferred;
  TF_RETURN_IF_ERROR(ArgumentStatus(InferProgram(*program, shapes, &inferred)));
  for (size_t i = 0; i < inferred.outputs.size(); ++i) {
    c->set_output(static_cast<int>(i), MakeShape(c, inferred.shapes[static_cast<size_t>(inferred.outputs[i])]));
  }
  return absl::OkStatus();
}

}  // namespace

REGISTER_OP("TfDwsconv>Network")
    .Input("inputs: num_inputs * T")
    .Input("weights: T")
    .Output("outputs: num_outputs * T")
    .Attr("T: {float, bfloat16, half}")
    .Attr("num_inputs: int >= 1")
    .Attr("num_outputs: int >= 1")
    .Attr("program: string")
    .Attr("stable_filters: bool = false")
    .SetShapeFn(NetworkShape)
    .Doc(R"doc(
A whole network, or a large part of one, as one kernel: the steps of a program (docs/program.md).

Sums are kept in float whatever T is. What lies between the steps is memory of the call that steps share.

inputs: in the program's order, of shapes that agree with the program's.
weights: all weights, flat: [count].
outputs: in the program's order.
program: the program's text, JSON; its dtype is T.
stable_filters: as in TfDwsconv>DepthwiseSepConv2D, of weights.
)doc");

}  // namespace dwsconv
