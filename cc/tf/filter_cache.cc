#include "cc/tf/filter_cache.h"

#include <algorithm>
#include <utility>

#include "cc/tf/content_hash.h"
#include "tensorflow/core/common_runtime/dma_helper.h"

namespace dwsconv {

using tensorflow::Tensor;

namespace {

// Whether others than TensorFlow may write into the tensor's memory.
bool IsForeign(const Tensor& tensor) {
  auto* const buffer = const_cast<tensorflow::TensorBuffer*>(tensorflow::DMAHelper::buffer(&tensor));
  return buffer == nullptr || !buffer->root_buffer()->OwnsMemory();
}

uint64_t HashTensor(const Tensor& tensor, uint64_t seed) { return HashBytes(tensor.data(), tensor.TotalBytes(), seed); }

}  // namespace

template <size_t kCount>
size_t FilterCache::Hasher::operator()(const Key<kCount>& key) const {
  // The identity alone nearly always differs; geometry is left to operator==.
  uint64_t hash = 0;
  for (uint64_t part : key.identity) hash = HashStep(hash, part);
  return static_cast<size_t>(hash ^ (hash >> 32));
}

FilterCache& FilterCache::Global() {
  // Never destroyed: kernels may outlive static destructors. 256 MiB hold all the layers of an Xception thrice.
  static FilterCache* const cache = new FilterCache(int64_t{256} << 20, 1024);
  return *cache;
}

FilterCache::Lookup FilterCache::MakeLookup(const Problem& problem, Isa isa, absl::Span<const Tensor* const> filters,
                                            bool stable) {
  Lookup lookup;
  lookup.filters = filters;
  Geometry geometry;
  geometry.sizes = {problem.R, problem.S, problem.C, problem.M, problem.K};
  geometry.kinds = {static_cast<int64_t>(problem.dtype), static_cast<int64_t>(isa), problem.has_depthwise_bias,
                    problem.has_bias};
  lookup.addresses.geometry = lookup.contents.geometry = geometry;
  lookup.addresses.identity.fill(0);
  for (size_t i = 0; i < filters.size(); ++i) {
    lookup.addresses.identity[i] = reinterpret_cast<uintptr_t>(filters[i]->data());
    lookup.foreign[i] = !stable || IsForeign(*filters[i]);
    if (lookup.foreign[i]) lookup.foreign_hash = HashTensor(*filters[i], lookup.foreign_hash + i);
  }
  return lookup;
}

PackedFiltersPtr FilterCache::Get(const Problem& problem, Isa isa, const ForwardBuffers& buffers,
                                  absl::Span<const Tensor* const> filters, bool stable) {
  Released released;
  Lookup lookup = MakeLookup(problem, isa, filters, stable);
  PackedFiltersPtr packed;
  if (FindByAddress(lookup, &packed, &released)) return packed;
  uint64_t contents = 0;
  for (const Tensor* filter : filters) contents = HashTensor(*filter, contents);
  lookup.contents.identity = {contents};
  packed = FindByContents(lookup, &released);
  if (packed != nullptr) return packed;

  packed = PackFilters(problem, isa, buffers);
  if (packed == nullptr) return nullptr;
  // A foreign buffer may have been written into after it was hashed and before it was packed.
  uint64_t after = 0;
  for (const Tensor* filter : filters) after = HashTensor(*filter, after);
  if (after != contents) return packed;
  return Insert(lookup, std::move(packed), &released);
}

bool FilterCache::FindByAddress(const Lookup& lookup, PackedFiltersPtr* packed, Released* released) {
  std::lock_guard<std::mutex> lock(mu_);
  const auto found = slots_.find(lookup.addresses);
  if (found == slots_.end()) return false;
  Slot& slot = found->second;
  if (slot.known && slot.foreign_hash == lookup.foreign_hash) {
    Use(slot.entry);
    *packed = slot.entry->packed;
    // Filters of a model that is gone are found here when another model runs on.
    if (++stats_.hits % 1024 == 0) SweepUnderLock(released);
    return true;
  }
  if (slot.skip == 0) return false;
  --slot.skip;
  ++stats_.skipped;
  return true;
}

PackedFiltersPtr FilterCache::FindByContents(const Lookup& lookup, Released* released) {
  std::lock_guard<std::mutex> lock(mu_);
  const auto found = by_contents_.find(lookup.contents);
  if (found == by_contents_.end()) return nullptr;
  const Entries::iterator entry = found->second;
  Use(entry);
  entry->proven = true;
  ++stats_.hits;
  Slot& slot = SlotFor(lookup, released);
  slot.misses = 0;
  slot.next_skip = kMinSkip;
  slot.missed.clear();
  const bool twice_running = slot.entry == entry;
  Forget(&slot, released);
  slot.entry = entry;
  if (twice_running) {
    slot.known = true;
    slot.foreign_hash = lookup.foreign_hash;
    for (size_t i = 0; i < lookup.filters.size(); ++i) {
      if (!lookup.foreign[i]) slot.held.push_back(*lookup.filters[i]);
    }
  }
  return entry->packed;
}

PackedFiltersPtr FilterCache::Insert(const Lookup& lookup, PackedFiltersPtr packed, Released* released) {
  std::lock_guard<std::mutex> lock(mu_);
  ++stats_.misses;
  SweepUnderLock(released);
  const auto found = by_contents_.find(lookup.contents);
  if (found != by_contents_.end()) return found->second->packed;  // another thread packed them meanwhile

  const int64_t bytes = PackedBytes(*packed);
  if (bytes > max_bytes_) return packed;
  entries_.push_front(Entry{lookup.contents, packed, bytes, false});
  const Entries::iterator entry = entries_.begin();
  by_contents_[lookup.contents] = entry;
  stats_.bytes += bytes;
  while (stats_.bytes > max_bytes_ || entries_.size() > max_entries_) Erase(std::prev(entries_.end()), released);

  Slot& slot = SlotFor(lookup, released);
  Forget(&slot, released);
  slot.entry = entry;
  slot.missed.push_back(lookup.contents);
  if (++slot.misses < kMissesBeforeSkip) return packed;
  // Weights in training, most likely: what was packed of them is of no more use.
  for (const ContentsKey& key : std::exchange(slot.missed, {})) {
    const auto missed = by_contents_.find(key);
    if (missed != by_contents_.end() && !missed->second->proven) Erase(missed->second, released);
  }
  // When the skip is over, two calls must agree, or the next begins.
  slot.misses = kMissesBeforeSkip - 2;
  slot.skip = slot.next_skip;
  slot.next_skip = std::min(2 * slot.next_skip, kMaxSkip);
  return packed;
}

FilterCache::Slot& FilterCache::SlotFor(const Lookup& lookup, Released* released) {
  // Addresses come and go with a model's temporaries, and a slot is only a memory of them; start over when they pile
  // up.
  if (slots_.size() >= 4 * max_entries_ && slots_.find(lookup.addresses) == slots_.end()) {
    for (auto& item : slots_) Forget(&item.second, released);
    slots_.clear();
  }
  const auto [found, inserted] = slots_.try_emplace(lookup.addresses);
  if (inserted) found->second.entry = entries_.end();
  return found->second;
}

void FilterCache::Use(Entries::iterator entry) { entries_.splice(entries_.begin(), entries_, entry); }

void FilterCache::Forget(Slot* slot, Released* released) {
  for (Tensor& tensor : slot->held) released->tensors.push_back(std::move(tensor));
  slot->held.clear();
  slot->known = false;
  slot->entry = entries_.end();
}

void FilterCache::Erase(Entries::iterator entry, Released* released) {
  for (auto& item : slots_) {
    if (item.second.entry == entry) Forget(&item.second, released);
  }
  by_contents_.erase(entry->contents);
  stats_.bytes -= entry->bytes;
  released->entries.splice(released->entries.end(), entries_, entry);
}

void FilterCache::SweepUnderLock(Released* released) {
  for (auto slot = slots_.begin(); slot != slots_.end();) {
    const std::vector<Tensor>& held = slot->second.held;
    // Only the cache could hand out another reference, and it asks for one in return: a count of one stays.
    const bool dead = std::any_of(held.begin(), held.end(), [](const Tensor& t) { return t.RefCountIsOne(); });
    if (!dead) {
      ++slot;
      continue;
    }
    const Entries::iterator entry = slot->second.entry;
    Forget(&slot->second, released);
    slot = slots_.erase(slot);
    const bool shared = std::any_of(slots_.begin(), slots_.end(),
                                    [&](const auto& item) { return item.second.known && item.second.entry == entry; });
    if (!shared) Erase(entry, released);
  }
}

void FilterCache::Sweep() {
  Released released;
  std::lock_guard<std::mutex> lock(mu_);
  SweepUnderLock(&released);
}

FilterCache::Stats FilterCache::stats() const {
  std::lock_guard<std::mutex> lock(mu_);
  Stats stats = stats_;
  stats.entries = entries_.size();
  for (const auto& item : slots_) stats.held += item.second.held.size();
  return stats;
}

}  // namespace dwsconv
