// Layer: CUDA kernels. Sums down the columns of a matrix; see columns.cu.
#ifndef MYLINEAR_CUDA_DEVICE_COLUMNS_H_
#define MYLINEAR_CUDA_DEVICE_COLUMNS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/gemm.h"

namespace mylinear::cuda {

// y(m, n) = sum over k of x(m, k) * w(k, n), for row-major w [K, N] and y [M, N], and x at any strides.
struct ColumnParams {
  kernels::ElementType type;
  uint64_t M;
  uint64_t N;
  uint64_t K;
  const void* x;  // null: every x(m, k) is 1
  uint64_t x_row;
  uint64_t x_step;
  const void* w;
  void* y;
  cudaStream_t stream;
};

// One launch, right at any size. It reads w once for each row of x, so as a product it is slow.
cudaError_t launch_columns(const ColumnParams& params);

}  // namespace mylinear::cuda

#endif  // MYLINEAR_CUDA_DEVICE_COLUMNS_H_
