// Layer: CUDA kernels. See elementwise.h.
#include "cuda/device/elementwise.h"

#include <type_traits>

#include "cuda/device/elementwise_kernel.cuh"

namespace mylinear::cuda {
namespace {

template <class T>
cudaError_t launch_type(const EpilogueParams& p) {
  const EpilogueArguments<T> arguments{p.M,
                                       p.N,
                                       static_cast<const typename Accumulator<T>::Type*>(p.sums),
                                       p.sums_stride,
                                       static_cast<const T*>(p.bias),
                                       p.activation,
                                       static_cast<T*>(p.y),
                                       p.y_stride};
  const uint64_t blocks = (p.N + kBlockThreads - 1) / kBlockThreads;
  if (blocks > kMaxGridX) return cudaErrorInvalidConfiguration;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(p.M < kMaxGridY ? p.M : kMaxGridY));
  return launch(epilogue_kernel<T>, grid, p.stream, arguments);
}

template <class T, int kWidth>
cudaError_t widen(uint64_t count, const T* from, float* to, cudaStream_t stream) {
  constexpr uint64_t kBlockElements = uint64_t{kBlockThreads} * kWidth;
  const uint64_t blocks = (count + kBlockElements - 1) / kBlockElements;
  if (blocks > kMaxGridX) return cudaErrorInvalidConfiguration;
  return launch(widen_kernel<T, kWidth>, dim3(static_cast<unsigned>(blocks)), stream, count, from, to);
}

}  // namespace

cudaError_t launch_epilogue(const EpilogueParams& params) {
  return launch_by_type(params.type,
                        [&](auto type_of) { return launch_type<typename decltype(type_of)::Type>(params); });
}

cudaError_t launch_widen(kernels::ElementType type, uint64_t count, const void* from, float* to,
                         cudaStream_t stream) {
  return launch_by_type(type, [&](auto type_of) {
    using T = typename decltype(type_of)::Type;
    if constexpr (sizeof(T) == 2) {
      const auto* narrow = static_cast<const T*>(from);
      if (reinterpret_cast<uintptr_t>(from) % 16 == 0) return widen<T, 8>(count, narrow, to, stream);
      return widen<T, 1>(count, narrow, to, stream);
    }
    return cudaErrorInvalidValue;
  });
}

}  // namespace mylinear::cuda
