// The CUDA backend as a library that Python opens (tests/native/test_cuda_on_cpu.py): its own entry, with a
// CUDA runtime and a cuBLASLt that are fakes, and beside it its activations, with CUDA's functions as wrong
// as their documentation lets them be.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <type_traits>

#include "cuda_on_cpu.h"
#include "fake_cuda_runtime.h"

// After the emulation of CUDA's words.
#include "cuda/device/activation.cuh"

namespace {

using mylinear::kernels::Activation;

// The ULPs that activation.cuh states of CUDA's functions, and which way they are off: -1, 0 or 1.
struct Off {
  int exp, tanh, erfc;
};
constexpr Off kOfFloat = {2, 2, 4}, kOfDouble = {1, 2, 5};
int direction = 0;

// The number so many places away; never past 0 or infinity.
template <class T>
T moved(T value, int places) {
  for (int i = 0; i < std::abs(places) && value != 0 && std::isfinite(value); ++i) {
    value = std::nextafter(
        value, places > 0 ? std::numeric_limits<T>::infinity() : -std::numeric_limits<T>::infinity());
  }
  return value;
}

// The correctly rounded result, moved by what is documented.
struct OffMath {
  template <class T>
  using Wide = std::conditional_t<sizeof(T) == 4, double, long double>;
  template <class T>
  static constexpr Off off() {
    return sizeof(T) == 4 ? kOfFloat : kOfDouble;
  }
  template <class T>
  static T exp_of(T x) {
    return moved(static_cast<T>(std::exp(Wide<T>{x})), direction * off<T>().exp);
  }
  template <class T>
  static T tanh_of(T x) {
    return moved(static_cast<T>(std::tanh(Wide<T>{x})), direction * off<T>().tanh);
  }
  template <class T>
  static T erfc_of(T x) {
    return moved(static_cast<T>(std::erfc(Wide<T>{x})), direction * off<T>().erfc);
  }
};

template <class T>
void run(Activation activation, bool is_off, uint64_t count, const T* x, T* y) {
  for (uint64_t i = 0; i < count; ++i) {
    y[i] = is_off ? mylinear::cuda::activate<OffMath>(activation, x[i])
                  : mylinear::cuda::activate(activation, x[i]);
  }
}

}  // namespace

// y = activation(x) of `count` doubles, or floats. `off`: 0 as the C library computes, else with CUDA's
// functions all off by as much as is documented: 1 upwards, -1 downwards.
extern "C" __attribute__((visibility("default"))) void activations_on_cpu(int activation, int is_double,
                                                                          int off, uint64_t count,
                                                                          const void* x, void* y) {
  direction = off;
  const auto which = static_cast<Activation>(activation);
  if (is_double) {
    run(which, off != 0, count, static_cast<const double*>(x), static_cast<double*>(y));
  } else {
    run(which, off != 0, count, static_cast<const float*>(x), static_cast<float*>(y));
  }
}
