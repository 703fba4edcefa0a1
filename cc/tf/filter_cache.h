// Keeps packed filters between calls of the op, and never gives out filters that have changed since.
#ifndef DWSCONV_TF_FILTER_CACHE_H_
#define DWSCONV_TF_FILTER_CACHE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "absl/types/span.h"
#include "cc/core/problem.h"
#include "cc/cpu/forward.h"
#include "tensorflow/core/framework/tensor.h"

namespace dwsconv {

// How a filter (or bias) is known to be what was packed, the cheap way where it is sound:
//
// - By address. The cache holds a Tensor of what it packed. As long as it does, TensorFlow cannot free the buffer, nor
//   write into it: updates of resource variables copy when anyone else holds the buffer (PrepareToUpdateVariable), and
//   an output takes over an input's buffer only from its sole holder. So the same address means the same contents.
// - By contents: a 64-bit hash of every byte, one read of the filter in each call. This is for buffers that others may
//   write into: memory that TensorFlow does not own (a NumPy array fed without a copy; also what a variable got from an
//   aligned array), and everything while stable_filters is false (Assign writes into the buffer of a v1 reference
//   variable whoever holds it). It also knows filters again at a new address (mixed precision casts in each call).
//
// Holding makes each update of a variable copy it, which training must not pay. So the cache takes hold only of filters
// met twice running at one address with the same contents. Filters that differ in every call are not worth a hash:
// an address that misses again and again is passed over for a while, for longer each time.
class FilterCache {
 public:
  FilterCache(int64_t max_bytes, size_t max_entries) : max_bytes_(max_bytes), max_entries_(max_entries) {}

  // The one that all kernels share: a model's functions (train, predict, each input shape) pack its filters once.
  static FilterCache& Global();

  // Packed filters with the contents of `filters` (depthwise filter, pointwise filter, then those biases that the
  // problem has), which `buffers` point into. Null where the call had better pack for itself, or memory is out.
  PackedFiltersPtr Get(const Problem& problem, Isa isa, const ForwardBuffers& buffers,
                       absl::Span<const tensorflow::Tensor* const> filters, bool stable);

  // Lets go of filters that nobody but the cache holds any more: their variable has moved on or is gone.
  void Sweep();

  struct Stats {
    int64_t entries = 0, bytes = 0, held = 0;   // now; held: tensors
    int64_t hits = 0, misses = 0, skipped = 0;  // calls so far
  };
  Stats stats() const;

  static constexpr int kMissesBeforeSkip = 8;  // so many layers may share an address in turn (temporaries of casts)
  static constexpr int64_t kMinSkip = 8, kMaxSkip = 256;  // calls

 private:
  static constexpr int kMaxFilters = 4;

  // What must agree besides the contents.
  struct Geometry {
    std::array<int64_t, 5> sizes;  // R, S, C, M, K
    std::array<int64_t, 4> kinds;  // dtype, ISA, which biases there are
    bool operator==(const Geometry& other) const { return sizes == other.sizes && kinds == other.kinds; }
  };
  template <size_t kCount>
  struct Key {
    Geometry geometry;
    std::array<uint64_t, kCount> identity;
    bool operator==(const Key& other) const { return identity == other.identity && geometry == other.geometry; }
  };
  using AddressKey = Key<kMaxFilters>;
  using ContentsKey = Key<1>;  // a hash
  struct Hasher {
    template <size_t kCount>
    size_t operator()(const Key<kCount>& key) const;
  };

  struct Entry {
    ContentsKey contents;
    PackedFiltersPtr packed;
    int64_t bytes = 0;
    bool proven = false;  // found again at least once
  };
  using Entries = std::list<Entry>;  // the last used first

  // What was last met at one set of addresses.
  struct Slot {
    Entries::iterator entry;               // or end()
    bool known = false;                    // the addresses' contents are `entry` for sure, if foreign_hash agrees
    uint64_t foreign_hash = 0;             // of the filters not known by address
    std::vector<tensorflow::Tensor> held;  // those known by address
    int misses = 0;                        // in a row
    int64_t skip = 0, next_skip = kMinSkip;
    std::vector<ContentsKey> missed;  // the entries that those misses made
  };
  using Slots = std::unordered_map<AddressKey, Slot, Hasher>;

  // Released after the lock is, because the last reference to a tensor runs its allocator.
  struct Released {
    Entries entries;
    std::vector<tensorflow::Tensor> tensors;
  };

  // A call's filters, as far as they are looked at.
  struct Lookup {
    AddressKey addresses;
    absl::Span<const tensorflow::Tensor* const> filters;
    std::array<bool, kMaxFilters> foreign;  // not to be known by address
    uint64_t foreign_hash = 0;
    ContentsKey contents;
  };

  static Lookup MakeLookup(const Problem& problem, Isa isa, absl::Span<const tensorflow::Tensor* const> filters,
                           bool stable);
  // True where *packed is the answer: filters known, or null for a call that skips the cache.
  bool FindByAddress(const Lookup& lookup, PackedFiltersPtr* packed, Released* released);
  PackedFiltersPtr FindByContents(const Lookup& lookup, Released* released);
  PackedFiltersPtr Insert(const Lookup& lookup, PackedFiltersPtr packed, Released* released);

  // These want the lock.
  Slot& SlotFor(const Lookup& lookup, Released* released);
  void Use(Entries::iterator entry);
  void Forget(Slot* slot, Released* released);
  void Erase(Entries::iterator entry, Released* released);
  void SweepUnderLock(Released* released);

  const int64_t max_bytes_;
  const size_t max_entries_;
  mutable std::mutex mu_;  // guards what follows
  Entries entries_;
  std::unordered_map<ContentsKey, Entries::iterator, Hasher> by_contents_;
  Slots slots_;
  Stats stats_;
};

}  // namespace dwsconv

#endif  // DWSCONV_TF_FILTER_CACHE_H_
