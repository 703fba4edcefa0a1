#include "cuda/testing/shim_hopper.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "cuda/device/hopper.cuh"
#include "cuda/testing/shim_state.h"

namespace dwsconv {
namespace cuda {
namespace shim {
namespace {

constexpr uint32_t kSharedBegin = 1024 + 3 * 128;
constexpr uint32_t kMostAddress = 1u << 18;  // of a descriptor

struct Phases {
  int arrivals, pending;
  int64_t bytes, phase;
  bool fenced;
};

struct BulkUnderWay {
  std::function<void()> write;
  const uint64_t* barrier;
  int64_t phase, bytes;
};

std::map<const uint64_t*, Phases> barriers;
std::vector<BulkUnderWay> under_way;
std::mt19937 random_copy;

// Counts that a barrier's phase ends where it does.
void End(Phases* p) {
  if (p->pending > 0 || p->bytes > 0) return;
  if (p->bytes < 0) return Report("a phase got more bytes than it expects");
  ++p->phase;
  p->pending = p->arrivals;
}

Phases* At(uint64_t* barrier) {
  const auto found = barriers.find(barrier);
  if (found == barriers.end()) Fail("a barrier that nobody has made");
  if (!found->second.fenced) Fail("a barrier that others may not see yet: FencePhases");
  return &found->second;
}

void Deliver(size_t i) {
  const BulkUnderWay copy = std::move(under_way[i]);
  under_way.erase(under_way.begin() + static_cast<std::ptrdiff_t>(i));
  Phases* const p = &barriers[copy.barrier];
  if (p->phase != copy.phase) return Report("bytes that come when their phase has ended: it expects too few");
  copy.write();
  p->bytes -= copy.bytes;
  End(p);
}

void StartBulk(int64_t bytes, uint64_t* barrier, std::function<void()> write) {
  under_way.push_back({std::move(write), barrier, At(barrier)->phase, bytes});
  if (OrderSeed() % 4 == 2) Deliver(under_way.size() - 1);  // at once
}

void CheckTarget(const void* shared, int64_t bytes, uint32_t alignment) {
  if (!IsShared(shared, bytes)) Fail("a bulk copy to outside shared memory");
  if (SharedAddress(shared) % alignment != 0) {
    Fail("a bulk copy to an address that is not a multiple of " + std::to_string(alignment));
  }
}

// Where a byte of a permuted matrix lies: bits 4 to 6 of its address are changed by bits 7 to 9.
uint32_t Permuted(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

// Bytes of an element that is multiplied, and how many of the sum's index a product takes: 32 bytes.
uint32_t BytesOf(Product product) { return product == Product::kTf32 ? 4 : 2; }
int DepthOf(Product product) { return static_cast<int>(32 / BytesOf(product)); }

// A matrix as its descriptor says it is.
struct Described {
  uint32_t start, leading, stride;
  Swizzle swizzle;

  explicit Described(uint64_t bits)
      : start(Field(bits)), leading(Field(bits >> 16)), stride(Field(bits >> 32)), swizzle(Swizzle(bits >> 62)) {
    if (bits >> 62 > 1) Fail("a way of permuting that no kernel here has");
    // The pattern begins where addresses say, not where the matrix does.
    if (swizzle == Swizzle::k128 && start / 128 % 8 != 0) Fail("a matrix that begins within its pattern");
  }
  static uint32_t Field(uint64_t bits) { return static_cast<uint32_t>(bits & 0x3fff) << 4; }

  float operator()(int outer, int depth, Major major, Product product) const {
    const uint32_t o = static_cast<uint32_t>(outer), k = static_cast<uint32_t>(depth);
    const bool permuted = swizzle == Swizzle::k128;
    const uint32_t eight = permuted ? 128 : 16;  // from one of eight to the next
    const uint32_t bytes = BytesOf(product);
    uint32_t at = 0;
    if (major == Major::kDepth) {
      at = o % 8 * eight + o / 8 * stride + k * bytes % 16 + k * bytes / 16 * (permuted ? 16 : leading);
    } else if (permuted) {
      at = o % 64 * 2 + o / 64 * leading + k % 8 * eight + k / 8 * stride;
    } else {
      at = o % 8 * 2 + o / 8 * stride + k % 8 * eight + k / 8 * leading;
    }
    const uint32_t address = permuted ? Permuted(start + at) : start + at;
    const char* const from = Shared() + (static_cast<int64_t>(address) - kSharedBegin);
    if (!IsShared(from, bytes)) Fail("a matrix that reaches outside shared memory");
    uint32_t bits = 0;
    memcpy(&bits, from, bytes);
    if (product != Product::kTf32) return WidenHalf(bits, 0, product);
    bits &= ~0x1fffu;  // what TF32 has no bits for is dropped
    float value;
    memcpy(&value, &bits, 4);
    return value;
  }
};

// A product of a warpgroup, as one of its warps has it.
struct Pending {
  bool registers, add;
  uint32_t words[kWarp][4];
  uint64_t a, b;
  Major a_major, b_major;
  Product product;
  float* sums[kWarp];
};

// The sums of a lane while they are written, in the order of the instruction.
struct Kept {
  float* at;
  float values[kGroupColumns / 8][4];
  int products;
};

struct Warp {
  std::vector<std::vector<Pending>> groups;
  std::vector<Pending> open;
  std::vector<std::string> done;  // what it has multiplied, which the others of its warpgroup must have, too
};

std::vector<Warp> warps;
std::vector<std::vector<Kept>> kept;  // by thread
std::vector<bool> fenced;             // by thread

Warp& MyWarp() { return warps[Current() / kWarp]; }

float* SumAt(float* sums, int tile, int e) { return sums + tile % 8 / 2 * 16 + (tile % 2 * 2 + tile / 8) * 4 + e; }

Kept* Find(int thread, float* sums) {
  for (Kept& one : kept[thread]) {
    if (one.at == sums) return &one;
  }
  return nullptr;
}

void Compute(const Pending& p, int warp) {
  float a[16][16], b[16][kGroupColumns];
  const int first_row = warp % 4 * 16, depth = DepthOf(p.product);
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < depth; ++k) {
      a[row][k] = p.registers ? WidenHalf(p.words[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], k % 2, p.product)
                              : Described(p.a)(first_row + row, k, p.a_major, p.product);
    }
  }
  const Described matrix(p.b);
  for (int k = 0; k < depth; ++k) {
    for (int column = 0; column < kGroupColumns; ++column) b[k][column] = matrix(column, k, p.b_major, p.product);
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    Kept* const to = Find(warp * kWarp + lane, p.sums[lane]);
    for (int tile = 0; tile < kGroupColumns / 8; ++tile) {
      for (int e = 0; e < 4; ++e) {
        const int row = lane / 4 + e / 2 * 8, column = tile * 8 + lane % 4 * 2 + e % 2;
        double sum = p.add ? to->values[tile][e] : 0;
        for (int k = 0; k < depth; ++k) sum += static_cast<double>(a[row][k]) * b[k][column];
        to->values[tile][e] = static_cast<float>(sum);
      }
    }
    --to->products;
  }
}

}  // namespace

uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(static_cast<const char*>(shared) - Shared()) + kSharedBegin;
}

void BeginHopper() {
  barriers.clear();
  under_way.clear();
  random_copy.seed(OrderSeed());
  warps.assign(Threads() / kWarp, {});
  kept.assign(Threads(), {});
  fenced.assign(Threads(), false);
}

bool DeliverCopy() {
  if (under_way.empty()) return false;
  Deliver(OrderSeed() > 1 ? random_copy() % under_way.size() : OrderSeed() == 1 ? under_way.size() - 1 : 0);
  return true;
}

void EndHopper() {
  if (!under_way.empty()) return Report("a block that ends before its bulk copies have come");
  for (size_t warp = 0; warp < warps.size(); ++warp) {
    if (!warps[warp].groups.empty() || !warps[warp].open.empty()) return Report("products that nobody waits for");
    if (warps[warp].done != warps[warp / 4 * 4].done) {
      return Report("warps of a warpgroup that multiply different things");
    }
  }
  for (const auto& barrier : barriers) {
    if (barrier.second.bytes != 0) return Report("a barrier that expects bytes which nobody sends, at the end");
  }
}

void InitPhases(uint64_t* barrier, int arrivals) {
  if (!IsShared(barrier, 8) || reinterpret_cast<uintptr_t>(barrier) % 8 != 0 || arrivals < 1) {
    Fail("a barrier outside shared memory, askew, or for nobody");
  }
  barriers[barrier] = {arrivals, arrivals, 0, 0, false};
}

void FencePhases() {
  for (auto& barrier : barriers) barrier.second.fenced = true;
}

void Arrive(uint64_t* barrier, int64_t bytes) {
  Phases* const p = At(barrier);
  if (p->pending == 0) Fail("an arrival that its phase has no place for");
  p->bytes += bytes;
  --p->pending;
  End(p);
}

void WaitForPhase(uint64_t* barrier, int parity) {
  Phases* const p = At(barrier);
  WaitUntil([p, parity] { return p->phase % 2 != parity; });
}

void BulkCopy(void* shared, const void* global, int bytes, uint64_t* barrier) {
  if (bytes <= 0 || bytes % 16 != 0) Fail("a bulk copy of a number of bytes that is not a multiple of 16");
  CheckTarget(shared, bytes, 16);
  if (reinterpret_cast<uintptr_t>(global) % 16 != 0) {
    Fail("a bulk copy from an address that is not a multiple of 16");
  }
  for (int at = 0; at < bytes; at += 16) CountRead(static_cast<const char*>(global) + at);
  memset(shared, 0xff, bytes);
  StartBulk(bytes, barrier, [=] { memcpy(shared, global, bytes); });
}

namespace {

// What the shim's tensor maps hold.
struct Map {
  const char* matrix;
  int64_t rows, row_bytes;
  int tile_rows, element_bytes;
};
static_assert(sizeof(Map) <= sizeof(TensorMap), "it has room");

}  // namespace

void BulkTile(void* shared, const TensorMap& tensor_map, int64_t row, int column, uint64_t* barrier) {
  Map map;
  memcpy(&map, &tensor_map, sizeof(map));
  const int64_t bytes = int64_t{map.tile_rows} * kMapRowBytes;
  CheckTarget(shared, bytes, 1024);
  if (row < 0 || column < 0 || row > INT32_MAX) Fail("a tile that begins where no tile does");
  // Calls f(where it lies, from where or null) for each 16 bytes.
  const auto for_each = [=](const auto& f) {
    for (int64_t r = 0; r < map.tile_rows; ++r) {
      for (int64_t c = 0; c < kMapRowBytes; c += 16) {
        const int64_t from = int64_t{column} * map.element_bytes + c;
        const bool inside = row + r < map.rows && from < map.row_bytes;
        const uint32_t at = Permuted(SharedAddress(shared) + static_cast<uint32_t>(r * kMapRowBytes + c));
        f(Shared() + (at - kSharedBegin), inside ? map.matrix + (row + r) * map.row_bytes + from : nullptr);
      }
    }
  };
  for_each([](char*, const char* from) {
    if (from != nullptr) CountRead(from);
  });
  memset(shared, 0xff, bytes);
  StartBulk(bytes, barrier, [for_each] {
    for_each([](char* to, const char* from) {
      if (from != nullptr) {
        memcpy(to, from, 16);
      } else {
        memset(to, 0, 16);
      }
    });
  });
}

uint64_t MatrixAt(const void* shared, int leading_bytes, int stride_bytes, Swizzle swizzle) {
  const uint32_t fields[3] = {SharedAddress(shared), static_cast<uint32_t>(leading_bytes),
                              static_cast<uint32_t>(stride_bytes)};
  uint64_t bits = static_cast<uint64_t>(swizzle) << 62;
  for (int i = 0; i < 3; ++i) {
    if (fields[i] % 16 != 0 || fields[i] >= kMostAddress) Fail("a matrix that no descriptor describes");
    bits |= static_cast<uint64_t>(fields[i] >> 4) << 16 * i;
  }
  return bits;
}

void FenceProducts() { fenced[Current()] = true; }

void MultiplyGroup(float* sums, const GroupProduct& product) {
  const int thread = Current();
  if (!fenced[thread]) Fail("a product without a fence since its registers were touched: FenceProducts");
  Kept* mine = Find(thread, sums);
  if (mine == nullptr) {
    kept[thread].push_back({sums, {}, 0});
    mine = &kept[thread].back();
    for (int tile = 0; tile < kGroupColumns / 8; ++tile) {
      for (int e = 0; e < 4; ++e) {
        mine->values[tile][e] = *SumAt(sums, tile, e);
        memset(SumAt(sums, tile, e), 0xff, 4);  // NaN, until somebody waits for it
      }
    }
  }
  ++mine->products;
  Deposit deposit{product.registers != nullptr ? "wgmma from registers" : "wgmma", {}, sums};
  if (product.registers != nullptr) memcpy(deposit.words, product.registers, 16);
  const Deposit* const warp = Exchange(deposit);
  if (thread % kWarp != 0) return;
  Pending pending{product.registers != nullptr,
                  product.add,
                  {},
                  product.a,
                  product.b,
                  product.a_major,
                  product.b_major,
                  product.product,
                  {}};
  for (int lane = 0; lane < kWarp; ++lane) {
    memcpy(pending.words[lane], warp[lane].words, 16);
    pending.sums[lane] = static_cast<float*>(const_cast<void*>(warp[lane].address));
  }
  MyWarp().done.push_back(std::to_string(product.a) + " " + std::to_string(product.b) + (product.add ? " +" : ""));
  MyWarp().open.push_back(pending);
}

void CommitProducts() {
  Exchange({"wgmma.commit_group", {}, nullptr});
  if (Current() % kWarp != 0) return;
  MyWarp().groups.push_back(std::move(MyWarp().open));
  MyWarp().open.clear();
}

void WaitForProducts(int pending) {
  Exchange({pending == 0 ? "wgmma.wait_group 0" : "wgmma.wait_group 1", {}, nullptr});
  const int thread = Current();
  if (thread % kWarp == 0) {
    auto& groups = MyWarp().groups;
    while (static_cast<int>(groups.size()) > pending) {
      for (const Pending& one : groups.front()) Compute(one, thread / kWarp);
      groups.erase(groups.begin());
    }
  }
  Exchange({"wgmma.wait_group", {}, nullptr});
  auto& mine = kept[thread];
  for (Kept& one : mine) {
    if (one.products > 0) continue;
    for (int tile = 0; tile < kGroupColumns / 8; ++tile) {
      for (int e = 0; e < 4; ++e) *SumAt(one.at, tile, e) = one.values[tile][e];
    }
    fenced[thread] = false;
  }
  mine.erase(std::remove_if(mine.begin(), mine.end(), [](const Kept& one) { return one.products == 0; }), mine.end());
}

}  // namespace shim

const char* MakeTensorMap(const void* matrix, int64_t rows, int64_t columns, int tile_rows, TensorMap* map,
                          int element_bytes) {
  // What cuTensorMapEncodeTiled asks for.
  if (reinterpret_cast<uintptr_t>(matrix) % 16 != 0 || columns * element_bytes % 16 != 0 || rows < 1 || columns < 1 ||
      rows > int64_t{1} << 32 || columns > int64_t{1} << 32 || tile_rows < 1 || tile_rows > 256) {
    return "cuTensorMapEncodeTiled refuses a matrix";
  }
  const shim::Map made{static_cast<const char*>(matrix), rows, columns * element_bytes, tile_rows, element_bytes};
  memcpy(map->bytes, &made, sizeof(made));
  return "";
}

}  // namespace cuda
}  // namespace dwsconv
