// Layer: kernels. The kernels of the product Y = X W^T + B, by ISA.
#include "kernels/gemm.h"

#include "kernels/gemm_list.h"
#include "kernels/isa/tables.h"

namespace mylinear::kernels {
namespace {

using GemmTables = Tables<GemmKernel, kNumGemmKernels>;

GemmTables make_tables() {
#define MYLINEAR_GEMM_SOURCE(isa, general) {#isa, general##_kernels},
  GemmTables tables({MYLINEAR_ISA_LIST(MYLINEAR_GEMM_SOURCE)});
#undef MYLINEAR_GEMM_SOURCE
#define MYLINEAR_GEMM_OWN(isa) tables.replace(static_cast<int>(ElementType::kBfloat16), isa##_kernels[0]);
  MYLINEAR_BFLOAT16_ISA_LIST(MYLINEAR_GEMM_OWN)
#undef MYLINEAR_GEMM_OWN
  return tables;
}

}  // namespace

const GemmKernel* gemm_kernels(const Isa& isa) {
  static const GemmTables tables = make_tables();
  return tables.of(isa);
}

}  // namespace mylinear::kernels
