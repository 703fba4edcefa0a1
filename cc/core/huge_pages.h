// Large outputs, and memory that is kept, on large pages.
#ifndef DWSCONV_CORE_HUGE_PAGES_H_
#define DWSCONV_CORE_HUGE_PAGES_H_

#include <cstdint>

#include "cc/core/aligned_buffer.h"

namespace dwsconv {

// Asks the system to back the whole large pages within [data, data + bytes) by such pages, where it leaves that to
// programs ("madvise" in transparent_hugepage/enabled). Memory fresh from malloc is mapped page by page as it is first
// written, which for an output of tens of megabytes takes as long as computing it. A hint: it changes no contents, and
// where it fails nothing is lost.
void PreferHugePages(void* data, int64_t bytes);

// Memory for *bytes bytes that stays for long, not initialised: from some hundred kilobytes on a multiple of large
// pages, which *bytes becomes. Pages of 4 KB that lie anywhere share sets of L2 by chance. Null when memory is out.
AlignedBuffer<char> AllocateHuge(int64_t* bytes);

}  // namespace dwsconv

#endif  // DWSCONV_CORE_HUGE_PAGES_H_
