#include "cc/lab/openmp_runtime.h"

#include <dlfcn.h>

namespace dwsconv {
namespace {

// What g++ makes of the pragmas in openmp.cc calls these.
struct Runtime {
  std::string error;
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
  bool (*start)(long, long, long, long, long*, long*) = nullptr;
  bool (*next)(long*, long*) = nullptr;
  void (*end)() = nullptr;
  int (*thread)() = nullptr;
};

template <typename F>
void Find(void* library, const char* name, F** function, std::string* error) {
  *function = reinterpret_cast<F*>(dlsym(library, name));
  if (*function == nullptr) *error = std::string("libgomp.so.1 has no function ") + name;
}

Runtime Load() {
  Runtime runtime;
  void* const library = dlopen("libgomp.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    runtime.error = dlerror();
    return runtime;
  }
  Find(library, "GOMP_parallel", &runtime.parallel, &runtime.error);
  Find(library, "GOMP_loop_nonmonotonic_dynamic_start", &runtime.start, &runtime.error);
  Find(library, "GOMP_loop_nonmonotonic_dynamic_next", &runtime.next, &runtime.error);
  Find(library, "GOMP_loop_end", &runtime.end, &runtime.error);
  Find(library, "omp_get_thread_num", &runtime.thread, &runtime.error);
  return runtime;
}

const Runtime& Gomp() {
  static const Runtime* const runtime = new Runtime(Load());
  return *runtime;
}

}  // namespace

std::string LoadOpenMp() { return Gomp().error; }

}  // namespace dwsconv

// The linker finds these in the place of libgomp's. A compiler that calls others gives a library that does not load,
// and the tests say so.
extern "C" {

void GOMP_parallel(void (*function)(void*), void* data, unsigned threads, unsigned flags) {
  dwsconv::Gomp().parallel(function, data, threads, flags);
}

bool GOMP_loop_nonmonotonic_dynamic_start(long begin, long end, long step, long chunk, long* first, long* last) {
  return dwsconv::Gomp().start(begin, end, step, chunk, first, last);
}

bool GOMP_loop_nonmonotonic_dynamic_next(long* first, long* last) { return dwsconv::Gomp().next(first, last); }

void GOMP_loop_end() { dwsconv::Gomp().end(); }

int omp_get_thread_num() { return dwsconv::Gomp().thread(); }

}  // extern "C"
