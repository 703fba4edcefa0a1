// The gradient op's CPU kernel: checks, allocates, dispatches. The arithmetic is in cc/cpu.
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "cc/core/huge_pages.h"
#include "cc/cpu/kernels/bf16_products.h"
#include "cc/cpu/run/backward.h"
#include "cc/tf/cpu_kernel.h"
#include "cc/tf/grad_op.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace dwsconv {
namespace {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;

template <ChainOpKind kKind>
class ChainGradOp : public GradOp<kKind> {
 public:
  using GradOp<kKind>::GradOp;

  void Compute(OpKernelContext* context) override {
    Chain chain;
    BackwardBuffers buffers;
    Tensor* gradients[kGradients];
    OP_REQUIRES_OK(context, this->Prepare(context, false, &chain, &buffers, &gradients));
    for (Tensor* gradient : gradients) {
      if (gradient != nullptr) PreferHugePages(gradient->data(), static_cast<int64_t>(gradient->TotalBytes()));
    }

    BackwardOptions options;
    DevicePool pool(context);
    OP_REQUIRES_OK(context, SetDevice(&pool, ChooseKernelIsa, &options));
    const std::string error = Backward(chain, buffers, options);
    OP_REQUIRES(context, error.empty(), absl::ResourceExhaustedError(error));
  }
};

DWSCONV_REGISTER_KERNEL("CPU", "TfDwsconv>DepthwiseSepConv2DGrad", ChainGradOp<ChainOpKind::kLayer>);
DWSCONV_REGISTER_KERNEL("CPU", "TfDwsconv>ConvBlockGrad", ChainGradOp<ChainOpKind::kBlock>);

}  // namespace
}  // namespace dwsconv

// What ran in this process, for tests, as in chain_kernel.cc.
extern "C" {

// Calls that ran on the backward kernels of an ISA.
int64_t dwsconv_backward_calls(const char* isa) { return dwsconv::CountOf(isa, dwsconv::BackwardCalls); }

// Those of them whose scratch held channels repeated for their multipliers.
int64_t dwsconv_backward_repeated_calls() { return dwsconv::BackwardRepeatedCalls(); }

// Calls that ran on plain loops because no block of the chain fits.
int64_t dwsconv_backward_plain_calls() { return dwsconv::BackwardPlainCalls(); }

}  // extern "C"
