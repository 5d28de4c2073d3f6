// Layer: CUDA kernels, device code. Activations of a sum, in its type; their formulas are stated in
// kernels/activation/activation.h. Also compiled for the CPU, as device.cuh is.
//
// They are made of CUDA's functions, whose largest errors are, in units in the last place of the correctly
// rounded result (CUDA C++ Programming Guide, appendix Mathematical Functions, section Standard Functions;
// from extensive tests, says that guide, and not guaranteed):
//
//            exp   tanh   erfc
//   float    2     2      4
//   double   1     2      5
//
// With these and one half for the rounding, every activation is within the error that the bound of version 2
// allows to an evaluation: tests/native/test_cuda_on_cpu.py moves each function that far either way. They
// hold without -use_fast_math alone; the build says -ftz=false -prec-div=true.
//
// cuBLASLt's own epilogues serve none of them. RELU is documented as max(x, 0), which does not say that NaN
// stays NaN, and CUDA's fmaxf(NaN, 0) is 0. GELU is documented without a formula or an error.
#ifndef MYLINEAR_CUDA_DEVICE_ACTIVATION_CUH_
#define MYLINEAR_CUDA_DEVICE_ACTIVATION_CUH_

#include "cuda/device/device.cuh"
#include "kernels/activation/activation.h"

namespace mylinear::cuda {

struct DeviceMath {
  __device__ static float exp_of(float x) { return expf(x); }
  __device__ static double exp_of(double x) { return exp(x); }
  __device__ static float tanh_of(float x) { return tanhf(x); }
  __device__ static double tanh_of(double x) { return tanh(x); }
  __device__ static float erfc_of(float x) { return erfcf(x); }
  __device__ static double erfc_of(double x) { return erfc(x); }
};

// x times the normal distribution, from its tail: that of -|x|, or 1 minus it. So nothing cancels. A tail
// above one half, which it never is, would come of erfc's error where that error counts most.
template <class Math, class T>
__device__ inline T gelu(T x) {
  constexpr T kRootOfHalf = static_cast<T>(0.70710678118654752440);
  T tail = Math::erfc_of((x < T{0} ? -x : x) * kRootOfHalf) * static_cast<T>(0.5);
  if (tail > static_cast<T>(0.5)) tail = static_cast<T>(0.5);
  return x * (x < T{0} ? tail : T{1} - tail);
}

// x/2 (1 + tanh(u)) = x / (1 + e^-2u), which does not cancel.
template <class Math, class T>
__device__ inline T gelu_tanh(T x) {
  constexpr T kLinear = static_cast<T>(-1.5957691216057307118);  // -2 sqrt(2/pi)
  constexpr T kCubic = static_cast<T>(-0.07135481627260025);     // 0.044715 of it
  return x / (T{1} + Math::exp_of(x * fused(x * x, kCubic, kLinear)));
}

template <class Math = DeviceMath, class T>
__device__ inline T activate(kernels::Activation activation, T x) {
  switch (activation) {
    case kernels::Activation::kNone:
      break;
    case kernels::Activation::kRelu:
      return x < T{0} ? T{0} : x;  // NaN is not below 0
    case kernels::Activation::kGelu:
      return gelu<Math>(x);
    case kernels::Activation::kGeluTanh:
      return gelu_tanh<Math>(x);
    case kernels::Activation::kSilu:
      return x / (T{1} + Math::exp_of(-x));
    case kernels::Activation::kSigmoid:
      return T{1} / (T{1} + Math::exp_of(-x));
    case kernels::Activation::kTanh:
      return Math::tanh_of(x);
  }
  return x;
}

}  // namespace mylinear::cuda

#endif  // MYLINEAR_CUDA_DEVICE_ACTIVATION_CUH_
