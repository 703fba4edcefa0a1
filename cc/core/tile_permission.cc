#include "cc/core/tile_permission.h"

#include <cerrno>
#include <cstring>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace dwsconv {
namespace {

constexpr int kTileConfigState = 17, kTileDataState = 18;  // bits of XCR0

#if defined(__x86_64__) && defined(__linux__)
int Request(int state) {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM of asm/prctl.h, which older headers lack
  return syscall(SYS_arch_prctl, kRequestPermission, state) == 0 ? 0 : errno;
}

uint64_t SavedStates() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}
#endif

}  // namespace

TileSystem ThisTileSystem() {
  TileSystem system;
#if defined(__x86_64__) && defined(__linux__)
  constexpr unsigned kOsxsave = 1u << 27, kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) && (c & kOsxsave) != 0) system.saved = SavedStates();
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
    system.tiles = (d & kAmxTile) != 0;
    system.bf16 = (d & kAmxBf16) != 0;
  }
  system.request = Request;
#endif
  return system;
}

std::string AskForTiles(const TileSystem& system) {
  constexpr uint64_t kStates = uint64_t{1} << kTileConfigState | uint64_t{1} << kTileDataState;
  if (!system.tiles || !system.bf16) return "the CPU has no AMX tiles for bfloat16";
  if ((system.saved & kStates) != kStates) return "the system does not save AMX tiles";
  const int error = system.request == nullptr ? ENOSYS : system.request(kTileDataState);
  return error == 0 ? "" : std::string("the system refused AMX tiles: ") + std::strerror(error);
}

}  // namespace dwsconv
