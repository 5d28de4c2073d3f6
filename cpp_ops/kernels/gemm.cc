// Layer: kernels. The kernels of the product Y = X W^T + B, by ISA.
#include "kernels/gemm.h"

#include "kernels/gemm_list.h"

namespace mylinear::kernels {
namespace {

#define MYLINEAR_GEMM_ROW(isa) isa##_kernels,
constexpr const GemmKernel* kTables[] = {MYLINEAR_ISA_LIST(MYLINEAR_GEMM_ROW)};
#undef MYLINEAR_GEMM_ROW

}  // namespace

const GemmKernel* gemm_kernels(const Isa& isa) { return kTables[isa.index]; }

}  // namespace mylinear::kernels
