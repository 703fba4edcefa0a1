// Keeps packed filters between calls of the op, and never gives out filters that have changed since.
#ifndef DWSCONV_TF_FILTER_CACHE_H_
#define DWSCONV_TF_FILTER_CACHE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "absl/types/span.h"
#include "cc/core/chain.h"
#include "cc/cpu/pack.h"
#include "cc/cpu/run/program.h"
#include "tensorflow/core/framework/tensor.h"

namespace dwsconv {

// Whether others than TensorFlow may write into the tensor's memory.
bool IsForeign(const tensorflow::Tensor& tensor);

// How a filter (or bias) is known to be what was packed, the cheap way where it is sound:
//
// - By address. The cache holds a Tensor of what it packed. As long as it does, TensorFlow cannot free the buffer, nor
//   write into it: updates of resource variables copy when anyone else holds the buffer (PrepareToUpdateVariable), and
//   an output takes over an input's buffer only from its sole holder. So the same address means the same contents.
// - By contents: a 64-bit hash of every byte, one read of the filter in each call. This is for buffers that others may
//   write into: memory that TensorFlow does not own (a NumPy array fed without a copy; also what a variable got from an
//   aligned array), and everything while stable_filters is false (Assign writes into the buffer of a v1 reference
//   variable whoever holds it). It also knows filters again at a new address (in eager mode, mixed precision casts in
//   each call).
//
// Holding makes each update of a variable copy it, and keeping what is never met again wastes memory. In training,
// where filters differ in every call, both would be pure loss. So the first time contents are met they are only noted,
// the call packs for itself, and nothing is kept; the second time they are packed to stay, and held if met at the same
// address as the last time. What nobody else holds any more goes, packed filters and all, before others come. Filters
// that live only for a call (casts) are held in vain, so after a few times they are not again, but known by contents.
// What training pays is the hash.
//
// Out of reach: memory that somebody outside TensorFlow writes into behind its back (a tensor exported through DLPack).
class FilterCache {
 public:
  static constexpr int kMaxFilters = 9;  // of one op, slopes included

  FilterCache(int64_t max_bytes, size_t max_entries) : max_bytes_(max_bytes), max_entries_(max_entries) {}

  // The one that all kernels share: a model's functions (train, predict, each input shape) pack its filters once.
  static FilterCache& Global();
  // The same for whole networks, one of which may be as large as all filters there.
  static FilterCache& Networks();

  // Packed filters with the contents of `filters`: those filters and biases that the chain has, in a fixed order, which
  // `buffers` point into. Null where the call had better pack for itself, or memory is out.
  PackedFiltersPtr Get(const Chain& chain, Isa isa, const Buffers& buffers,
                       absl::Span<const tensorflow::Tensor* const> filters, bool stable);

  // Likewise the filters of a program, of whose flat weights `make` packs them. `kind` is what must agree besides.
  std::shared_ptr<const PackedProgram> Get(const PackKey& kind, const tensorflow::Tensor& weights, bool stable,
                                           const std::function<std::shared_ptr<const PackedProgram>()>& make);

  // Lets go of tensors that nobody but the cache holds any more (their variable has moved on or is gone), and of packed
  // filters that were not used for long.
  void Sweep();

  // Lets go of everything: for tests, which count from there.
  void Clear();

  struct Stats {
    int64_t entries = 0, bytes = 0, held = 0;   // now; held: tensors
    int64_t hits = 0, misses = 0, inserts = 0;  // calls so far; a miss that is no insert left nothing behind
  };
  Stats stats() const;

 private:
  template <size_t kCount>
  struct Key {
    PackKey kind;  // what must agree besides the contents
    std::array<uint64_t, kCount> identity;
    bool operator==(const Key& other) const { return identity == other.identity && kind == other.kind; }
  };
  using AddressKey = Key<kMaxFilters>;
  using ContentsKey = Key<1>;  // a hash
  // Filters of whatever kind.
  struct Packed {
    std::shared_ptr<const void> filters;
    int64_t bytes = 0;
  };
  struct Hasher {
    template <size_t kCount>
    size_t operator()(const Key<kCount>& key) const;
  };

  struct Entry {
    ContentsKey contents;
    Packed packed;
    int64_t last_use = 0;  // by lookups_
  };
  using Entries = std::list<Entry>;  // the last used first

  // Addresses whose contents are known: `entry`, as long as foreign_hash agrees.
  struct Slot {
    Entries::iterator entry;
    uint64_t foreign_hash = 0;             // of the filters not known by address
    std::vector<tensorflow::Tensor> held;  // those known by address
  };
  using Slots = std::unordered_map<AddressKey, Slot, Hasher>;

  // A use counts as long ago after so many calls: some hundred of a model with a hundred layers.
  static constexpr int64_t kIdleLookups = 16384;
  static constexpr int kMostVainHolds = 3;

  // What is remembered of hashes met lately, each at its own place, until another takes it.
  static constexpr size_t kNotes = 4096;
  struct ContentsNote {
    uint64_t contents = 0;
    bool met = false;
    int vain_holds = 0;
  };
  struct AddressNote {
    size_t addresses = 0;
    uint64_t contents = 0;
  };

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

  static Lookup MakeLookup(const PackKey& kind, absl::Span<const tensorflow::Tensor* const> filters, bool stable);
  Packed GetAny(const PackKey& kind, absl::Span<const tensorflow::Tensor* const> filters, bool stable,
                const std::function<Packed()>& make);
  Packed FindByAddress(const Lookup& lookup, Released* released);
  Packed FindByContents(const Lookup& lookup, Released* released);
  bool MetBefore(const Lookup& lookup);  // and takes note
  Packed Insert(const Lookup& lookup, const Packed& packed, Released* released);

  // These want the lock.
  void Use(Entries::iterator entry);
  void Learn(const Lookup& lookup, Entries::iterator entry, Released* released);
  bool SameAsLastTime(const Lookup& lookup);  // at these addresses; and takes note
  ContentsNote& NoteOf(const ContentsKey& contents);
  static bool IsDead(const Slot& slot);  // nobody else holds what it holds
  void DropDead(const Entry& of, Released* released);
  Slots::iterator Forget(Slots::iterator slot, Released* released);
  void Erase(Entries::iterator entry, Released* released);
  void SweepUnderLock(Released* released);

  const int64_t max_bytes_;
  const size_t max_entries_;
  mutable std::mutex mu_;  // guards what follows
  Entries entries_;
  std::unordered_map<ContentsKey, Entries::iterator, Hasher> by_contents_;
  Slots slots_;
  std::vector<ContentsNote> contents_notes_ = std::vector<ContentsNote>(kNotes);
  std::vector<AddressNote> address_notes_ = std::vector<AddressNote>(kNotes);
  int64_t lookups_ = 0;
  Stats stats_;
};

}  // namespace dwsconv

#endif  // DWSCONV_TF_FILTER_CACHE_H_
