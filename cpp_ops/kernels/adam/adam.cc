// Layer: kernels. The kernels of adam.h, by ISA.
#include "kernels/adam/adam.h"

#include "kernels/adam/adam_list.h"
#include "kernels/isa/tables.h"

namespace mylinear::kernels {

const AdamKernel* adam_kernels(const Isa& isa) {
#define MYLINEAR_ADAM_SOURCE(isa, general) {#isa, general##_adam_kernels},
  static const Tables<AdamKernel, kNumAdamTypes> tables({MYLINEAR_ISA_LIST(MYLINEAR_ADAM_SOURCE)});
#undef MYLINEAR_ADAM_SOURCE
  return tables.of(isa);
}

}  // namespace mylinear::kernels
