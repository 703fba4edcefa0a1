#include "cc/plan/tuned_plans.h"

#include <fcntl.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "cc/core/cpu_features.h"
#include "cc/plan/plan_key.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace dwsconv {
namespace {

// More than any tuner writes, and little enough to read at the start of every process.
constexpr int64_t kMostFileBytes = 4 << 20;

// Of any number in the file. Products of two fit into 64 bits whatever the file says.
constexpr int64_t kMostNumber = int64_t{1} << 28;

// A number of a choice and its word.
struct ChoiceField {
  const char* name;
  int64_t* value;
};

// The numbers of a choice, in the order of a line. true and false are 1 and 0.
struct ChoiceNumbers {
  explicit ChoiceNumbers(const PlanChoice& choice = {})
      : of(choice), stream(choice.stream), by_channels(choice.by_channels) {}

  std::vector<ChoiceField> Fields(bool expanded) {
    if (!expanded) {
      return {{"block_pixels", &of.block_pixels},
              {"block_channels", &of.block_channels},
              {"threads", &of.threads},
              {"stream", &stream}};
    }
    return {{"rows", &of.rows},
            {"channels", &of.channels},
            {"by_channels", &by_channels},
            {"threads", &of.threads},
            {"stream", &stream}};
  }

  PlanChoice choice() const {
    PlanChoice choice = of;
    choice.stream = stream != 0;
    choice.by_channels = by_channels != 0;
    return choice;
  }

  PlanChoice of;
  int64_t stream, by_channels;
};

// Without E, which a line has only where there is one.
constexpr size_t kPlainKeySize = kPlanKeySize - 1;

// The inverse of PlanKeyOf, as far as a plan depends on it.
void FromKey(const PlanKey& key, Chain* p, Machine* m) {
  size_t at = 0;
  m->isa = static_cast<Isa>(key[at++]);
  for (int* field : {&m->threads, &m->vector_floats}) *field = static_cast<int>(key[at++]);
  m->z_bytes = key[at++];
  for (int* field : {&m->tile_pixels, &m->tile_channels}) *field = static_cast<int>(key[at++]);
  for (int64_t* field : {&p->N, &p->H, &p->W, &p->C, &p->M, &p->K, &p->R, &p->S, &p->stride_h, &p->stride_w,
                         &p->dilation_h, &p->dilation_w, &p->pad_top, &p->pad_left, &p->Ho, &p->Wo}) {
    *field = key[at++];
  }
  p->dtype = static_cast<DType>(key[at++]);
  p->E = key[at];
  if (p->E > 0 && p->K == 0) {
    p->has_project = false;
    p->K = p->CM();
  }
}

struct Table {
  std::unordered_map<PlanKey, PlanChoice, NumbersHash> plans;
  const Table* before = nullptr;  // what this one took the place of
};

// Tables are never freed: a plan may be looked up in an old one while a new one is put in its place, and there are as
// many as there were reloads.
std::atomic<const Table*> current{nullptr};
std::mutex loading;
std::atomic<int64_t> used{0};

std::string CpuModel() {
  std::string name;
#if defined(__x86_64__)
  unsigned words[12] = {};
  if (__get_cpuid_max(0x80000000u, nullptr) >= 0x80000004u) {
    for (unsigned i = 0; i < 3; ++i) {
      __get_cpuid(0x80000002u + i, words + 4 * i, words + 4 * i + 1, words + 4 * i + 2, words + 4 * i + 3);
    }
    char brand[sizeof(words) + 1] = {};
    std::memcpy(brand, words, sizeof(words));
    name = brand;
  }
  // A virtual machine's name may say no more than the vendor.
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d)) name += "_" + std::to_string(a);
#endif
  std::string word;  // letters, digits and single underscores
  for (char letter : name) {
    const bool plain = (letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'z') ||
                       (letter >= 'A' && letter <= 'Z') || letter == '-' || letter == '.';
    if (plain) word += letter;
    if (!plain && !word.empty() && word.back() != '_') word += '_';
  }
  return word.empty() ? "unknown" : word;
}

void Append(const char* name, int64_t number, std::string* line) {
  *line += std::string(name) + "=" + std::to_string(number) + " ";
}

