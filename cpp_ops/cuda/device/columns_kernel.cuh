// Layer: CUDA kernels, device code. Also compiled for the CPU, as device.cuh is.
#ifndef MYLINEAR_CUDA_DEVICE_COLUMNS_KERNEL_CUH_
#define MYLINEAR_CUDA_DEVICE_COLUMNS_KERNEL_CUH_

#include "cuda/device/device.cuh"

namespace mylinear::cuda {

template <class T>
struct ColumnArguments {
  uint64_t M;
  uint64_t N;
  uint64_t K;
  const T* x;
  uint64_t x_row;
  uint64_t x_step;
  const T* w;
  T* y;
};

// Block (x, y) computes columns x * kWarpThreads and on, of rows y, y + gridDim.y and on. Neighbouring
// threads read neighbouring columns; each warp sums every kBlockWarps-th term, and the first one adds up the
// warps. The order of a sum depends on K alone.
template <class T, bool kHasFactors>
__global__ void __launch_bounds__(kBlockThreads) column_kernel(ColumnArguments<T> p) {
  using Sum = typename Accumulator<T>::Type;
  __shared__ Sum partial[kBlockWarps][kWarpThreads];
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const uint64_t n = static_cast<uint64_t>(blockIdx.x) * kWarpThreads + lane;
  for (uint64_t m = blockIdx.y; m < p.M; m += gridDim.y) {
    Sum sum = 0;
    if (n < p.N) {
#pragma unroll 4
      for (uint64_t k = warp; k < p.K; k += kBlockWarps) {
        const Sum term = to_sum(p.w[k * p.N + n]);
        if (kHasFactors) {
          sum = fused(to_sum(p.x[m * p.x_row + k * p.x_step]), term, sum);
        } else {
          sum += term;
        }
      }
    }
    partial[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && n < p.N) {
      for (int other = 1; other < kBlockWarps; ++other) sum += partial[other][lane];
      store(p.y + m * p.N + n, sum);
    }
    __syncthreads();  // before the next row overwrites the partial sums
  }
}

}  // namespace mylinear::cuda

#endif  // MYLINEAR_CUDA_DEVICE_COLUMNS_KERNEL_CUH_
