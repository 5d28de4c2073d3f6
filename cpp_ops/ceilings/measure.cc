// Layer: ceilings, entry. Functions that exporter/bench/measure/ceilings.py calls by ctypes; exports symbols
// as register.cc does.
//
// Both functions work in the calling thread for about `seconds` and return a rate per second. For several
// threads the caller starts as many: Python releases its lock during the call.
#include <chrono>

#include "ceilings/loops.h"
#include "kernels/isa/isa.h"

#ifdef _WIN32
#define MYLINEAR_EXPORT extern "C" __attribute__((dllexport))
#else
#define MYLINEAR_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace mylinear::ceilings {
namespace {

// Returns the loops of compiled ISA number `isa`, null past the last; `*is_usable` is false if this CPU lacks
// it.
const Loops* find_loops(int isa, bool* is_usable) {
  static const Loops* const compiled[] = {
#ifdef MYLINEAR_LOOPS_AVX512
      &avx512_loops,
#endif
#ifdef MYLINEAR_LOOPS_AVX2
      &avx2_loops,
#endif
#ifdef MYLINEAR_LOOPS_NEON
      &neon_loops,
#endif
      &baseline_loops,
  };
  if (isa < 0 || static_cast<size_t>(isa) >= sizeof compiled / sizeof compiled[0]) return nullptr;
  *is_usable = kernels::find_isa(compiled[isa]->isa) != nullptr;
  return compiled[isa];
}

// Calls `work`, which returns the amount of its work, until `seconds` have passed; returns the rate.
template <class Work>
double rate(double seconds, Work work) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  double done = 0;
  double elapsed = 0;
  do {
    done += work();
    elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  } while (elapsed < seconds);
  return done / elapsed;
}

}  // namespace
}  // namespace mylinear::ceilings

// Writes the name of ISA number `isa`, or null past the last. Returns 1 if this CPU has it.
MYLINEAR_EXPORT int mylinear_ceiling_isa(int isa, const char** name) {
  bool is_usable = false;
  const mylinear::ceilings::Loops* loops = mylinear::ceilings::find_loops(isa, &is_usable);
  *name = loops ? loops->isa : nullptr;
  return is_usable;
}

// Floating-point operations per second, two for each multiply-add; 0 if this CPU lacks the ISA.
MYLINEAR_EXPORT double mylinear_ceiling_flops(int isa, int is_float64, double seconds) {
  bool is_usable = false;
  const mylinear::ceilings::Loops* loops = mylinear::ceilings::find_loops(isa, &is_usable);
  if (!is_usable) return 0;
  const auto fma = is_float64 ? loops->fma_float64 : loops->fma_float32;
  return mylinear::ceilings::rate(seconds, [&] { return fma(10000); });
}

// Bytes read per second from `data`, over and over; 0 if this CPU lacks the ISA, or if `data` is not aligned
// to 64 or `nbytes` no positive multiple of 4096.
MYLINEAR_EXPORT double mylinear_ceiling_read(int isa, int num_streams, const void* data, size_t nbytes,
                                             double seconds) {
  bool is_usable = false;
  const mylinear::ceilings::Loops* loops = mylinear::ceilings::find_loops(isa, &is_usable);
  const bool is_aligned = reinterpret_cast<size_t>(data) % 64 == 0;
  if (!is_usable || !is_aligned || !nbytes || nbytes % mylinear::ceilings::kReadGranule) return 0;
  const auto read = num_streams == 4 ? loops->read_four_streams : loops->read_one_stream;
  return mylinear::ceilings::rate(seconds, [&] {
    read(data, nbytes);
    return double(nbytes);
  });
}
