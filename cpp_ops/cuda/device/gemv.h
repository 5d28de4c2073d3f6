// Layer: CUDA kernels. Products with few rows on one side, bound by reading the other matrix; see gemv.cu.
#ifndef MYLINEAR_CUDA_DEVICE_GEMV_H_
#define MYLINEAR_CUDA_DEVICE_GEMV_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/gemm.h"

namespace mylinear::cuda {

// y(r, v) = activation(sum over k of rows(r, k) * vectors(v, k) + bias), at y + r * row_stride + v *
// vector_stride, for row-major [num_rows, K] and [num_vectors, K]. `rows` is the large matrix, which is read
// once.
struct GemvParams {
  kernels::ElementType type;      // of the vectors, bias and y
  kernels::ElementType row_type;  // of the rows: the same, or float16 or bfloat16 where that is float32
  uint64_t num_rows;
  uint64_t num_vectors;
  uint64_t K;
  const void* rows;
  const void* vectors;
  const void* bias;          // null if absent
  bool has_bias_of_vectors;  // whether bias is indexed by vector instead of by row
  void* y;
  uint64_t row_stride;
  uint64_t vector_stride;
  kernels::Activation activation;
  int num_multiprocessors;
  cudaStream_t stream;
};

// Up to kMaxVectors vectors take one launch that reads `rows` once; more take one pass over `rows` for each
// kMaxVectors of them, which is right at any size, and slow. K may be 0.
inline constexpr uint64_t kMaxVectors = 4;
cudaError_t launch_gemv(const GemvParams& params);

}  // namespace mylinear::cuda

#endif  // MYLINEAR_CUDA_DEVICE_GEMV_H_
