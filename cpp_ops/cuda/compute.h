// Layer: CUDA kernels. One call: chooses between the kernels, and keeps the state of each device.
#ifndef MYLINEAR_CUDA_COMPUTE_H_
#define MYLINEAR_CUDA_COMPUTE_H_

#include "cuda/backend.h"

namespace mylinear::cuda {

// Queues the work of a call. Throws Error. Thread-safe.
void compute_call(const Call& call);

}  // namespace mylinear::cuda

#endif  // MYLINEAR_CUDA_COMPUTE_H_
