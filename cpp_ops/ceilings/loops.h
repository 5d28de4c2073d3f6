// Layer: ceilings. How fast this machine can be at best, for benchmarks. Knows no operator.
//
// `loops.cc` is compiled once for each ISA and defines `<isa>_loops`; CMake defines MYLINEAR_LOOPS_<ISA> for
// each one. Widest first: on some CPUs a narrower ISA is as fast, so a caller takes the best.
#ifndef MYLINEAR_CEILINGS_LOOPS_H_
#define MYLINEAR_CEILINGS_LOOPS_H_

#include <cstddef>

namespace mylinear::ceilings {

// The loops of one ISA. They allocate nothing, lock nothing and know no clock.
struct Loops {
  const char* isa;
  // Multiply and add in registers, with as many independent sums as the ISA has room for. Returns the number
  // of floating-point operations that were done, two for each multiply-add of an element.
  double (*fma_float64)(size_t rounds);
  double (*fma_float32)(size_t rounds);
  // Reads `nbytes` bytes once, as one stream or as four at equal distances; `data` is aligned to 64, `nbytes`
  // a multiple of `kReadGranule`.
  void (*read_one_stream)(const void* data, size_t nbytes);
  void (*read_four_streams)(const void* data, size_t nbytes);
};

inline constexpr size_t kReadGranule = 4096;

#ifdef MYLINEAR_LOOPS_AVX512
extern const Loops avx512_loops;
#endif
#ifdef MYLINEAR_LOOPS_AVX2
extern const Loops avx2_loops;
#endif
#ifdef MYLINEAR_LOOPS_NEON
extern const Loops neon_loops;
#endif
extern const Loops baseline_loops;

}  // namespace mylinear::ceilings

#endif  // MYLINEAR_CEILINGS_LOOPS_H_
