#include "cc/core/huge_pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "cc/core/whole.h"

namespace dwsconv {
namespace {

constexpr int64_t kPage = int64_t{2} << 20;  // x86-64's and, with pages of 4 KB, Arm's

// Asks for large pages for the whole ones within [begin, end).
void Advise(uintptr_t begin, uintptr_t end) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  begin = (begin + kPage - 1) / kPage * kPage;
  end = end / kPage * kPage;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)begin, (void)end;
#endif
}

}  // namespace

void PreferHugePages(void* data, int64_t bytes) {
  // Two pages at least: below that the call costs what it saves.
  if (bytes < 2 * kPage) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
  Advise(begin, begin + static_cast<uintptr_t>(bytes));
}

AlignedBuffer<char> AllocateHuge(int64_t* bytes) {
  constexpr int64_t kLeast = kPage / 8;  // of a page that holds less, most is wasted
  if (*bytes < kLeast || *bytes > INT64_MAX - kPage) return AllocateAligned<char>(*bytes);
  const int64_t whole = RoundUp(*bytes, kPage);
  AlignedBuffer<char> buffer(static_cast<char*>(std::aligned_alloc(kPage, static_cast<size_t>(whole))));
  if (buffer == nullptr) return AllocateAligned<char>(*bytes);
  const uintptr_t begin = reinterpret_cast<uintptr_t>(buffer.get());
  Advise(begin, begin + static_cast<uintptr_t>(whole));
  *bytes = whole;
  return buffer;
}

}  // namespace dwsconv
