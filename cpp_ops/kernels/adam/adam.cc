// Layer: kernels. The kernels of adam.h, by ISA.
#include "kernels/adam/adam.h"

#include "kernels/adam/adam_list.h"

namespace mylinear::kernels {
namespace {

#define MYLINEAR_ADAM_ROW(isa) isa##_adam_kernels,
constexpr const AdamKernel* kAdamTables[] = {MYLINEAR_ISA_LIST(MYLINEAR_ADAM_ROW)};
#undef MYLINEAR_ADAM_ROW

}  // namespace

const AdamKernel* adam_kernels(const Isa& isa) { return kAdamTables[isa.index]; }

}  // namespace mylinear::kernels
