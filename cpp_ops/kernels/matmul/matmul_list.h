// Layer: kernels. The tables of the products in matmul.h: the translation unit `isa/<isa>.cc` defines
// `<isa>_matmul_kernels` and `<isa>_row_sum_kernels`, one row per element type.
//
// The micro-kernel takes up to <isa>_matmul_mr rows of A by <isa>_matmul_vecs vectors of B, as many as the
// registers hold: an accumulator for each pair, one for each vector of B, and one for an element of A:
//   avx512, neon    28 of 32
//   avx2            16 of 16
//   baseline        12 of the 16 of SSE2, which needs one more for each product
#ifndef MYLINEAR_KERNELS_MATMUL_MATMUL_LIST_H_
#define MYLINEAR_KERNELS_MATMUL_MATMUL_LIST_H_

#include "kernels/isa/isa_list.h"
#include "kernels/matmul/matmul.h"

namespace mylinear::kernels {

inline constexpr int avx512_matmul_mr = 8, avx512_matmul_vecs = 3;
inline constexpr int avx2_matmul_mr = 4, avx2_matmul_vecs = 3;
inline constexpr int neon_matmul_mr = 8, neon_matmul_vecs = 3;
inline constexpr int baseline_matmul_mr = 4, baseline_matmul_vecs = 2;

#define MYLINEAR_DECLARE_MATMUL_KERNELS(isa, general)                   \
  extern const MatmulKernel general##_matmul_kernels[kNumElementTypes]; \
  extern const RowSumKernel general##_row_sum_kernels[kNumElementTypes];
MYLINEAR_ISA_LIST(MYLINEAR_DECLARE_MATMUL_KERNELS)
#undef MYLINEAR_DECLARE_MATMUL_KERNELS

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_MATMUL_MATMUL_LIST_H_
