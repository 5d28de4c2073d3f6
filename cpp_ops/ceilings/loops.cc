// Layer: ceilings. One source for every ISA, in the compiler's own vectors: CMake compiles it once for each,
// with its name in MYLINEAR_LOOPS_ISA, and with contraction on, so that a * b + c is one instruction where
// the ISA has one.
//
// No STL here, as in the units of the kernels: an inline function compiled for AVX-512 must not be linked for
// all.
#include "ceilings/loops.h"

#include <cstdint>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define NUM_SUMS 16
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#define NUM_SUMS 12  // of 16 registers; two hold the factors
#elif defined(__aarch64__)
#define VECTOR_BYTES 16
#define NUM_SUMS 24
#else
#define VECTOR_BYTES 16
#define NUM_SUMS 12
#endif

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define QUOTE_(a) #a
#define QUOTE(a) QUOTE_(a)

namespace mylinear::ceilings {
namespace {

constexpr size_t kVectorBytes = VECTOR_BYTES;
constexpr size_t kNumSums = NUM_SUMS;

volatile double sink;  // keeps the compiler from leaving the work out

template <class T>
double fma(size_t rounds) {
  typedef T Vec __attribute__((vector_size(VECTOR_BYTES)));
  // The sums go to 2 whatever they start from: no denormals, no overflow.
  T factor = T(0.5);
  T addend = T(1);
  asm volatile("" : "+m"(factor), "+m"(addend));
  const Vec a = Vec{} + factor;
  const Vec b = Vec{} + addend;
  Vec sums[kNumSums];
#pragma GCC unroll 32
  for (size_t i = 0; i < kNumSums; ++i) sums[i] = b + T(i);
  for (size_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 32
    for (size_t i = 0; i < kNumSums; ++i) sums[i] = sums[i] * a + b;
#pragma GCC unroll 32
    for (size_t i = 0; i < kNumSums; ++i) sums[i] = sums[i] * a + b;
  }
  Vec total = sums[0];
#pragma GCC unroll 32
  for (size_t i = 1; i < kNumSums; ++i) total += sums[i];
  sink = double(total[0]);
  return double(rounds) * 2 * kNumSums * (kVectorBytes / sizeof(T)) * 2;
}

template <size_t kStreams>
void read(const void* data, size_t nbytes) {
  typedef uint64_t Vec __attribute__((vector_size(VECTOR_BYTES)));
  constexpr size_t kPerStream = 8 / kStreams;  // vectors in flight of each stream
  const size_t length = nbytes / kStreams;
  const char* from = static_cast<const char*>(data);
  Vec sums[8] = {};
  for (size_t at = 0; at < length; at += kPerStream * kVectorBytes) {
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; ++i) {
      const char* place = from + i / kPerStream * length + at + i % kPerStream * kVectorBytes;
      sums[i] += *static_cast<const Vec*>(__builtin_assume_aligned(place, VECTOR_BYTES));
    }
  }
  for (size_t i = 1; i < 8; ++i) sums[0] += sums[i];
  sink = double(sums[0][0]);
}

}  // namespace

extern const Loops PASTE(MYLINEAR_LOOPS_ISA, _loops);
const Loops PASTE(MYLINEAR_LOOPS_ISA, _loops) = {QUOTE(MYLINEAR_LOOPS_ISA), fma<double>, fma<float>, read<1>,
                                                 read<4>};

}  // namespace mylinear::ceilings
