#include "cc/core/cpu_features.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <sstream>

#include "cc/core/tile_permission.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace dwsconv {
namespace {

int AllowedCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  return online > 0 ? static_cast<int>(online) : 1;
}

// A data or unified cache as Linux describes it, 0 where it does not. Preferred to sysconf, which reads CPUID by itself
// and was seen to answer ten times the truth for the third level of a virtual machine.
int64_t CacheBytesFromSysfs(int level) {
  for (int index = 0; index < 8; ++index) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    std::ifstream level_file(folder + "level"), type_file(folder + "type"), size_file(folder + "size");
    int found = 0;
    std::string type, unit;
    int64_t size = 0;
    if (!(level_file >> found) || !(type_file >> type) || !(size_file >> size)) continue;
    if (found != level || type == "Instruction" || size <= 0 || size > (int64_t{1} << 40)) continue;
    size_file >> unit;
    return size * (unit == "K" ? 1 << 10 : unit == "M" ? 1 << 20 : 1);
  }
  return 0;
}

int64_t CacheBytes(int level, int name) {
  const int64_t bytes = CacheBytesFromSysfs(level);
  return bytes > 0 ? bytes : std::max<int64_t>(sysconf(name), 0);
}

// "48K", "2M" or "32768" in bytes; false where it is none of these.
bool ParseBytes(const std::string& text, int64_t* bytes) {
  char* end = nullptr;
  const long long number = std::strtoll(text.c_str(), &end, 10);
  const std::string unit = end;
  if (end == text.c_str() || number < 0 || number > (1 << 30) || (unit != "" && unit != "K" && unit != "M"))
    return false;
  *bytes = number * (unit == "K" ? 1 << 10 : unit == "M" ? 1 << 20 : 1);
  return true;
}

// Of stores around the caches. A Xeon of the fifth generation with 260 MB of L3 took 0.4 to 0.93 of the time with them
// from 96 MB on, and 0.94 to 1.08 below 80 MB.
constexpr double kIntelStreamShare = 1.0 / 3;
constexpr double kNever = std::numeric_limits<double>::infinity();

void TakeTiles(CpuFeatures* f, const char* why) {
  f->tiles = TileUnit::kNone;
  f->no_tiles = why;
}

// Replaces facts of this machine by those that DWSCONV_TEST_MACHINE gives, such as "l2=2M,l3=480M,cores=16,isa=avx2".
// Returns "" or what is wrong with it. Instruction sets can be taken away, not added, but for the model of tiles.
std::string Pretend(const std::string& facts, CpuFeatures* f) {
  std::istringstream all(facts);
  for (std::string fact; std::getline(all, fact, ',');) {
    const size_t equals = fact.find('=');
    const std::string name = fact.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : fact.substr(equals + 1);
    int64_t number = 0;
    Isa isa;
    bool good = ParseBytes(value, &number);
    if (name == "l1d" && good) {
      f->l1d_bytes = number;
    } else if (name == "l2" && good) {
      f->l2_bytes = number;
    } else if (name == "l3" && good) {
      f->l3_bytes = number;
    } else if (name == "cores" && good && number >= 1 && number <= 1024) {
      f->cores = static_cast<int>(number);
    } else if (name == "bf16" && value == "0") {
      f->avx512_bf16 = false;
      TakeTiles(f, "DWSCONV_TEST_MACHINE says bf16=0");
    } else if (name == "bf16" && (value == "dots" || value == "floats")) {
      f->dots = value == "dots" ? CpuFeatures::Dots::kAlways : CpuFeatures::Dots::kNever;
    } else if (name == "tiles" && value == "none") {
      TakeTiles(f, "DWSCONV_TEST_MACHINE says tiles=none");
    } else if (name == "tiles" && value == "refused") {
      f->no_tiles = AskForTiles({true, true, ~uint64_t{0}, [](int) { return EPERM; }});
      f->tiles = TileUnit::kNone;
    } else if (name == "tiles" && value == "model") {
      f->tiles = TileUnit::kModel;
    } else if (name == "stores" && (value == "cached" || value == "streamed")) {
      const bool streamed = value == "streamed";
      f->stream_share = streamed ? CpuFeatures().stream_share : kNever;
      f->backward_stream_share = streamed ? CpuFeatures().backward_stream_share : kNever;
    } else if (name == "division" && (value == "fast" || value == "slow")) {
      f->fast_division = value == "fast";
    } else if (name == "isa" && ParseIsa(value, &isa)) {
      f->avx512 = f->avx512 && isa >= Isa::kAvx512;
      f->avx512_bf16 = f->avx512_bf16 && f->avx512;
      f->avx2 = f->avx2 && isa >= Isa::kAvx2;
      if (isa < Isa::kAmx) TakeTiles(f, "DWSCONV_TEST_MACHINE leaves AMX out");
    } else {
      return "DWSCONV_TEST_MACHINE holds \"" + fact +
             "\"; it must be a list, with commas between, of l1d=, l2= and l3= with a size such as 48K or 2M, cores= "
             "with 1 to 1024, isa= with generic, avx2, avx512 or amx, bf16= with 0, dots or floats, tiles= with none, "
             "refused or model, stores= with cached or streamed, and division= with fast or slow";
    }
  }
  return "";
}

