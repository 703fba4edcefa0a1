// Large outputs on large pages.
#ifndef DWSCONV_CORE_HUGE_PAGES_H_
#define DWSCONV_CORE_HUGE_PAGES_H_

#include <cstdint>

namespace dwsconv {

// Asks the system to back the whole large pages within [data, data + bytes) by such pages, where it leaves that to
// programs ("madvise" in transparent_hugepage/enabled). Memory fresh from malloc is mapped page by page as it is first
// written, which for an output of tens of megabytes takes as long as computing it. A hint: it changes no contents, and
// where it fails nothing is lost.
void PreferHugePages(void* data, int64_t bytes);

}  // namespace dwsconv

#endif  // DWSCONV_CORE_HUGE_PAGES_H_
