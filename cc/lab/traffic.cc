#include "cc/lab/traffic.h"

#include <sys/mman.h>

#include <memory>
#include <mutex>

#include "cc/core/aligned_buffer.h"
#include "cc/cpu/packed_filters.h"

namespace dwsconv {
namespace {

// Memory that is reserved and, as nobody writes into it, never there.
class Reserved {
 public:
  explicit Reserved(int64_t bytes) : bytes_(static_cast<size_t>(bytes)) {
    void* const at = mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    data_ = at == MAP_FAILED ? nullptr : at;
  }
  ~Reserved() {
    if (data_ != nullptr) munmap(data_, bytes_);
  }
  Reserved(const Reserved&) = delete;
  Reserved& operator=(const Reserved&) = delete;
  void* data() const { return data_; }

 private:
  size_t bytes_;
  void* data_;
};

const KernelTable& Counted(const KernelTable& kernels) {
#if defined(__x86_64__)
  if (&kernels == &KernelsAvx512Bf16()) return CountedAvx512Bf16();
  if (&kernels == &KernelsAvx512()) return CountedAvx512();
  if (&kernels == &KernelsAvx2()) return CountedAvx2();
#endif
  (void)kernels;
  return CountedGeneric();
}

}  // namespace

Caches CachesOf(const Machine& machine) {
  return Caches{{machine.l1d_bytes, 8}, {machine.l2_bytes, 8}, {machine.l3_bytes, 16}};
}

std::string SimulateTraffic(const Problem& problem, const ForwardOptions& options, const Caches& caches,
                            Traffic* traffic) {
  constexpr char kOutOfMemory[] = "out of memory for a simulation";
  const int64_t item = SizeOf(problem.dtype);
  const int64_t x_bytes = problem.N * problem.H * problem.W * problem.C * item;
  const int64_t y_bytes = problem.N * problem.output_pixels() * problem.K * item;
  const Reserved x(x_bytes), y(y_bytes), depthwise(problem.R * problem.S * problem.CM() * item),
      pointwise(problem.CM() * problem.K * item);
  for (const Reserved* array : {&x, &y, &depthwise, &pointwise}) {
    if (array->data() == nullptr) return kOutOfMemory;
  }
  ForwardBuffers buffers;
  buffers.input = x.data();
  buffers.depthwise_filter = depthwise.data();
  buffers.pointwise_filter = pointwise.data();
  buffers.output = y.data();
  const std::unique_ptr<PackedFilters> packed = PackedFilters::Make(problem, options.isa, buffers);
  if (!packed) return kOutOfMemory;
  packed->RunBy(Counted(packed->kernels()));

  CacheSim sim(caches.l1d, caches.l2, caches.l3);
  sim.Name(Region::kX, x.data(), x_bytes);
  sim.Name(Region::kY, y.data(), y_bytes);
  sim.Name(Region::kFilters, packed->depthwise(), packed->bytes());
  static std::mutex* const one_at_a_time = new std::mutex;
  const std::lock_guard<std::mutex> lock(*one_at_a_time);
  counting_caches = &sim;
  ForwardOptions one = options;
  one.num_threads = 1;
  const std::string wrong = Forward(problem, buffers, packed.get(), one);
  counting_caches = nullptr;
  sim.Finish();
  *traffic = Traffic{sim.beyond_l2(), sim.memory()};
  return wrong;
}

}  // namespace dwsconv
