#include "cc/lab/traffic.h"

#include <sys/mman.h>

#include <memory>
#include <mutex>

#include "cc/core/aligned_buffer.h"
#include "cc/cpu/pack.h"

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
#define DWSCONV_COUNTED(name, isa, bf16) \
  if (&kernels == &Kernels##name()) return Counted##name();
  DWSCONV_FOR_TARGETS(DWSCONV_COUNTED)
#undef DWSCONV_COUNTED
  return CountedGeneric();
}

}  // namespace

Caches CachesOf(const Machine& machine) {
  return Caches{{machine.l1d_bytes, 8}, {machine.l2_bytes, 8}, {machine.l3_bytes, 16}};
}

std::string SimulateTraffic(const Chain& chain, const ForwardOptions& options, const Caches& caches, Traffic* traffic) {
  constexpr char kOutOfMemory[] = "out of memory for a simulation";
  const int64_t item = SizeOf(chain.dtype);
  const int64_t x_bytes = chain.N * chain.H * chain.W * chain.C * item;
  const int64_t y_bytes = chain.N * chain.output_pixels() * chain.K * item;
  const Reserved x(x_bytes), y(y_bytes), depthwise(chain.R * chain.S * chain.CM() * item),
      pointwise(chain.CM() * chain.K * item);
  for (const Reserved* array : {&x, &y, &depthwise, &pointwise}) {
    if (array->data() == nullptr) return kOutOfMemory;
  }
  Buffers buffers;
  buffers.input = x.data();
  buffers.depthwise_filter = depthwise.data();
  buffers.pointwise_filter = pointwise.data();
  buffers.output = y.data();
  // There is nothing that counts what tiles load: the kernels of vectors below them stand for theirs.
  ForwardOptions one = options;
  one.isa = WithoutTiles(options.isa);
  one.num_threads = 1;
  const std::unique_ptr<PackedFilters> packed = PackedFilters::Make(chain, one.isa, buffers);
  if (!packed) return kOutOfMemory;
  packed->RunBy(Counted(packed->kernels()));

  CacheSim sim(caches.l1d, caches.l2, caches.l3);
  sim.Name(Region::kX, x.data(), x_bytes);
  sim.Name(Region::kY, y.data(), y_bytes);
  sim.Name(Region::kFilters, packed->depthwise().filter, packed->bytes());
  static std::mutex* const one_at_a_time = new std::mutex;
  const std::lock_guard<std::mutex> lock(*one_at_a_time);
  counting_caches = &sim;
  const std::string wrong = Forward(chain, buffers, packed.get(), one);
  counting_caches = nullptr;
  sim.Finish();
  *traffic = Traffic{sim.beyond_l2(), sim.memory()};
  return wrong;
}

}  // namespace dwsconv
