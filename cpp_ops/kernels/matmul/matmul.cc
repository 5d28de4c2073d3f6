// Layer: kernels. The kernels of the products in matmul.h, by ISA.
#include "kernels/matmul/matmul.h"

#include "kernels/isa/tables.h"
#include "kernels/matmul/matmul_list.h"

namespace mylinear::kernels {

const MatmulKernel* matmul_kernels(const Isa& isa) {
#define MYLINEAR_MATMUL_SOURCE(isa, general) {#isa, general##_matmul_kernels},
  static const Tables<MatmulKernel, kNumElementTypes> tables({MYLINEAR_ISA_LIST(MYLINEAR_MATMUL_SOURCE)});
#undef MYLINEAR_MATMUL_SOURCE
  return tables.of(isa);
}

const RowSumKernel* row_sum_kernels(const Isa& isa) {
#define MYLINEAR_ROW_SUM_SOURCE(isa, general) {#isa, general##_row_sum_kernels},
  static const Tables<RowSumKernel, kNumElementTypes> tables({MYLINEAR_ISA_LIST(MYLINEAR_ROW_SUM_SOURCE)});
#undef MYLINEAR_ROW_SUM_SOURCE
  return tables.of(isa);
}

}  // namespace mylinear::kernels
