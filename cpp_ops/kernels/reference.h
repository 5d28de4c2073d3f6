// Layer: kernels. The definition that every kernel is tested against.
#ifndef MYLINEAR_KERNELS_REFERENCE_H_
#define MYLINEAR_KERNELS_REFERENCE_H_

#include "kernels/gemm.h"

namespace mylinear::kernels {

// Computes Y, summed in double in the order of K and not rounded to the storage type, and for each element of
// Y the sum of the absolute values of its terms, from which the error bound of a kernel follows. Both are [M,
// N].
void reference(ElementType type, const GemmParams& params, double* y, double* magnitude);

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_REFERENCE_H_