// What is wrong with DWSCONV_TEST_MACHINE; "" where nothing is. Written by Probe alone.
std::string& TestMachineError() {
  static std::string error;
  return error;
}

#if defined(__x86_64__)
bool IsMadeBy(unsigned ebx, unsigned ecx, unsigned edx) {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(0, &a, &b, &c, &d) && b == ebx && c == ecx && d == edx;
}

bool IsIntel() { return IsMadeBy(signature_INTEL_ebx, signature_INTEL_ecx, signature_INTEL_edx); }

// AMD counts families up: 25 is Zen 3 and 4, 26 Zen 5.
bool IsAmdSince(unsigned family) {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!IsMadeBy(signature_AMD_ebx, signature_AMD_ecx, signature_AMD_edx) || !__get_cpuid(1, &a, &b, &c, &d)) {
    return false;
  }
  const unsigned base = a >> 8 & 0xf, extended = a >> 20 & 0xff;
  return base + (base == 0xf ? extended : 0) >= family;
}
#else
bool IsIntel() { return false; }
bool IsAmdSince(unsigned) { return false; }
#endif

CpuFeatures Probe() {
  CpuFeatures f;
  f.cores = AllowedCores();
  f.fast_division = IsAmdSince(26);
  if (IsIntel()) f.stream_share = f.backward_stream_share = kIntelStreamShare;
#ifdef _SC_LEVEL1_DCACHE_SIZE
  f.l1d_bytes = CacheBytes(1, _SC_LEVEL1_DCACHE_SIZE);
  f.l2_bytes = CacheBytes(2, _SC_LEVEL2_CACHE_SIZE);
  f.l3_bytes = CacheBytes(3, _SC_LEVEL3_CACHE_SIZE);
#endif
#if defined(__x86_64__)
  // __builtin_cpu_supports also asks XGETBV whether the system saves the wide registers.
  __builtin_cpu_init();
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
  f.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
  f.avx512 = f.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  f.avx512_bf16 = f.avx512 && __builtin_cpu_supports("avx512bf16");
#endif
  f.no_tiles = f.avx512_bf16 ? AskForTiles(ThisTileSystem()) : "the CPU has no AMX tiles for bfloat16";
  if (f.no_tiles.empty()) f.tiles = TileUnit::kAmx;
#ifdef DWSCONV_AVX512_MODEL  // a build for tests, whose AVX-512 kernels run on AVX2
  f.avx512 = f.avx512_bf16 = f.avx2;
#endif
  const char* pretended = std::getenv("DWSCONV_TEST_MACHINE");
  if (pretended != nullptr) {
    CpuFeatures told = f;
    TestMachineError() = Pretend(pretended, &told);
    if (TestMachineError().empty()) f = told;
  }
  return f;
}

}  // namespace

const CpuFeatures& GetCpuFeatures() {
  static const CpuFeatures features = Probe();
  return features;
}

std::string CpuFeaturesError() {
  GetCpuFeatures();
  return TestMachineError();
}

bool IsaSupported(Isa isa) {
  switch (isa) {
    case Isa::kGeneric:
      return true;
    case Isa::kAvx2:
      return GetCpuFeatures().avx2;
    case Isa::kAvx512:
      return GetCpuFeatures().avx512;
    case Isa::kAmx:
      return GetCpuFeatures().tiles != TileUnit::kNone;
  }
  return false;
}

Isa WithoutTiles(Isa isa) {
  if (isa != Isa::kAmx) return isa;
  const CpuFeatures& cpu = GetCpuFeatures();
  // Whoever asks for AMX without having it wants to know what a CPU with it would do.
  if (cpu.avx512 || cpu.tiles != TileUnit::kModel) return Isa::kAvx512;
  return cpu.avx2 ? Isa::kAvx2 : Isa::kGeneric;
}

std::vector<Isa> SupportedIsas() {
  std::vector<Isa> isas;
  for (Isa isa : kIsas) {
    if (IsaSupported(isa)) isas.push_back(isa);
  }
  return isas;
}

const char* IsaName(Isa isa) {
  switch (isa) {
    case Isa::kGeneric:
      return "generic";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAmx:
      return "amx";
  }
  return "?";
}

bool ParseIsa(const std::string& word, Isa* isa) {
  for (Isa known : kIsas) {
    if (word == IsaName(known)) {
      *isa = known;
      return true;
    }
  }
  return false;
}

std::string ChooseIsa(Isa* isa) {
  const std::string error = CpuFeaturesError();
  if (!error.empty()) return error;
  const char* forced = std::getenv("DWSCONV_ISA");
  if (forced == nullptr || *forced == '\0') {
    *isa = SupportedIsas().back();
    return "";
  }
  if (!ParseIsa(forced, isa)) {
    return std::string("DWSCONV_ISA is \"") + forced + "\"; it must be generic, avx2, avx512 or amx";
  }
  if (!IsaSupported(*isa)) {
    const std::string why = *isa == Isa::kAmx ? " (" + GetCpuFeatures().no_tiles + ")" : "";
    return std::string("DWSCONV_ISA is \"") + forced + "\", which this CPU lacks" + why;
  }
  return "";
}

}  // namespace dwsconv
