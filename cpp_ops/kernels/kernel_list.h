// Layer: kernels. The one list of kernels: it declares them, dispatches to them, and the tests walk over it.
//
// X(isa, mr): a translation unit `<isa>.cc` that defines `<isa>_kernels`, one GemmKernel per element type,
// whose micro-kernel takes up to mr rows of X by four of W. mr is what the register file holds, 4 mr
// accumulators, mr for X, 1 for W:
//   avx512*, amx_bf16, neon
//                   21 of 32, which leaves room for adding up the lanes of the call before
//   avx2            16 of 16
//   baseline        11 of the 16 of SSE2, which needs one more for each product
// bfloat16 of amx_bf16 is multiplied in tiles; see tile_gemm.h.
// CMake defines MYLINEAR_HAS_<ISA> for those that the compiler can make. Fastest first, but for amx_bf16: no
// CPU with AMX has run it yet, only an emulator. It stands behind what every such CPU has too, so that it
// serves where it is asked for by its name.
#ifndef MYLINEAR_KERNELS_KERNEL_LIST_H_
#define MYLINEAR_KERNELS_KERNEL_LIST_H_

#include "kernels/gemm.h"

#ifdef MYLINEAR_HAS_AVX512_BF16
#define MYLINEAR_ISA_AVX512_BF16(X) X(avx512_bf16, 4)
#else
#define MYLINEAR_ISA_AVX512_BF16(X)
#endif

#ifdef MYLINEAR_HAS_AVX512
#define MYLINEAR_ISA_AVX512(X) X(avx512, 4)
#else
#define MYLINEAR_ISA_AVX512(X)
#endif

#ifdef MYLINEAR_HAS_AMX_BF16
#define MYLINEAR_ISA_AMX_BF16(X) X(amx_bf16, 4)
#else
#define MYLINEAR_ISA_AMX_BF16(X)
#endif

#ifdef MYLINEAR_HAS_AVX2
#define MYLINEAR_ISA_AVX2(X) X(avx2, 3)
#else
#define MYLINEAR_ISA_AVX2(X)
#endif

#ifdef MYLINEAR_HAS_NEON
#define MYLINEAR_ISA_NEON(X) X(neon, 4)
#else
#define MYLINEAR_ISA_NEON(X)
#endif

#define MYLINEAR_ISA_LIST(X)  \
  MYLINEAR_ISA_AVX512_BF16(X) \
  MYLINEAR_ISA_AVX512(X)      \
  MYLINEAR_ISA_AMX_BF16(X)    \
  MYLINEAR_ISA_AVX2(X) MYLINEAR_ISA_NEON(X) X(baseline, 2)

namespace mylinear::kernels {

#define MYLINEAR_DECLARE_KERNELS(isa, mr)                  \
  extern const GemmKernel isa##_kernels[kNumElementTypes]; \
  inline constexpr int isa##_mr = mr;
MYLINEAR_ISA_LIST(MYLINEAR_DECLARE_KERNELS)
#undef MYLINEAR_DECLARE_KERNELS

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_KERNEL_LIST_H_
