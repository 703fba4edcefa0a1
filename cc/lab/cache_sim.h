// Caches of one core, simulated: what a stream of loads and stores moves between them, by array.
//
// Three write-back levels, least recently used first out, a line in whichever of them it falls. A store to a line that
// is not there reads it first, as CPUs do; a streaming store goes around all levels. Prefetchers, address translation
// and other cores are left out. Arrays are moved to places of their own, and their pages get frames in the order in
// which they are first touched; of what has no name, lines do. So the result does not depend on what the allocator did.
#ifndef DWSCONV_LAB_CACHE_SIM_H_
#define DWSCONV_LAB_CACHE_SIM_H_

#include <array>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace dwsconv {

constexpr int kLineBits = 6, kPageBits = 12;

// Whose bytes they are. kZ is all that has no other name: the scratch and, at some bytes a tile, the stack.
enum class Region : int { kX = 0, kFilters, kY, kZ };
constexpr int kRegions = 4;

// Bytes by Region.
struct Moved {
  std::array<int64_t, kRegions> read{}, written{};
};

struct CacheSize {
  int64_t bytes;
  int ways;
};

// One level. Lines are numbers; each set keeps its lines in the order of their last use.
class CacheLevel {
 public:
  explicit CacheLevel(CacheSize size);

  // Whether the line is here; if so it is the last used, and dirty if `write`.
  bool Find(uint64_t line, bool write) {
    uint64_t* const set = Set(line);
    for (int way = 0; way < ways_; ++way) {
      if (set[way] >> 1 != line + 1) continue;
      const uint64_t found = set[way] | (write ? 1 : 0);
      for (; way > 0; --way) set[way] = set[way - 1];
      set[0] = found;
      return true;
    }
    return false;
  }

  // Puts a line in that is not here. Returns whether another had to leave: *out, and whether it was dirty.
  bool Insert(uint64_t line, bool dirty, uint64_t* out, bool* out_dirty);

  // Takes the line out. Returns whether it was here and dirty.
  bool Remove(uint64_t line);

  // Every dirty line, after which all are clean.
  std::vector<uint64_t> Clean();

 private:
  uint64_t* Set(uint64_t line) { return &lines_[line % sets_ * static_cast<uint64_t>(ways_)]; }

  uint64_t sets_;
  int ways_;
  std::vector<uint64_t> lines_;  // (line + 1) * 2 + dirty; 0 for none
};

class CacheSim {
 public:
  CacheSim(CacheSize l1d, CacheSize l2, CacheSize l3) : l1d_(l1d), l2_(l2), l3_(l3) {}

  // [begin, begin + bytes) is of this region.
  void Name(Region region, const void* begin, int64_t bytes);

  void Read(const void* p, int64_t bytes) { Touch(p, bytes, false); }
  void Write(const void* p, int64_t bytes) { Touch(p, bytes, true); }
  void Stream(const void* p, int64_t bytes);  // around the caches
  void Fetch(const void* p);                  // into L2, ahead of its use

  // What is dirty goes to memory: the end of the count.
  void Finish();

  const Moved& beyond_l2() const { return beyond_l2_; }  // between L2 and what lies behind it
  const Moved& memory() const { return memory_; }        // between L3 and memory

 private:
  struct Page {
    uint64_t number = ~uint64_t{0}, frame = 0;
  };
  struct Named {
    Region region;
    uintptr_t begin, bytes;
  };
  static constexpr int kRegionBits = 48;  // above them a place tells its region

  // Not inline: the bodies unroll hundreds of loads, and the compiler would take minutes over them.
  __attribute__((noinline)) void Touch(const void* p, int64_t bytes, bool write) {
    const uint64_t place = PlaceOf(p);
    for (uint64_t line = place >> kLineBits; line <= (place + static_cast<uint64_t>(bytes) - 1) >> kLineBits; ++line) {
      const uint64_t at = FrameOf(line);
      if (!l1d_.Find(at, write)) Miss(at, write);
    }
  }
  // An address that does not depend on where its array lies.
  uint64_t PlaceOf(const void* p) const {
    const auto at = reinterpret_cast<uintptr_t>(p);
    for (const Named& named : named_) {
      const uint64_t offset = at - named.begin;
      if (offset < named.bytes) return static_cast<uint64_t>(named.region) << kRegionBits | offset;
    }
    return static_cast<uint64_t>(Region::kZ) << kRegionBits | at;
  }
  // A line of places to one of frames. Where in a page the scratch begins is the allocator's choice, and would decide
  // which of its lines share a set with which others: each of its lines gets a place as it is first touched.
  uint64_t FrameOf(uint64_t line) {
    if (line >> (kRegionBits - kLineBits) == static_cast<uint64_t>(Region::kZ)) {
      const Page& known = recent_lines_[line % recent_lines_.size()];
      return known.number == line ? known.frame : FindLine(line);
    }
    const uint64_t page = line >> (kPageBits - kLineBits);
    const Page& known = recent_[page % recent_.size()];
    const uint64_t frame = known.number == page ? known.frame : FindFrame(page);
    return frame << (kPageBits - kLineBits) | (line & ((1 << (kPageBits - kLineBits)) - 1));
  }
  uint64_t FindFrame(uint64_t page);
  uint64_t FindLine(uint64_t line);
  Region RegionOf(uint64_t line) const { return regions_[line >> (kPageBits - kLineBits)]; }

  void Miss(uint64_t line, bool write);
  void ReadIntoL2(uint64_t line);
  void PutIntoL2(uint64_t line, bool dirty);
  void PutIntoL3(uint64_t line, bool dirty);

  CacheLevel l1d_, l2_, l3_;
  std::array<Page, 64> recent_;
  std::array<Page, 4096> recent_lines_;            // a line and its line of frames
  std::unordered_map<uint64_t, uint64_t> frames_;  // by page
  std::unordered_map<uint64_t, uint64_t> lines_;   // by line of what has no name
  uint64_t next_line_ = 0;                         // of frames, for the next such line
  std::vector<Region> regions_;                    // by frame
  std::vector<Named> named_;
  Moved beyond_l2_, memory_;
};

// Where kernels that only count report to; one simulation at a time (cc/lab/traffic.cc holds a lock).
extern CacheSim* counting_caches;

}  // namespace dwsconv

#endif  // DWSCONV_LAB_CACHE_SIM_H_
