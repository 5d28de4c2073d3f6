// Layer: kernels. The tables of activation.h: the translation unit `isa/<isa>.cc` defines
// `<isa>_activation_kernels`.
#ifndef MYLINEAR_KERNELS_ACTIVATION_ACTIVATION_LIST_H_
#define MYLINEAR_KERNELS_ACTIVATION_ACTIVATION_LIST_H_

#include "kernels/activation/activation.h"
#include "kernels/isa/isa_list.h"

namespace mylinear::kernels {

#define MYLINEAR_DECLARE_ACTIVATION_KERNELS(isa, general) \
  extern const ActivationKernel general##_activation_kernels[kNumActivationTypes];
MYLINEAR_ISA_LIST(MYLINEAR_DECLARE_ACTIVATION_KERNELS)
#undef MYLINEAR_DECLARE_ACTIVATION_KERNELS

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_ACTIVATION_ACTIVATION_LIST_H_
