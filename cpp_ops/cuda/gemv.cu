// Layer: CUDA kernels. See gemv.h.
#include "cuda/gemv.h"

#include "cuda/gemv_kernel.cuh"

namespace mylinear::cuda {
namespace {

// The widest load, in bytes, that the address and the length of the rows allow.
template <class T>
bool can_load_16_bytes(const GemvParams& p) {
  const auto address = reinterpret_cast<uintptr_t>(p.rows) | reinterpret_cast<uintptr_t>(p.vectors);
  return address % 16 == 0 && p.K % (16 / sizeof(T)) == 0;
}

template <class T, int kVectors, int kWidth>
cudaError_t launch_rows(const GemvParams& p, GemvArguments<T> arguments, uint64_t grid_y) {
  arguments.group_warps = choose_group_warps(p.num_rows, p.K / kWidth, p.num_multiprocessors);
  const uint64_t rows_per_block = static_cast<uint64_t>(kBlockWarps / arguments.group_warps) * kGroupRows;
  const uint64_t blocks = (p.num_rows + rows_per_block - 1) / rows_per_block;
  if (blocks > kMaxGridX) return cudaErrorInvalidConfiguration;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(grid_y));
  return launch(gemv_kernel<T, kVectors, kWidth>, grid, p.stream, arguments);
}

template <class T, int kVectors>
cudaError_t launch_width(const GemvParams& p, const GemvArguments<T>& arguments, uint64_t grid_y) {
  if (can_load_16_bytes<T>(p)) return launch_rows<T, kVectors, 16 / sizeof(T)>(p, arguments, grid_y);
  return launch_rows<T, kVectors, 1>(p, arguments, grid_y);
}

template <class T>
cudaError_t launch_type(const GemvParams& p) {
  GemvArguments<T> arguments{p.num_rows,
                             p.K,
                             static_cast<const T*>(p.rows),
                             static_cast<const T*>(p.vectors),
                             static_cast<const T*>(p.bias),
                             p.has_bias_of_vectors ? 0u : 1u,
                             p.has_bias_of_vectors ? 1u : 0u,
                             static_cast<T*>(p.y),
                             p.row_stride,
                             p.vector_stride,
                             1};
  uint64_t left = p.num_vectors;
  while (left > 0) {
    uint64_t grid_y = left / kMaxVectors;
    uint64_t width = kMaxVectors;
    if (grid_y == 0) {
      grid_y = 1;
      width = left;
    } else if (grid_y > kMaxGridY) {
      grid_y = kMaxGridY;
    }
    cudaError_t status;
    switch (width) {
      case 1:
        status = launch_width<T, 1>(p, arguments, grid_y);
        break;
      case 2:
        status = launch_width<T, 2>(p, arguments, grid_y);
        break;
      case 3:
        status = launch_width<T, 3>(p, arguments, grid_y);
        break;
      default:
        status = launch_width<T, kMaxVectors>(p, arguments, grid_y);
    }
    if (status != cudaSuccess) return status;
    const uint64_t done = grid_y * width;
    left -= done;
    arguments.vectors += done * p.K;
    arguments.y += done * p.vector_stride;
    if (arguments.bias) arguments.bias += done * arguments.bias_vector_step;
  }
  return cudaSuccess;
}

template <class T>
cudaError_t fill_type(uint64_t M, uint64_t N, const void* bias, void* y, cudaStream_t stream) {
  const uint64_t blocks = (N + kBlockThreads - 1) / kBlockThreads;
  if (blocks > kMaxGridX) return cudaErrorInvalidConfiguration;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(M < kMaxGridY ? M : kMaxGridY));
  return launch(fill_kernel<T>, grid, stream, M, N, static_cast<const T*>(bias), static_cast<T*>(y));
}

}  // namespace

cudaError_t launch_gemv(const GemvParams& params) {
  return launch_by_type(params.type,
                        [&](auto type_of) { return launch_type<typename decltype(type_of)::Type>(params); });
}

cudaError_t launch_fill(kernels::ElementType type, uint64_t M, uint64_t N, const void* bias, void* y,
                        cudaStream_t stream) {
  return launch_by_type(
      type, [&](auto type_of) { return fill_type<typename decltype(type_of)::Type>(M, N, bias, y, stream); });
}

}  // namespace mylinear::cuda
