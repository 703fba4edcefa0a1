// The op's CPU kernel: checks, allocates, dispatches. The arithmetic is in cc/cpu.
#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "cc/core/huge_pages.h"
#include "cc/core/make_problem.h"
#include "cc/cpu/forward.h"
#include "cc/tf/device_pool.h"
#include "cc/tf/filter_cache.h"
#include "cc/tf/layer_inputs.h"
#include "cc/tf/op_attributes.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace dwsconv {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

class DepthwiseSepConv2DOp : public tensorflow::OpKernel {
 public:
  explicit DepthwiseSepConv2DOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, ReadAttributes(context, &attributes_));
    OP_REQUIRES_OK(context, context->GetAttr("stable_filters", &stable_filters_));
  }

  // With a function its filters often go.
  ~DepthwiseSepConv2DOp() override { FilterCache::Global().Sweep(); }

  void Compute(OpKernelContext* context) override {
    const LayerInputs inputs(attributes_);

    Problem problem;
    std::string error = MakeProblem(inputs.Read(context, attributes_), &problem);
    OP_REQUIRES(context, error.empty(), absl::InvalidArgumentError(error));

    ForwardBuffers buffers;
    inputs.SetBuffers(context, &buffers);

    Tensor* output = nullptr;
    OP_REQUIRES_OK(context, AllocateOutput(context, problem, inputs.residual, &output));
    if (output->NumElements() == 0) return;
    buffers.output = output->data();
    PreferHugePages(buffers.output, static_cast<int64_t>(output->TotalBytes()));

    ForwardOptions options;
    error = ChooseIsa(&options.isa);
    OP_REQUIRES(context, error.empty(), absl::FailedPreconditionError(error));
    DevicePool pool(context);
    options.num_threads = pool.threads();
    options.pool = pool.get();
    absl::InlinedVector<const Tensor*, 4> filters = {&context->input(kDepthwiseFilter),
                                                     &context->input(kPointwiseFilter)};
    if (inputs.depthwise_bias > 0) filters.push_back(&context->input(inputs.depthwise_bias));
    if (inputs.bias > 0) filters.push_back(&context->input(inputs.bias));
    const PackedFiltersPtr packed = FilterCache::Global().Get(problem, options.isa, buffers, filters, stable_filters_);
    error = Forward(problem, buffers, packed.get(), options);
    OP_REQUIRES(context, error.empty(), absl::ResourceExhaustedError(error));
  }

 private:
  Request attributes_;
  bool stable_filters_ = false;
};

#define REGISTER_CPU(T)                                                                                               \
  REGISTER_KERNEL_BUILDER(Name("TfDwsconv>DepthwiseSepConv2D").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
                          DepthwiseSepConv2DOp)
REGISTER_CPU(float);
REGISTER_CPU(tensorflow::bfloat16);
REGISTER_CPU(Eigen::half);
#undef REGISTER_CPU

}  // namespace
}  // namespace dwsconv

// What ran in this process, for tests: read through ctypes. Counters only, so any thread may call at any time.
extern "C" {

// Calls that ran on the kernels of an ISA ("generic", "avx2", "avx512"), or -1 for a word that is none.
int64_t dwsconv_calls(const char* isa) {
  dwsconv::Isa parsed;
  if (isa == nullptr || !dwsconv::ParseIsa(isa, &parsed)) return -1;
  return dwsconv::ForwardCalls(parsed);
}

int64_t dwsconv_pack_calls() { return dwsconv::PackCalls(); }

// The filter cache: now its entries, their bytes and the tensors held; so far its hits, misses and inserts.
void dwsconv_filter_cache(int64_t values[6]) {
  const dwsconv::FilterCache::Stats stats = dwsconv::FilterCache::Global().stats();
  const int64_t all[6] = {stats.entries, stats.bytes, stats.held, stats.hits, stats.misses, stats.inserts};
  std::copy(all, all + 6, values);
}

void dwsconv_filter_cache_clear() { dwsconv::FilterCache::Global().Clear(); }

void dwsconv_filter_cache_sweep() { dwsconv::FilterCache::Global().Sweep(); }

}  // extern "C"
