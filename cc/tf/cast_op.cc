// TfDwsconv>CastWeights: a float32 weight in 16 bits, cast when it changes and not in each call. What layers in mixed
// precision put in the place of a Cast: its output has the same address from call to call, so the filter cache knows it
// without reading it.
#include <cstdint>
#include <mutex>
#include <string>
#include <utility>

#include "cc/core/cpu_features.h"
#include "cc/cpu/kernels/targets.h"
#include "cc/tf/content_hash.h"
#include "cc/tf/filter_cache.h"
#include "cc/tf/op_support.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/util/work_sharder.h"

namespace dwsconv {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

// A weight is known by address, as in filter_cache.h: as long as a buffer of TensorFlow's own is held here nobody
// writes into it, so the same address means the same contents. Holding makes the next update of a variable copy it. In
// training that would be pure loss, and there a few numbers of a weight tell that it has changed since the call before:
// then nothing is held. Those numbers never decide that a cast is still right.
class CastWeightsOp : public tensorflow::OpKernel {
 public:
  explicit CastWeightsOp(OpKernelConstruction* context) : OpKernel(context) {
    tensorflow::DataType to;
    OP_REQUIRES_OK(context, context->GetAttr("T", &to));
    OP_REQUIRES_OK(context, ToDType(to, &dtype_));
  }

  // The context holds x until the call ends, so nobody writes into it between the cast and Keep. No lock is held during
  // the cast, which waits for other threads.
  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const uint64_t sample = SampleOf(x);
    Tensor kept;
    bool stays = false;
    if (Find(x, sample, &kept, &stays)) {
      context->set_output(0, kept);
      return;
    }
    Isa isa;
    const std::string error = ChooseIsa(&isa);
    OP_REQUIRES(context, error.empty(), absl::FailedPreconditionError(error));
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &y));
    Cast(context, isa, x, y);
    if (stays && !IsForeign(x)) Keep(x, *y);
  }

 private:
  // Whether x is what is held; *y is its cast then. Otherwise nothing is held any more, and *stays says whether x seems
  // to be what it was in the call before.
  bool Find(const Tensor& x, uint64_t sample, Tensor* y, bool* stays) {
    Tensor before_x, before_y;  // released after the lock is: the last reference runs an allocator
    std::lock_guard<std::mutex> lock(mu_);
    if (x_.data() != nullptr && x_.data() == x.data() && x_.shape() == x.shape()) {
      *y = y_;
      return true;
    }
    std::swap(before_x, x_);
    std::swap(before_y, y_);
    *stays = sample == sample_;
    sample_ = sample;
    return false;
  }

  void Keep(Tensor x, Tensor y) {
    std::lock_guard<std::mutex> lock(mu_);
    std::swap(x_, x);
    std::swap(y_, y);
  }

  // Rounded to nearest even: by the kernel that writes a Z of floats as Y.
  void Cast(OpKernelContext* context, Isa isa, const Tensor& x, Tensor* y) const {
    const KernelTable& kernels = Kernels(isa, Chain());
    const float* const from = x.flat<float>().data();
    char* const to = static_cast<char*>(y->data());
    const auto part = [&](int64_t begin, int64_t end) {
      PointwiseArgs args{};
      args.z = from + begin;
      args.pixels = 1;
      args.cm = end - begin;
      args.y = to + begin * SizeOf(dtype_);
      args.dtype = dtype_;
      kernels.copy(args);
    };
    constexpr int64_t kCyclesEach = 2;
    const auto& threads = *context->device()->tensorflow_cpu_worker_threads();
    tensorflow::Shard(threads.num_threads, threads.workers, x.NumElements(), kCyclesEach, part);
  }

  // Of the address and some numbers of a weight.
  static uint64_t SampleOf(const Tensor& x) {
    constexpr int64_t kNumbers = 64;
    const int64_t count = x.NumElements(), step = count / kNumbers + 1;
    const float* const numbers = x.flat<float>().data();
    uint64_t hash = HashStep(reinterpret_cast<uintptr_t>(numbers), static_cast<uint64_t>(count));
    for (int64_t i = 0; i < count; i += step) hash = HashBytes(numbers + i, sizeof(float), hash);
    return hash;
  }

  DType dtype_ = DType::kFloat32;
  std::mutex mu_;  // guards what follows
  Tensor x_, y_;   // a weight and its cast, or nothing
  uint64_t sample_ = 0;
};

}  // namespace

REGISTER_OP("TfDwsconv>CastWeights")
    .Input("x: float")
    .Output("y: T")
    .Attr("T: {bfloat16, half}")
    .SetShapeFn(tensorflow::shape_inference::UnchangedShape)
    .Doc(R"doc(
A weight in 16 bits, rounded as Cast does, which is cast again only when it has changed.

x: the value of a resource variable, or a constant.
)doc");

#define REGISTER_CPU(T)                                                                                        \
  REGISTER_KERNEL_BUILDER(Name("TfDwsconv>CastWeights").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
                          CastWeightsOp)
REGISTER_CPU(tensorflow::bfloat16);
REGISTER_CPU(Eigen::half);
#undef REGISTER_CPU

}  // namespace dwsconv
