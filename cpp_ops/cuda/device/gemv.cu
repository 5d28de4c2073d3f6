// Layer: CUDA kernels. See gemv.h.
#include "cuda/device/gemv.h"

#include <type_traits>

#include "cuda/device/gemv_kernel.cuh"

namespace mylinear::cuda {
namespace {

// Whether the addresses and the length of the rows allow loads of 16 bytes of each.
template <class Row>
bool can_load_16_bytes(const GemvParams& p) {
  const auto address = reinterpret_cast<uintptr_t>(p.rows) | reinterpret_cast<uintptr_t>(p.vectors);
  return address % 16 == 0 && p.K % (16 / sizeof(Row)) == 0;
}

template <class Row, class T, int kVectors, int kWidth>
cudaError_t launch_rows(const GemvParams& p, GemvArguments<Row, T> arguments, uint64_t grid_y) {
  arguments.group_warps = choose_group_warps(p.num_rows, p.K / kWidth, p.num_multiprocessors);
  const uint64_t rows_per_block = static_cast<uint64_t>(kBlockWarps / arguments.group_warps) * kGroupRows;
  const uint64_t blocks = (p.num_rows + rows_per_block - 1) / rows_per_block;
  if (blocks > kMaxGridX) return cudaErrorInvalidConfiguration;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(grid_y));
  return launch(gemv_kernel<Row, T, kVectors, kWidth>, grid, p.stream, arguments);
}

template <class Row, class T, int kVectors>
cudaError_t launch_width(const GemvParams& p, const GemvArguments<Row, T>& arguments, uint64_t grid_y) {
  if (can_load_16_bytes<Row>(p)) return launch_rows<Row, T, kVectors, 16 / sizeof(Row)>(p, arguments, grid_y);
  return launch_rows<Row, T, kVectors, 1>(p, arguments, grid_y);
}

template <class Row, class T>
cudaError_t launch_types(const GemvParams& p) {
  GemvArguments<Row, T> arguments{p.num_rows,
                                  p.K,
                                  static_cast<const Row*>(p.rows),
                                  static_cast<const T*>(p.vectors),
                                  static_cast<const T*>(p.bias),
                                  p.has_bias_of_vectors ? 0u : 1u,
                                  p.has_bias_of_vectors ? 1u : 0u,
                                  static_cast<T*>(p.y),
                                  p.row_stride,
                                  p.vector_stride,
                                  p.activation,
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
        status = launch_width<Row, T, 1>(p, arguments, grid_y);
        break;
      case 2:
        status = launch_width<Row, T, 2>(p, arguments, grid_y);
        break;
      case 3:
        status = launch_width<Row, T, 3>(p, arguments, grid_y);
        break;
      default:
        status = launch_width<Row, T, kMaxVectors>(p, arguments, grid_y);
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

}  // namespace

cudaError_t launch_gemv(const GemvParams& params) {
  return launch_by_type(params.type, [&](auto type_of) {
    using T = typename decltype(type_of)::Type;
    if (params.row_type == params.type) return launch_types<T, T>(params);
    if constexpr (std::is_same_v<T, float>) {
      if (params.row_type == kernels::ElementType::kFloat16) return launch_types<__half, T>(params);
      if (params.row_type == kernels::ElementType::kBfloat16) return launch_types<__nv_bfloat16, T>(params);
    }
    return cudaErrorInvalidValue;
  });
}

}  // namespace mylinear::cuda
