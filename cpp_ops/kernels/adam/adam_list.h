// Layer: kernels. The tables of the kernels in adam.h: the translation unit `isa/<isa>.cc` defines
// `<isa>_adam_kernels`, one row per element type.
#ifndef MYLINEAR_KERNELS_ADAM_ADAM_LIST_H_
#define MYLINEAR_KERNELS_ADAM_ADAM_LIST_H_

#include "kernels/adam/adam.h"
#include "kernels/isa/isa_list.h"

namespace mylinear::kernels {

#define MYLINEAR_DECLARE_ADAM_KERNELS(isa, general) \
  extern const AdamKernel general##_adam_kernels[kNumAdamTypes];
MYLINEAR_ISA_LIST(MYLINEAR_DECLARE_ADAM_KERNELS)
#undef MYLINEAR_DECLARE_ADAM_KERNELS

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_ADAM_ADAM_LIST_H_