// Takes "name=number" and the space after it off the front of *text; false where it does not start so.
bool TakeNumber(const char* name, std::string_view* text, int64_t* number) {
  const size_t length = std::strlen(name);
  if (text->substr(0, length) != name || text->substr(length, 1) != "=") return false;
  text->remove_prefix(length + 1);
  *number = 0;
  size_t digits = 0;
  for (; digits < text->size() && (*text)[digits] >= '0' && (*text)[digits] <= '9'; ++digits) {
    *number = *number * 10 + ((*text)[digits] - '0');
    if (*number > kMostNumber) return false;
  }
  if (digits == 0) return false;
  text->remove_prefix(digits);
  if (text->empty()) return true;
  if (text->front() != ' ') return false;
  text->remove_prefix(1);
  return true;
}

// Reads a line that is for this CPU, without its start. "" or what is wrong; the line itself is not repeated there, as
// it may hold anything.
std::string ReadLine(std::string_view line, Table* table) {
  PlanKey key;
  for (size_t i = 0; i < kPlainKeySize; ++i) {
    if (!TakeNumber(kPlanKeyNames[i], &line, &key[i])) return std::string("no good number for ") + kPlanKeyNames[i];
  }
  key[kPlainKeySize] = 0;
  const bool expanded = line.substr(0, 1) != ":";
  if (expanded && (!TakeNumber("E", &line, &key[kPlainKeySize]) || key[kPlainKeySize] == 0)) {
    return "no colon after the chain";
  }
  if (line.substr(0, 2) != ": ") return "no colon after the chain";
  line.remove_prefix(2);
  ChoiceNumbers numbers;
  for (const ChoiceField& field : numbers.Fields(expanded)) {
    if (!TakeNumber(field.name, &line, field.value)) return std::string("no good number for ") + field.name;
  }
  if (!line.empty() && line.front() != '#') return "more than a plan";

  Chain chain;
  Machine machine;
  FromKey(key, &chain, &machine);
  for (int64_t positive : {chain.N, chain.output_pixels(), chain.CM(), chain.K,
                           static_cast<int64_t>(machine.vector_floats), static_cast<int64_t>(machine.tile_channels)}) {
    if (positive <= 0) return "a chain or machine of size 0";
  }
  int64_t outputs;
  if (__builtin_mul_overflow(chain.N, chain.output_pixels(), &outputs) ||
      __builtin_mul_overflow(outputs, chain.K, &outputs)) {
    return "a chain larger than any memory";
  }
  if (machine.z_bytes != 2 && machine.z_bytes != 4) return "z_bytes is neither 2 nor 4";
  Plan plan;
  const std::string wrong = ApplyPlanChoice(chain, machine, numbers.choice(), &plan);
  if (wrong.empty()) table->plans[key] = numbers.choice();
  return wrong;
}

// Everything in the file, or why there is nothing; both empty where there is no file.
std::string ReadFile(const std::string& path, std::string* text) {
  // O_NONBLOCK: somebody may have put a pipe there.
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return errno == ENOENT || errno == ENOTDIR ? "" : std::strerror(errno);
  struct stat status;
  std::string wrong;
  if (fstat(file, &status) != 0) {
    wrong = std::strerror(errno);
  } else if (!S_ISREG(status.st_mode)) {
    wrong = "not a file";
  } else if (status.st_size > kMostFileBytes) {
    wrong = "larger than " + std::to_string(kMostFileBytes) + " bytes";
  } else {
    text->resize(static_cast<size_t>(status.st_size));
    size_t done = 0;
    while (done < text->size()) {
      const ssize_t got = read(file, text->data() + done, text->size() - done);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) wrong = std::strerror(errno);
      if (got <= 0) break;
      done += static_cast<size_t>(got);
    }
    text->resize(wrong.empty() ? done : 0);
  }
  close(file);
  return wrong;
}

