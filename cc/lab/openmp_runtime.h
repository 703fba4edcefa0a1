// OpenMP's runtime, libgomp, loaded when it is needed: slim images lack it, and a wheel may not ask for it.
#ifndef DWSCONV_LAB_OPENMP_RUNTIME_H_
#define DWSCONV_LAB_OPENMP_RUNTIME_H_

#include <string>

namespace dwsconv {

// Loads the runtime; what is wrong where it cannot, else "". Before the first `#pragma omp` that is reached.
std::string LoadOpenMp();

}  // namespace dwsconv

#endif  // DWSCONV_LAB_OPENMP_RUNTIME_H_
