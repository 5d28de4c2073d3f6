// Layer: CUDA kernels. What surrounds a product of cuBLASLt's, element by element; see elementwise.cu.
#ifndef MYLINEAR_CUDA_DEVICE_ELEMENTWISE_H_
#define MYLINEAR_CUDA_DEVICE_ELEMENTWISE_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/gemm.h"

namespace mylinear::cuda {

// y(m, n) = activation(sums(m, n) + bias(n)), rounded once, for rows of N elements that lie so far apart.
struct EpilogueParams {
  kernels::ElementType type;  // of bias and y
  uint64_t M;
  uint64_t N;
  const void* sums;  // float64 for float64, else float32; null: 0. May be y, where that has their type
  uint64_t sums_stride;
  const void* bias;  // null if absent
  kernels::Activation activation;
  void* y;
  uint64_t y_stride;
  cudaStream_t stream;
};
cudaError_t launch_epilogue(const EpilogueParams& params);

// to[i] = from[i], exactly, for `count` elements in float16 or bfloat16. `to` is aligned to 16 bytes.
cudaError_t launch_widen(kernels::ElementType type, uint64_t count, const void* from, float* to,
                         cudaStream_t stream);

}  // namespace mylinear::cuda

#endif  // MYLINEAR_CUDA_DEVICE_ELEMENTWISE_H_
