#include "cc/tf/filter_cache.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "cc/tf/content_hash.h"
#include "tensorflow/core/common_runtime/dma_helper.h"

namespace dwsconv {

using tensorflow::Tensor;

bool IsForeign(const Tensor& tensor) {
  auto* const buffer = const_cast<tensorflow::TensorBuffer*>(tensorflow::DMAHelper::buffer(&tensor));
  return buffer == nullptr || !buffer->root_buffer()->OwnsMemory();
}

namespace {

uint64_t HashTensor(const Tensor& tensor, uint64_t seed) { return HashBytes(tensor.data(), tensor.TotalBytes(), seed); }

uint64_t HashAll(absl::Span<const Tensor* const> tensors) {
  uint64_t hash = 0;
  for (const Tensor* tensor : tensors) hash = HashTensor(*tensor, hash);
  return hash;
}

}  // namespace

template <size_t kCount>
size_t FilterCache::Hasher::operator()(const Key<kCount>& key) const {
  // The identity alone nearly always differs; the kind is left to operator==.
  uint64_t hash = 0;
  for (uint64_t part : key.identity) hash = HashStep(hash, part);
  return static_cast<size_t>(hash ^ (hash >> 32));
}

FilterCache& FilterCache::Global() {
  // Never destroyed: kernels may outlive static destructors. 256 MiB hold all the layers of an Xception thrice.
  static FilterCache* const cache = new FilterCache(int64_t{256} << 20, 1024);
  return *cache;
}

FilterCache& FilterCache::Networks() {
  static FilterCache* const cache = new FilterCache(int64_t{2} << 30, 64);
  return *cache;
}

FilterCache::Lookup FilterCache::MakeLookup(const PackKey& kind, absl::Span<const Tensor* const> filters, bool stable) {
  Lookup lookup;
  lookup.filters = filters;
  lookup.addresses.kind = lookup.contents.kind = kind;
  lookup.addresses.identity.fill(0);
  for (size_t i = 0; i < filters.size(); ++i) {
    lookup.addresses.identity[i] = reinterpret_cast<uintptr_t>(filters[i]->data());
    lookup.foreign[i] = !stable || IsForeign(*filters[i]);
    if (lookup.foreign[i]) lookup.foreign_hash = HashTensor(*filters[i], lookup.foreign_hash + i);
  }
  return lookup;
}

PackedFiltersPtr FilterCache::Get(const Chain& chain, Isa isa, const Buffers& buffers,
                                  absl::Span<const Tensor* const> filters, bool stable) {
  const Packed packed = GetAny(PackKeyOf(chain, isa), filters, stable, [&]() -> Packed {
    const PackedFiltersPtr made = PackedFilters::Make(chain, isa, buffers);
    return {made, made == nullptr ? 0 : made->bytes()};
  });
  return std::static_pointer_cast<const PackedFilters>(packed.filters);
}

std::shared_ptr<const PackedProgram> FilterCache::Get(
    const PackKey& kind, const Tensor& weights, bool stable,
    const std::function<std::shared_ptr<const PackedProgram>()>& make) {
  const Packed packed = GetAny(kind, {&weights}, stable, [&]() -> Packed {
    const std::shared_ptr<const PackedProgram> made = make();
    return {made, made == nullptr ? 0 : made->bytes()};
  });
  return std::static_pointer_cast<const PackedProgram>(packed.filters);
}

FilterCache::Packed FilterCache::GetAny(const PackKey& kind, absl::Span<const Tensor* const> filters, bool stable,
                                        const std::function<Packed()>& make) {
  Released released;
  Lookup lookup = MakeLookup(kind, filters, stable);
  Packed packed = FindByAddress(lookup, &released);
  if (packed.filters != nullptr) return packed;
  const uint64_t contents = HashAll(filters);
  lookup.contents.identity = {contents};
  packed = FindByContents(lookup, &released);
  if (packed.filters != nullptr || !MetBefore(lookup)) return packed;

  packed = make();
  // A foreign buffer may have been written into after it was hashed and before it was packed.
  if (packed.filters == nullptr || HashAll(filters) != contents) return packed;
  return Insert(lookup, packed, &released);
}

FilterCache::Packed FilterCache::FindByAddress(const Lookup& lookup, Released* released) {
  std::lock_guard<std::mutex> lock(mu_);
  // What a model that is gone has left is found here when another runs on.
  if (++lookups_ % 1024 == 0) SweepUnderLock(released);
  const auto found = slots_.find(lookup.addresses);
  if (found == slots_.end() || found->second.foreign_hash != lookup.foreign_hash) return {};
  ++stats_.hits;
  Use(found->second.entry);
  return found->second.entry->packed;
}

FilterCache::Packed FilterCache::FindByContents(const Lookup& lookup, Released* released) {
  std::lock_guard<std::mutex> lock(mu_);
  const auto found = by_contents_.find(lookup.contents);
  if (found == by_contents_.end()) return {};
  ++stats_.hits;
  Use(found->second);
  // Met elsewhere, so the entry is alive, but what it held may not be.
  DropDead(*found->second, released);
  if (SameAsLastTime(lookup)) Learn(lookup, found->second, released);
  return found->second->packed;
}

bool FilterCache::MetBefore(const Lookup& lookup) {
  std::lock_guard<std::mutex> lock(mu_);
  ++stats_.misses;
  ContentsNote& note = NoteOf(lookup.contents);
  if (note.met) return true;
  note.met = true;
  SameAsLastTime(lookup);
  return false;
}

FilterCache::Packed FilterCache::Insert(const Lookup& lookup, const Packed& packed, Released* released) {
  std::lock_guard<std::mutex> lock(mu_);
  SweepUnderLock(released);
  const auto found = by_contents_.find(lookup.contents);
  if (found != by_contents_.end()) return found->second->packed;  // another thread was faster
  if (packed.bytes > max_bytes_) return packed;
  entries_.push_front(Entry{lookup.contents, packed, lookups_});
  by_contents_[lookup.contents] = entries_.begin();
  stats_.bytes += packed.bytes;
  ++stats_.inserts;
  while (stats_.bytes > max_bytes_ || entries_.size() > max_entries_) Erase(std::prev(entries_.end()), released);
  if (SameAsLastTime(lookup)) Learn(lookup, entries_.begin(), released);
  return packed;
}

void FilterCache::Use(Entries::iterator entry) {
  entry->last_use = lookups_;
  entries_.splice(entries_.begin(), entries_, entry);
}

bool FilterCache::SameAsLastTime(const Lookup& lookup) {
  const size_t addresses = Hasher()(lookup.addresses);
  AddressNote& note = address_notes_[addresses % kNotes];
  const bool same = note.addresses == addresses && note.contents == lookup.contents.identity[0];
  note = {addresses, lookup.contents.identity[0]};
  return same;
}

FilterCache::ContentsNote& FilterCache::NoteOf(const ContentsKey& contents) {
  ContentsNote& note = contents_notes_[Hasher()(contents) % kNotes];
  if (note.contents != contents.identity[0]) note = ContentsNote{contents.identity[0], false, 0};
  return note;
}

void FilterCache::Learn(const Lookup& lookup, Entries::iterator entry, Released* released) {
  if (NoteOf(lookup.contents).vain_holds >= kMostVainHolds) return;
  const auto known = slots_.find(lookup.addresses);
  if (known != slots_.end()) Forget(known, released);
  if (slots_.size() >= 2 * max_entries_) {
    for (auto slot = slots_.begin(); slot != slots_.end();) slot = Forget(slot, released);
  }
  Slot& slot = slots_[lookup.addresses];
  slot.entry = entry;
  slot.foreign_hash = lookup.foreign_hash;
  for (size_t i = 0; i < lookup.filters.size(); ++i) {
    if (!lookup.foreign[i]) slot.held.push_back(*lookup.filters[i]);
  }
}

FilterCache::Slots::iterator FilterCache::Forget(Slots::iterator slot, Released* released) {
  for (Tensor& tensor : slot->second.held) released->tensors.push_back(std::move(tensor));
  return slots_.erase(slot);
}

void FilterCache::Erase(Entries::iterator entry, Released* released) {
  for (auto slot = slots_.begin(); slot != slots_.end();) {
    slot = slot->second.entry == entry ? Forget(slot, released) : std::next(slot);
  }
  by_contents_.erase(entry->contents);
  stats_.bytes -= entry->packed.bytes;
  released->entries.splice(released->entries.end(), entries_, entry);
}

bool FilterCache::IsDead(const Slot& slot) {
  // A new reference to a buffer is made from another, so a count of one does not rise again.
  return std::any_of(slot.held.begin(), slot.held.end(), [](const Tensor& t) { return t.RefCountIsOne(); });
}

void FilterCache::DropDead(const Entry& of, Released* released) {
  for (auto slot = slots_.begin(); slot != slots_.end();) {
    const bool dead = &*slot->second.entry == &of && IsDead(slot->second);
    if (dead) ++NoteOf(of.contents).vain_holds;
    slot = dead ? Forget(slot, released) : std::next(slot);
  }
}

void FilterCache::SweepUnderLock(Released* released) {
  const int64_t long_ago = lookups_ - kIdleLookups;
  for (const auto& slot : slots_) {
    if (!IsDead(slot.second)) continue;
    slot.second.entry->last_use = long_ago;
    ++NoteOf(slot.second.entry->contents).vain_holds;
  }
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    const auto next = std::next(entry);
    if (entry->last_use <= long_ago) Erase(entry, released);
    entry = next;
  }
}

void FilterCache::Sweep() {
  Released released;
  std::lock_guard<std::mutex> lock(mu_);
  SweepUnderLock(&released);
}

void FilterCache::Clear() {
  Released released;
  std::lock_guard<std::mutex> lock(mu_);
  while (!entries_.empty()) Erase(entries_.begin(), &released);
}

FilterCache::Stats FilterCache::stats() const {
  std::lock_guard<std::mutex> lock(mu_);
  Stats stats = stats_;
  stats.entries = entries_.size();
  for (const auto& item : slots_) stats.held += item.second.held.size();
  return stats;
}

}  // namespace dwsconv
