// Layer: CUDA kernels. Products that are a few sums per byte of one matrix: what gemv.cu launches.
#ifndef MYLINEAR_CUDA_GEMV_H_
#define MYLINEAR_CUDA_GEMV_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/gemm.h"

namespace mylinear::cuda {

// y(r, v) = sum over k of rows(r, k) * vectors(v, k) + bias, at y + r * row_stride + v * vector_stride, for
// row-major [num_rows, K] and [num_vectors, K]. `rows` is the large matrix, which is read once.
struct GemvParams {
  kernels::ElementType type;
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
  int num_multiprocessors;
  cudaStream_t stream;
};

// With up to kMaxVectors vectors it is one launch that reads `rows` once; with more, one pass over `rows` for
// each kMaxVectors of them: right at any size, and slow. K may be 0.
inline constexpr uint64_t kMaxVectors = 4;
cudaError_t launch_gemv(const GemvParams& params);

// y [M, N] = bias [N] in every row, or 0 without one.
cudaError_t launch_fill(kernels::ElementType type, uint64_t M, uint64_t N, const void* bias, void* y,
                        cudaStream_t stream);

}  // namespace mylinear::cuda

#endif  // MYLINEAR_CUDA_GEMV_H_
