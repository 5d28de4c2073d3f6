// Layer: kernels. The rows of the tables of matmul_list.h, for the unit of an ISA.
#ifndef MYLINEAR_KERNELS_MATMUL_TABLES_H_
#define MYLINEAR_KERNELS_MATMUL_TABLES_H_

#include "kernels/matmul/matmul_tiles.h"
#include "kernels/matmul/row_sum.h"

namespace mylinear::kernels {

#define MYLINEAR_MATMUL(isa, Tag, S, type) \
  Matmul<Tag, S, isa##_matmul_mr, isa##_matmul_vecs>::row(#isa, ElementType::type)

// Defines the tables of matmul_list.h for the tag of a unit.
#define MYLINEAR_DEFINE_MATMUL_KERNELS(isa, Tag)                 \
  const MatmulKernel isa##_matmul_kernels[kNumElementTypes] = {  \
      MYLINEAR_MATMUL(isa, Tag, double, kFloat64),               \
      MYLINEAR_MATMUL(isa, Tag, float, kFloat32),                \
      MYLINEAR_MATMUL(isa, Tag, Float16, kFloat16),              \
      MYLINEAR_MATMUL(isa, Tag, Bfloat16, kBfloat16),            \
  };                                                             \
  const RowSumKernel isa##_row_sum_kernels[kNumElementTypes] = { \
      RowSum<Tag, double>::row(#isa, ElementType::kFloat64),     \
      RowSum<Tag, float>::row(#isa, ElementType::kFloat32),      \
      RowSum<Tag, Float16>::row(#isa, ElementType::kFloat16),    \
      RowSum<Tag, Bfloat16>::row(#isa, ElementType::kBfloat16),  \
  };

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_MATMUL_TABLES_H_
