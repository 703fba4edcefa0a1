// What the GPU OpKernels take from TensorFlow. Only they include it: it needs the headers of TensorFlow's streams.
#ifndef DWSCONV_TF_GPU_CALL_H_
#define DWSCONV_TF_GPU_CALL_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "cc/core/problem.h"
#include "cc/plan/cuda/forward_plan.h"
#include "cuda/run/forward.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tsl/platform/tensor_float_32_utils.h"
#include "xla/stream_executor/stream.h"

namespace dwsconv {

// The card that the calling thread's kernels run on, and how float32 is multiplied there: as TF32 where TensorFlow's
// own switch allows it, which is on unless the user turns it off, and the card can.
inline absl::Status CurrentGpu(DType dtype, CudaMachine* machine, CudaMath* math) {
  const std::string error = cuda::CurrentMachine(machine);
  if (!error.empty()) return absl::InternalError(error);
  const bool tf32 = dtype == DType::kFloat32 && tsl::tensor_float_32_execution_enabled() && machine->capability >= 80;
  if (tf32) *math = CudaMath::kTf32;
  return absl::OkStatus();
}

// Plans (make(plan) says what is wrong, or ""), and runs run(plan, workspace, stream) with a workspace of TensorFlow's
// on its stream.
template <typename Plan, typename Make, typename Run>
absl::Status PlanAndRun(tensorflow::OpKernelContext* context, const Make& make, const Run& run) {
  Plan plan;
  std::string error = make(&plan);
  if (!error.empty()) return absl::InternalError(error);
  tensorflow::Tensor workspace;
  TF_RETURN_IF_ERROR(
      context->allocate_temp(tensorflow::DT_UINT8, tensorflow::TensorShape({plan.workspace_bytes}), &workspace));
  error = run(plan, workspace.data(), context->op_device_context()->stream()->platform_specific_handle().stream);
  return error.empty() ? absl::OkStatus() : absl::InternalError(error);
}

}  // namespace dwsconv

#endif  // DWSCONV_TF_GPU_CALL_H_
