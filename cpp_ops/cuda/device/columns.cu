// Layer: CUDA kernels. See columns.h.
#include "cuda/device/columns.h"

#include "cuda/device/columns_kernel.cuh"

namespace mylinear::cuda {
namespace {

template <class T>
cudaError_t launch_type(const ColumnParams& p) {
  const ColumnArguments<T> arguments{p.M,
                                     p.N,
                                     p.K,
                                     static_cast<const T*>(p.x),
                                     p.x_row,
                                     p.x_step,
                                     static_cast<const T*>(p.w),
                                     static_cast<T*>(p.y)};
  const uint64_t blocks = (p.N + kWarpThreads - 1) / kWarpThreads;
  if (blocks > kMaxGridX) return cudaErrorInvalidConfiguration;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(p.M < kMaxGridY ? p.M : kMaxGridY));
  return p.x ? launch(column_kernel<T, true>, grid, p.stream, arguments)
             : launch(column_kernel<T, false>, grid, p.stream, arguments);
}

}  // namespace

cudaError_t launch_columns(const ColumnParams& params) {
  return launch_by_type(params.type,
                        [&](auto type_of) { return launch_type<typename decltype(type_of)::Type>(params); });
}

}  // namespace mylinear::cuda
