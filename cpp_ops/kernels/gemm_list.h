// Layer: kernels. The tables of the product Y = X W^T + B: the translation unit
// `isa/<isa>.cc` defines `<isa>_kernels`, in the order of gemm.h, or that of bfloat16 alone (isa_list.h).
//
// Its micro-kernel takes up to <isa>_mr rows of X by four of W, as many as the registers hold: 4 mr
// accumulators, mr for X, 1 for W:
//   avx512, avx512_bf16, neon
//                   21 of 32, which leaves room for adding up the lanes of the call before
//   avx2            16 of 16
//   baseline        11 of the 16 of SSE2, which needs one more for each product
// bfloat16 of amx_bf16 is multiplied in tiles; see isa/tile_gemm.h.
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

// A row of a table, by the template of gemm_tiles.h.
#define MYLINEAR_GEMM(isa, Tag, S, SW, type, weight_type) \
  Gemm<Tag, S, isa##_mr, SW>::row(#isa, ElementType::type, ElementType::weight_type)

// Defines `<isa>_kernels` of gemm_list.h for the tag of a unit.
#define MYLINEAR_DEFINE_KERNELS(isa, Tag)                                \
  const GemmKernel isa##_kernels[kNumGemmKernels] = {                    \
      MYLINEAR_GEMM(isa, Tag, double, double, kFloat64, kFloat64),       \
      MYLINEAR_GEMM(isa, Tag, float, float, kFloat32, kFloat32),         \
      MYLINEAR_GEMM(isa, Tag, Float16, Float16, kFloat16, kFloat16),     \
      MYLINEAR_GEMM(isa, Tag, Bfloat16, Bfloat16, kBfloat16, kBfloat16), \
      MYLINEAR_GEMM(isa, Tag, float, Float16, kFloat32, kFloat16),       \
      MYLINEAR_GEMM(isa, Tag, float, Bfloat16, kFloat32, kBfloat16),     \
  };

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_GEMM_LIST_H_
