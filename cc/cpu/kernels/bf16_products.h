// How products of bfloat16 are computed on this CPU: by tiles, by vdpbf16ps, or as products of floats. A flag of the
// CPU does not tell which is the fastest: vdpbf16ps takes half of the time of float32 on Zen 4 and 5, and twice that on
// an Intel Xeon with AMX. So each way is timed once, some tens of microseconds at the first call that needs to know.
// The rates differ by two and more, so the choice is the same in each process of a machine.
#ifndef DWSCONV_CPU_KERNELS_BF16_PRODUCTS_H_
#define DWSCONV_CPU_KERNELS_BF16_PRODUCTS_H_

#include <string>

#include "cc/core/cpu_features.h"

namespace dwsconv {

enum class Bf16Products : int { kFloat32 = 0, kDots, kTiles };

// "float32", "vdpbf16ps", "tiles".
const char* Bf16ProductsName(Bf16Products products);

// GFLOP/s of one thread on numbers in L1; 0 where this CPU lacks it.
struct Bf16Rates {
  double float32 = 0, dots = 0, tiles = 0;
};

// The fastest way. Of two equal ones that with fewer roundings.
Bf16Products Fastest(const Bf16Rates& rates);

// Of this CPU, each measured once in a process when it is first asked for. Nothing is measured where there is one way.
const Bf16Rates& MeasuredBf16Rates();

// Whether vdpbf16ps is there and faster than products of floats.
bool Bf16Dots();

// As ChooseIsa, but where nothing is forced tiles have to be the fastest way, too.
std::string ChooseKernelIsa(Isa* isa);

// How the products of an instruction set that ChooseKernelIsa gave are computed, and why so.
struct Bf16Choice {
  Bf16Products products;
  std::string why;
};
Bf16Choice Bf16ChoiceOf(Isa isa);

}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_BF16_PRODUCTS_H_