// What of the file is for this CPU. With `warn`, one line on stderr says what was left out.
void ReadTable(bool warn, Table* table) {
  const std::string path = TunedPlansPath();
  if (path.empty()) return;
  std::string text;
  std::string first = ReadFile(path, &text);
  int64_t lines = 0, bad = 0, first_at = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line(text.data() + begin, end - begin);
    begin = end + 1;
    ++lines;
    if (lines == 1 && line != kTunedPlansHeader) {
      first = std::string("its first line is not \"") + kTunedPlansHeader + "\"";
      break;
    }
    if (line.empty() || line.front() == '#') continue;
    std::string wrong;
    if (line.substr(0, TunedPlansCpu().size()) == TunedPlansCpu()) {
      line.remove_prefix(TunedPlansCpu().size());
      wrong = ReadLine(line, table);
    } else if (line.substr(0, 4) != "cpu=") {
      wrong = "does not start with cpu=";
    }
    if (!wrong.empty() && bad++ == 0) {
      first = wrong;
      first_at = lines;
    }
  }
  if (!warn) return;
  if (bad > 0) {
    std::fprintf(stderr, "tf_dwsconv: %s: %lld lines of tuned plans ignored, the first is line %lld: %s\n",
                 path.c_str(), static_cast<long long>(bad), static_cast<long long>(first_at), first.c_str());
  } else if (!first.empty()) {
    std::fprintf(stderr, "tf_dwsconv: %s: tuned plans ignored: %s\n", path.c_str(), first.c_str());
  }
}

// `loading` is held. Null only where there is no memory for an empty table.
const Table* Load(bool warn) {
  try {
    auto table = std::make_unique<Table>();
    try {
      ReadTable(warn, table.get());
    } catch (const std::exception&) {  // out of memory: do without tuned plans
      table->plans.clear();
    }
    table->before = current.load(std::memory_order_relaxed);
    current.store(table.get(), std::memory_order_release);
    return table.release();
  } catch (const std::exception&) {
    return nullptr;
  }
}

}  // namespace

bool FindTunedPlan(const Chain& chain, const Machine& machine, Plan* plan) {
  const Table* table = current.load(std::memory_order_acquire);
  if (table == nullptr) {
    const std::lock_guard<std::mutex> lock(loading);
    table = current.load(std::memory_order_relaxed);
    if (table == nullptr) table = Load(true);
    if (table == nullptr) return false;
  }
  if (table->plans.empty()) return false;
  const auto found = table->plans.find(PlanKeyOf(chain, machine));
  if (found == table->plans.end()) return false;
  if (!ApplyPlanChoice(chain, machine, found->second, plan).empty()) return false;
  plan->tuned = true;
  used.fetch_add(1, std::memory_order_relaxed);
  return true;
}

int64_t TunedPlansUsed() { return used.load(std::memory_order_relaxed); }

std::string TunedPlanLine(const Chain& chain, const Machine& machine, const PlanChoice& choice) {
  std::string line = TunedPlansCpu();
  const PlanKey key = PlanKeyOf(chain, machine);
  for (size_t i = 0; i < kPlanKeySize; ++i) {
    if (i < kPlainKeySize || chain.E > 0) Append(kPlanKeyNames[i], key[i], &line);
  }
  line += ": ";
  ChoiceNumbers numbers(choice);
  for (const ChoiceField& field : numbers.Fields(chain.E > 0)) Append(field.name, *field.value, &line);
  line.pop_back();
  return line;
}

const std::string& TunedPlansCpu() {
  static const std::string* const start = [] {
    const CpuFeatures& cpu = GetCpuFeatures();
    return new std::string("cpu=" + CpuModel() + "/" + std::to_string(cpu.l1d_bytes) + "/" +
                           std::to_string(cpu.l2_bytes) + "/" + std::to_string(cpu.l3_bytes) + " ");
  }();
  return *start;
}

std::string TunedPlansPath() {
  if (const char* given = std::getenv("DWSCONV_PLAN_CACHE")) return std::strcmp(given, "off") == 0 ? "" : given;
  const char* cache = std::getenv("XDG_CACHE_HOME");
  // A relative one is to be ignored, says the XDG base directory specification.
  if (cache != nullptr && *cache == '/') return std::string(cache) + "/tf_dwsconv/plans-v1.txt";
  const char* home = std::getenv("HOME");
  passwd entry, *found = nullptr;
  std::vector<char> buffer(1 << 14);
  if (home == nullptr || *home != '/') {
    home = getpwuid_r(getuid(), &entry, buffer.data(), buffer.size(), &found) == 0 && found != nullptr ? entry.pw_dir
                                                                                                       : nullptr;
  }
  return home == nullptr ? "" : std::string(home) + "/.cache/tf_dwsconv/plans-v1.txt";
}

int64_t ReloadTunedPlans(bool warn) {
  const std::lock_guard<std::mutex> lock(loading);
  const Table* table = Load(warn);
  return table == nullptr ? 0 : static_cast<int64_t>(table->plans.size());
}

}  // namespace dwsconv
