// Layer: kernels. The one list of kernels: it declares them, dispatches to them, and the tests walk over it.
//
// X(isa, mr): a translation unit `<isa>.cc` that defines `<isa>_kernels`, one GemmKernel per element type,
// whose micro-kernel makes mr rows by two vectors of Y. mr is what the register file holds:
//   avx512  12 x 2 of 32 registers, + 2 for W; X is broadcast by the FMA itself
//   avx2     6 x 2 of 16, + 2 for W, + 1 for X
//   neon     8 x 2 of 32, + 2 for W, + X
//   baseline 4 x 2 of the 16 of SSE2, the smallest common register file
// CMake defines MYLINEAR_HAS_<ISA> for those that the compiler can make. Fastest first.
#ifndef MYLINEAR_KERNELS_KERNEL_LIST_H_
#define MYLINEAR_KERNELS_KERNEL_LIST_H_

#include "kernels/gemm.h"

#ifdef MYLINEAR_HAS_AVX512
#define MYLINEAR_ISA_AVX512(X) X(avx512, 12)
#else
#define MYLINEAR_ISA_AVX512(X)
#endif

#ifdef MYLINEAR_HAS_AVX2
#define MYLINEAR_ISA_AVX2(X) X(avx2, 6)
#else
#define MYLINEAR_ISA_AVX2(X)
#endif

#ifdef MYLINEAR_HAS_NEON
#define MYLINEAR_ISA_NEON(X) X(neon, 8)
#else
#define MYLINEAR_ISA_NEON(X)
#endif

#define MYLINEAR_ISA_LIST(X) MYLINEAR_ISA_AVX512(X) MYLINEAR_ISA_AVX2(X) MYLINEAR_ISA_NEON(X) X(baseline, 4)

namespace mylinear::kernels {

#define MYLINEAR_DECLARE_KERNELS(isa, mr)                  \
  extern const GemmKernel isa##_kernels[kNumElementTypes]; \
  inline constexpr int isa##_mr = mr;
MYLINEAR_ISA_LIST(MYLINEAR_DECLARE_KERNELS)
#undef MYLINEAR_DECLARE_KERNELS

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_KERNEL_LIST_H_
