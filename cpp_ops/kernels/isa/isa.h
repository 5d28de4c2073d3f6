// Layer: kernel API. Which instruction sets this binary was compiled for, and which of them this CPU has.
// Every product has a table of kernels for each; see gemm.h.
#ifndef MYLINEAR_KERNELS_ISA_ISA_H_
#define MYLINEAR_KERNELS_ISA_ISA_H_

#include <cstddef>

namespace mylinear::kernels {

struct Isa {
  const char* name;
  bool (*is_usable)();  // whether this CPU and its operating system have it
  size_t index;         // among compiled_isas
};

// The ISAs of this binary, in the order in which they are preferred; the last one, "baseline", is usable
// everywhere.
const Isa* compiled_isas(size_t* count);

// The ISA called `name`, or the first usable one if `name` is null or empty. Null if there is none.
const Isa* find_isa(const char* name);

// Whether a core's first data cache has 48 KiB or more, as of CPUs with two ports for 512-bit FMAs. False
// where that is not known.
bool has_large_l1();

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_ISA_ISA_H_
