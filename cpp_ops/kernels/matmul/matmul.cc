// Layer: kernels. The kernels of the products in matmul.h, by ISA.
#include "kernels/matmul/matmul.h"

#include "kernels/matmul/matmul_list.h"

namespace mylinear::kernels {
namespace {

#define MYLINEAR_MATMUL_ROW(isa) isa##_matmul_kernels,
constexpr const MatmulKernel* kMatmulTables[] = {MYLINEAR_ISA_LIST(MYLINEAR_MATMUL_ROW)};
#undef MYLINEAR_MATMUL_ROW

#define MYLINEAR_ROW_SUM_ROW(isa) isa##_row_sum_kernels,
constexpr const RowSumKernel* kRowSumTables[] = {MYLINEAR_ISA_LIST(MYLINEAR_ROW_SUM_ROW)};
#undef MYLINEAR_ROW_SUM_ROW

}  // namespace

const MatmulKernel* matmul_kernels(const Isa& isa) { return kMatmulTables[isa.index]; }
const RowSumKernel* row_sum_kernels(const Isa& isa) { return kRowSumTables[isa.index]; }

}  // namespace mylinear::kernels
