// Layer: CUDA kernels, device code. Also compiled for the CPU, as device.cuh is.
#ifndef MYLINEAR_CUDA_DEVICE_ELEMENTWISE_KERNEL_CUH_
#define MYLINEAR_CUDA_DEVICE_ELEMENTWISE_KERNEL_CUH_

#include "cuda/device/activation.cuh"
#include "cuda/device/device.cuh"

namespace mylinear::cuda {

template <class T>
struct EpilogueArguments {
  uint64_t M;
  uint64_t N;
  const typename Accumulator<T>::Type* sums;
  uint64_t sums_stride;
  const T* bias;
  kernels::Activation activation;
  T* y;
  uint64_t y_stride;
};

// Thread x of block (x, y) computes column x of rows y, y + gridDim.y and on. `y` may be `sums`: each element
// is read and written by one thread.
template <class T>
__global__ void __launch_bounds__(kBlockThreads) epilogue_kernel(EpilogueArguments<T> p) {
  using Sum = typename Accumulator<T>::Type;
  const uint64_t n = static_cast<uint64_t>(blockIdx.x) * kBlockThreads + threadIdx.x;
  if (n >= p.N) return;
  const Sum bias = p.bias ? to_sum(p.bias[n]) : Sum{0};
  for (uint64_t m = blockIdx.y; m < p.M; m += gridDim.y) {
    Sum sum = p.sums ? p.sums[m * p.sums_stride + n] : Sum{0};
    if (p.bias) sum += bias;  // so that a bias of -0 gives 0 for a sum of no terms
    store(p.y + m * p.y_stride + n, activate(p.activation, sum));
  }
}

// Thread i widens elements i * kWidth and on; those from the last multiple of kWidth on, one by one.
template <class T, int kWidth>
__global__ void __launch_bounds__(kBlockThreads) widen_kernel(uint64_t count, const T* from, float* to) {
  const uint64_t first = (static_cast<uint64_t>(blockIdx.x) * kBlockThreads + threadIdx.x) * kWidth;
  if (first + kWidth <= count) {
    const Pack<T, kWidth> narrow = load_once<T, kWidth>(from + first);
    Pack<float, kWidth> wide;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) wide.elements[i] = to_sum(narrow.elements[i]);
#pragma unroll
    for (int i = 0; i < wide.kNumParts; ++i) {
      reinterpret_cast<typename Pack<float, kWidth>::Part*>(to + first)[i] = wide.parts[i];
    }
  } else {
    for (uint64_t i = first; i < count; ++i) to[i] = to_sum(from[i]);
  }
}

}  // namespace mylinear::cuda

#endif  // MYLINEAR_CUDA_DEVICE_ELEMENTWISE_KERNEL_CUH_
