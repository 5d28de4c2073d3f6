// Layer: kernels. The kernels of activation.h, by ISA.
#include "kernels/activation/activation.h"

#include "kernels/activation/activation_list.h"
#include "kernels/isa/tables.h"

namespace mylinear::kernels {

const ActivationKernel* activation_kernels(const Isa& isa) {
#define MYLINEAR_ACTIVATION_SOURCE(isa, general) {#isa, general##_activation_kernels},
  static const Tables<ActivationKernel, kNumActivationTypes> tables(
      {MYLINEAR_ISA_LIST(MYLINEAR_ACTIVATION_SOURCE)});
#undef MYLINEAR_ACTIVATION_SOURCE
  return tables.of(isa);
}

}  // namespace mylinear::kernels
