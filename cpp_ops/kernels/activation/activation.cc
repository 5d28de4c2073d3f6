// Layer: kernels. The kernels of activation.h, by ISA.
#include "kernels/activation/activation.h"

#include "kernels/activation/activation_list.h"

namespace mylinear::kernels {
namespace {

#define MYLINEAR_ACTIVATION_ROW(isa) isa##_activation_kernels,
constexpr const ActivationKernel* kActivationTables[] = {MYLINEAR_ISA_LIST(MYLINEAR_ACTIVATION_ROW)};
#undef MYLINEAR_ACTIVATION_ROW

}  // namespace

const ActivationKernel* activation_kernels(const Isa& isa) { return kActivationTables[isa.index]; }

}  // namespace mylinear::kernels
