#include "cc/lab/cache_sim.h"

#include <algorithm>

namespace dwsconv {
namespace {

constexpr int64_t kLineBytes = int64_t{1} << kLineBits;

int64_t& Of(std::array<int64_t, kRegions>& bytes, Region region) { return bytes[static_cast<size_t>(region)]; }

}  // namespace

CacheSim* counting_caches = nullptr;

CacheLevel::CacheLevel(CacheSize size)
    : sets_(static_cast<uint64_t>(std::max<int64_t>(1, size.bytes / kLineBytes / size.ways))),
      ways_(size.ways),
      lines_(sets_ * static_cast<uint64_t>(size.ways), 0) {}

bool CacheLevel::Insert(uint64_t line, bool dirty, uint64_t* out, bool* out_dirty) {
  uint64_t* const set = Set(line);
  const uint64_t last = set[ways_ - 1];
  std::copy_backward(set, set + ways_ - 1, set + ways_);
  set[0] = ((line + 1) << 1) | (dirty ? 1 : 0);
  *out = (last >> 1) - 1;
  *out_dirty = (last & 1) != 0;
  return last != 0;
}

bool CacheLevel::Remove(uint64_t line) {
  uint64_t* const set = Set(line);
  uint64_t* const at = std::find_if(set, set + ways_, [&](uint64_t entry) { return entry >> 1 == line + 1; });
  if (at == set + ways_) return false;
  const bool dirty = (*at & 1) != 0;
  std::copy(at + 1, set + ways_, at);
  set[ways_ - 1] = 0;
  return dirty;
}

std::vector<uint64_t> CacheLevel::Clean() {
  std::vector<uint64_t> dirty;
  for (uint64_t& entry : lines_) {
    if ((entry & 1) != 0) dirty.push_back((entry >> 1) - 1);
    entry &= ~uint64_t{1};
  }
  return dirty;
}

void CacheSim::Name(Region region, const void* begin, int64_t bytes) {
  // From the line on that it begins in.
  const auto first = reinterpret_cast<uintptr_t>(begin) & ~static_cast<uintptr_t>(kLineBytes - 1);
  named_.push_back(Named{region, first, reinterpret_cast<uintptr_t>(begin) + static_cast<uintptr_t>(bytes) - first});
}

uint64_t CacheSim::FindFrame(uint64_t page) {
  const auto found = frames_.emplace(page, regions_.size());
  if (found.second) regions_.push_back(static_cast<Region>(page >> (kRegionBits - kPageBits)));
  recent_[page % recent_.size()] = Page{page, found.first->second};
  return found.first->second;
}

uint64_t CacheSim::FindLine(uint64_t line) {
  constexpr uint64_t kLinesPerPage = uint64_t{1} << (kPageBits - kLineBits);
  const auto found = lines_.emplace(line, next_line_);
  if (found.second) {
    if (next_line_ % kLinesPerPage == 0) {  // the first of a page of such lines
      next_line_ = regions_.size() * kLinesPerPage;
      found.first->second = next_line_;
      regions_.push_back(Region::kZ);
    }
    ++next_line_;
  }
  recent_lines_[line % recent_lines_.size()] = Page{line, found.first->second};
  return found.first->second;
}

void CacheSim::Miss(uint64_t line, bool write) {
  if (!l2_.Find(line, false)) ReadIntoL2(line);
  uint64_t out;
  bool dirty;
  if (!l1d_.Insert(line, write, &out, &dirty) || !dirty) return;
  if (!l2_.Find(out, true)) PutIntoL2(out, true);
}

void CacheSim::ReadIntoL2(uint64_t line) {
  Of(beyond_l2_.read, RegionOf(line)) += kLineBytes;
  if (!l3_.Find(line, false)) {
    Of(memory_.read, RegionOf(line)) += kLineBytes;
    PutIntoL3(line, false);
  }
  PutIntoL2(line, false);
}

void CacheSim::PutIntoL2(uint64_t line, bool dirty) {
  uint64_t out;
  bool out_dirty;
  if (!l2_.Insert(line, dirty, &out, &out_dirty) || !out_dirty) return;
  Of(beyond_l2_.written, RegionOf(out)) += kLineBytes;
  if (!l3_.Find(out, true)) PutIntoL3(out, true);
}

void CacheSim::PutIntoL3(uint64_t line, bool dirty) {
  uint64_t out;
  bool out_dirty;
  if (l3_.Insert(line, dirty, &out, &out_dirty) && out_dirty) Of(memory_.written, RegionOf(out)) += kLineBytes;
}

void CacheSim::Stream(const void* p, int64_t bytes) {
  const uint64_t line = FrameOf(PlaceOf(p) >> kLineBits);
  for (CacheLevel* level : {&l1d_, &l2_, &l3_}) level->Remove(line);
  // Stores to one line are combined before they leave, so parts add up to lines.
  Of(beyond_l2_.written, RegionOf(line)) += bytes;
  Of(memory_.written, RegionOf(line)) += bytes;
}

void CacheSim::Fetch(const void* p) {
  const uint64_t line = FrameOf(PlaceOf(p) >> kLineBits);
  if (!l1d_.Find(line, false) && !l2_.Find(line, false)) ReadIntoL2(line);
}

void CacheSim::Finish() {
  for (uint64_t line : l1d_.Clean()) {
    if (!l2_.Find(line, true)) PutIntoL2(line, true);
  }
  for (uint64_t line : l2_.Clean()) {
    Of(beyond_l2_.written, RegionOf(line)) += kLineBytes;
    if (!l3_.Find(line, true)) PutIntoL3(line, true);
  }
  for (uint64_t line : l3_.Clean()) Of(memory_.written, RegionOf(line)) += kLineBytes;
}

}  // namespace dwsconv
