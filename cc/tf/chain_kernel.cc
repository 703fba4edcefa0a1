// The CPU kernel of the layer's op and of the block's: checks, allocates, dispatches. The arithmetic is in cc/cpu.
#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "cc/core/huge_pages.h"
#include "cc/cpu/kernels/bf16_products.h"
#include "cc/cpu/run/executor.h"
#include "cc/cpu/run/forward.h"
#include "cc/tf/chain_op.h"
#include "cc/tf/cpu_kernel.h"
#include "cc/tf/filter_cache.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace dwsconv {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

template <ChainOpKind kKind>
class ChainOp : public tensorflow::OpKernel {
 public:
  explicit ChainOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, ReadChainAttributes(context, kKind, &attributes_));
    OP_REQUIRES_OK(context, context->GetAttr("stable_filters", &stable_filters_));
  }

  // With a function its filters often go.
  ~ChainOp() override { FilterCache::Global().Sweep(); }

  void Compute(OpKernelContext* context) override {
    Chain chain;
    Buffers buffers;
    Tensor* output = nullptr;
    OP_REQUIRES_OK(context, PrepareCall(context, attributes_, &chain, &buffers, &output));
    if (output->NumElements() == 0) return;
    PreferHugePages(buffers.output, static_cast<int64_t>(output->TotalBytes()));

    ForwardOptions options;
    DevicePool pool(context);
    OP_REQUIRES_OK(context, SetDevice(&pool, ChooseKernelIsa, &options));
    absl::InlinedVector<const Tensor*, FilterCache::kMaxFilters> filters;
    for (int i = 0; i < kChainInputCount; ++i) {
      if (attributes_.at[i] >= 0 && kChainInputs[i].weights) filters.push_back(&context->input(attributes_.at[i]));
    }
    const PackedFiltersPtr packed = FilterCache::Global().Get(chain, options.isa, buffers, filters, stable_filters_);
    const std::string error = Forward(chain, buffers, packed.get(), options);
    OP_REQUIRES(context, error.empty(), absl::ResourceExhaustedError(error));
  }

 private:
  ChainAttributes attributes_;
  bool stable_filters_ = false;
};

DWSCONV_REGISTER_KERNEL("CPU", "TfDwsconv>DepthwiseSepConv2D", ChainOp<ChainOpKind::kLayer>);
DWSCONV_REGISTER_KERNEL("CPU", "TfDwsconv>ConvBlock", ChainOp<ChainOpKind::kBlock>);

}  // namespace
}  // namespace dwsconv

// What ran in this process, for tests: read through ctypes. Counters only, so any thread may call at any time.
extern "C" {

// Calls that ran on the kernels of an ISA: "generic", "avx2", "avx512", "amx".
int64_t dwsconv_calls(const char* isa) { return dwsconv::CountOf(isa, dwsconv::ForwardCalls); }

// How often a way of cutting an expanded chain was gone (cc/cpu/run/executor.h), or -1 for a word that is none.
int64_t dwsconv_block_ways(const char* way) { return way == nullptr ? -1 : dwsconv::ChainWay(way); }

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
