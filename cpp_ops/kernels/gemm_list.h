// Layer: kernels. The tables of the product Y = X W^T + B: the translation unit
// `isa/<isa>.cc` defines `<isa>_kernels`, in the order of gemm.h, or that of bfloat16 alone (isa_list.h).
//
// Its micro-kernel takes up to <isa>_mr rows of X by four of W, as many as the registers hold: 4 mr
// accumulators, mr for X, 1 for W:
//   avx512, avx512_bf16, neon
//                   21 of 32, which leaves room for adding up the lanes of the call before
//   avx2            16 of 16
//   baseline        11 of the 16 of SSE2, which needs one more for each product
// bfloat16 of amx_bf16 is multiplied in tiles; see tile_gemm.h.
#ifndef MYLINEAR_KERNELS_GEMM_LIST_H_
#define MYLINEAR_KERNELS_GEMM_LIST_H_

#include "kernels/gemm.h"
#include "kernels/isa/isa_list.h"

namespace mylinear::kernels {

inline constexpr int avx512_bf16_mr = 4;
inline constexpr int avx512_mr = 4;
inline constexpr int avx2_mr = 3;
inline constexpr int neon_mr = 4;
inline constexpr int baseline_mr = 2;

#define MYLINEAR_DECLARE_KERNELS(isa, general) extern const GemmKernel general##_kernels[kNumGemmKernels];
MYLINEAR_ISA_LIST(MYLINEAR_DECLARE_KERNELS)
#undef MYLINEAR_DECLARE_KERNELS
#define MYLINEAR_DECLARE_OWN_KERNELS(isa) extern const GemmKernel isa##_kernels[1];
MYLINEAR_BFLOAT16_ISA_LIST(MYLINEAR_DECLARE_OWN_KERNELS)
#undef MYLINEAR_DECLARE_OWN_KERNELS

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_GEMM_LIST_H_
