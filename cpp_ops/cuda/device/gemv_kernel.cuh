// Layer: CUDA kernels, device code. Also compiled for the CPU by tests/cpp/cuda_backend_test.cc, on an
// emulation of warps and blocks (cuda_on_cpu.h), so it uses only the parts of CUDA that are emulated.
#ifndef MYLINEAR_CUDA_DEVICE_GEMV_KERNEL_CUH_
#define MYLINEAR_CUDA_DEVICE_GEMV_KERNEL_CUH_

#include "cuda/device/activation.cuh"
#include "cuda/device/device.cuh"

namespace mylinear::cuda {

// The rows of the output that a group of warps computes at a time: each load of a vector serves them all.
inline constexpr int kGroupRows = 2;
// Loads of the matrix in flight per thread: kUnroll x kGroupRows, 16 bytes each where the layout allows it.
inline constexpr int kUnroll = 4;

// T is the type of the vectors, the bias and y.
template <class Row, class T>
struct GemvArguments {
  uint64_t num_rows;
  uint64_t K;
  const Row* rows;
  const T* vectors;
  const T* bias;
  uint64_t bias_row_step;
  uint64_t bias_vector_step;
  T* y;
  uint64_t row_stride;
  uint64_t vector_stride;
  kernels::Activation activation;
  int group_warps;  // warps that share the sums of one group of rows: 1, 2, 4 or 8
};

// Block (x, y) computes rows x * (kBlockWarps / group_warps) * kGroupRows and on, of vectors y * kVectors and
// on. kWidth divides K, and rows and vectors are aligned to kWidth elements. The order of the sums depends on
// K, kWidth and group_warps alone.
template <class Row, class T, int kVectors, int kWidth>
__global__ void __launch_bounds__(kBlockThreads) gemv_kernel(GemvArguments<Row, T> p) {
  using Sum = typename Accumulator<T>::Type;
  __shared__ Sum partial[kBlockWarps][kGroupRows * kVectors];
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int rank = warp % p.group_warps;  // of this warp in its group
  const uint64_t group =
      static_cast<uint64_t>(blockIdx.x) * (kBlockWarps / p.group_warps) + warp / p.group_warps;
  const uint64_t first_row = group * kGroupRows;
  const uint64_t first_vector = static_cast<uint64_t>(blockIdx.y) * kVectors;

  // A group that reaches beyond the last row sums that row again and does not store it.
  const Row* row[kGroupRows];
#pragma unroll
  for (int r = 0; r < kGroupRows; ++r) {
    const uint64_t index = first_row + r < p.num_rows ? first_row + r : p.num_rows - 1;
    row[r] = p.rows + index * p.K;
  }
  const T* vectors = p.vectors + first_vector * p.K;

  Sum sums[kGroupRows][kVectors];
#pragma unroll
  for (int r = 0; r < kGroupRows; ++r) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) sums[r][v] = 0;
  }
  const auto accumulate = [&](const Pack<Row, kWidth>(&of_rows)[kGroupRows], uint64_t k) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const Pack<T, kWidth> of_vector = load<T, kWidth>(vectors + v * p.K + k);
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        const Sum factor = to_sum(of_vector.elements[e]);
#pragma unroll
        for (int r = 0; r < kGroupRows; ++r) {
          sums[r][v] = fused(to_sum(of_rows[r].elements[e]), factor, sums[r][v]);
        }
      }
    }
  };
  const uint64_t step = static_cast<uint64_t>(p.group_warps) * kWarpThreads * kWidth;
  uint64_t k = static_cast<uint64_t>(rank * kWarpThreads + lane) * kWidth;
  for (; k + (kUnroll - 1) * step < p.K; k += kUnroll * step) {
    Pack<Row, kWidth> of_rows[kUnroll][kGroupRows];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int r = 0; r < kGroupRows; ++r) of_rows[u][r] = load_once<Row, kWidth>(row[r] + k + u * step);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) accumulate(of_rows[u], k + u * step);
  }
  for (; k < p.K; k += step) {
    Pack<Row, kWidth> of_rows[kGroupRows];
#pragma unroll
    for (int r = 0; r < kGroupRows; ++r) of_rows[r] = load_once<Row, kWidth>(row[r] + k);
    accumulate(of_rows, k);
  }

#pragma unroll
  for (int r = 0; r < kGroupRows; ++r) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
#pragma unroll
      for (int distance = kWarpThreads / 2; distance > 0; distance /= 2) {
        sums[r][v] += __shfl_xor_sync(0xffffffffu, sums[r][v], distance);
      }
      if (lane == 0) partial[warp][r * kVectors + v] = sums[r][v];
    }
  }
  __syncthreads();
  // One thread of the group for each of its elements of the output.
  if (rank != 0 || lane >= kGroupRows * kVectors) return;
  const uint64_t r = first_row + lane / kVectors;
  const uint64_t v = first_vector + lane % kVectors;
  if (r >= p.num_rows) return;
  Sum sum = partial[warp][lane];
  for (int other = 1; other < p.group_warps; ++other) sum += partial[warp + other][lane];
  if (p.bias) sum += to_sum(p.bias[r * p.bias_row_step + v * p.bias_vector_step]);
  store(p.y + r * p.row_stride + v * p.vector_stride, activate(p.activation, sum));
}

// How many warps share the sums of a group of rows: as few as fill the device, while each has a load to do.
inline int choose_group_warps(uint64_t num_rows, uint64_t loads_per_row, int num_multiprocessors) {
  constexpr uint64_t kWarpsPerMultiprocessor = 16;  // to be tuned: 16 warps have 128 KiB of loads in flight
  const uint64_t groups = (num_rows + kGroupRows - 1) / kGroupRows;
  const uint64_t wanted = static_cast<uint64_t>(num_multiprocessors) * kWarpsPerMultiprocessor;
  int warps = 1;
  while (warps < kBlockWarps && groups * warps < wanted &&
         loads_per_row >= 2 * static_cast<uint64_t>(warps) * kWarpThreads) {
    warps *= 2;
  }
  return warps;
}

}  // namespace mylinear::cuda

#endif  // MYLINEAR_CUDA_DEVICE_GEMV_KERNEL_CUH_
