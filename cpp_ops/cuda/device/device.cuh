// Layer: CUDA kernels, device code. What all kernels share: the size of a block, the types of sums, loads of
// many elements, launches.
// Also compiled for the CPU by tests/cpp/cuda_backend_test.cc, on an emulation of warps and blocks
// (cuda_on_cpu.h).
#ifndef MYLINEAR_CUDA_DEVICE_DEVICE_CUH_
#define MYLINEAR_CUDA_DEVICE_DEVICE_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/gemm.h"

namespace mylinear::cuda {

inline constexpr int kBlockThreads = 256;
inline constexpr int kWarpThreads = 32;
inline constexpr int kBlockWarps = kBlockThreads / kWarpThreads;

// The type of the sums of a type.
template <class T>
struct Accumulator {
  using Type = float;
};
template <>
struct Accumulator<double> {
  using Type = double;
};

__device__ inline double to_sum(double value) { return value; }
__device__ inline float to_sum(float value) { return value; }
__device__ inline float to_sum(__half value) { return __half2float(value); }
__device__ inline float to_sum(__nv_bfloat16 value) { return __bfloat162float(value); }

__device__ inline void store(double* y, double sum) { *y = sum; }
__device__ inline void store(float* y, float sum) { *y = sum; }
__device__ inline void store(__half* y, float sum) { *y = __float2half_rn(sum); }
__device__ inline void store(__nv_bfloat16* y, float sum) { *y = __float2bfloat16_rn(sum); }

__device__ inline double fused(double a, double b, double c) { return fma(a, b, c); }
__device__ inline float fused(float a, float b, float c) { return fmaf(a, b, c); }

// The types of loads of a given number of bytes.
template <int kBytes>
struct Raw;
template <>
struct Raw<16> {
  using Type = uint4;
};
template <>
struct Raw<8> {
  using Type = double;
};
template <>
struct Raw<4> {
  using Type = unsigned int;
};
template <>
struct Raw<2> {
  using Type = unsigned short;
};

// kWidth elements that lie together, in as few loads as 16 bytes each allow.
template <class T, int kWidth>
struct Pack {
  static constexpr int kBytes = sizeof(T) * kWidth;
  static constexpr int kNumParts = kBytes > 16 ? kBytes / 16 : 1;
  using Part = typename Raw<kBytes / kNumParts>::Type;
  union {
    Part parts[kNumParts];
    T elements[kWidth];
  };
  __device__ Pack() {}
};

template <class T, int kWidth>
__device__ inline Pack<T, kWidth> load(const T* from) {
  Pack<T, kWidth> pack;
#pragma unroll
  for (int i = 0; i < pack.kNumParts; ++i) {
    pack.parts[i] = reinterpret_cast<const typename Pack<T, kWidth>::Part*>(from)[i];
  }
  return pack;
}

// For memory that is read once: it leaves the cache first.
template <class T, int kWidth>
__device__ inline Pack<T, kWidth> load_once(const T* from) {
  Pack<T, kWidth> pack;
#pragma unroll
  for (int i = 0; i < pack.kNumParts; ++i) {
    pack.parts[i] = __ldcs(reinterpret_cast<const typename Pack<T, kWidth>::Part*>(from) + i);
  }
  return pack;
}

inline constexpr uint64_t kMaxGridX = 0x7fffffff;
inline constexpr uint64_t kMaxGridY = 65535;

template <class... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, cudaStream_t stream, Parameters... values) {
#ifdef __CUDACC__
  void* arguments[] = {&values...};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, dim3(kBlockThreads), arguments, 0,
                          stream);
#else  // tests/cpp/cuda_on_cpu.h
  static_cast<void>(stream);
  return cuda_on_cpu::launch(kernel, grid, kBlockThreads, values...);
#endif
}

// A type as a value.
template <class T>
struct TypeOf {
  using Type = T;
};

// Returns `launch_as` of the TypeOf an element type.
template <class LaunchAs>
cudaError_t launch_by_type(kernels::ElementType type, LaunchAs launch_as) {
  switch (type) {
    case kernels::ElementType::kFloat64:
      return launch_as(TypeOf<double>{});
    case kernels::ElementType::kFloat32:
      return launch_as(TypeOf<float>{});
    case kernels::ElementType::kFloat16:
      return launch_as(TypeOf<__half>{});
    case kernels::ElementType::kBfloat16:
      return launch_as(TypeOf<__nv_bfloat16>{});
  }
  return cudaErrorInvalidValue;
}

}  // namespace mylinear::cuda

#endif  // MYLINEAR_CUDA_DEVICE_DEVICE_CUH_
