// Layer: kernels. Activations of rows of numbers, as a template over an ISA and an element type.
#ifndef MYLINEAR_KERNELS_ACTIVATION_ROWS_H_
#define MYLINEAR_KERNELS_ACTIVATION_ROWS_H_

#include "kernels/activation/activation_list.h"
#include "kernels/activation/formulas.h"

namespace mylinear::kernels {

// T is float or double.
template <class Tag, class T>
struct ActivationRows {
  using Simd = typename SimdOf<Tag, T>::type;
  static constexpr size_t kLanes = Simd::kLanes;

  template <Activation kActivation>
  static __attribute__((noinline)) void run_as(const T* x, T* y, size_t count) {
    const auto apply = [](const typename Simd::Vec& value) __attribute__((always_inline)) {
      return Formulas<Simd>::template apply<kActivation>(value);
    };
    size_t i = 0;
    for (; i + kLanes <= count; i += kLanes) Simd::store(y + i, apply(Simd::load(x + i)));
    if (const size_t rest = count - i) {
      Simd::store_first(y + i, apply(Simd::load_partial(x + i, rest)), rest);
    }
  }

  // y = activation(x); y may be x.
  static void run(Activation activation, const T* x, T* y, size_t count) {
    switch (activation) {
      case Activation::kNone:
        if (x != y) __builtin_memcpy(y, x, count * sizeof(T));
        return;
      case Activation::kRelu:
        return run_as<Activation::kRelu>(x, y, count);
      case Activation::kGelu:
        return run_as<Activation::kGelu>(x, y, count);
      case Activation::kGeluTanh:
        return run_as<Activation::kGeluTanh>(x, y, count);
      case Activation::kSilu:
        return run_as<Activation::kSilu>(x, y, count);
      case Activation::kSigmoid:
        return run_as<Activation::kSigmoid>(x, y, count);
      case Activation::kTanh:
        return run_as<Activation::kTanh>(x, y, count);
    }
  }

  static constexpr ActivationKernel row(const char* isa) {
    return {isa, sizeof(T), [](Activation activation, const void* x, void* y, size_t count) {
              run(activation, static_cast<const T*>(x), static_cast<T*>(y), count);
            }};
  }
};

// Defines the table of activation_list.h for the tag of a unit.
#define MYLINEAR_DEFINE_ACTIVATION_KERNELS(isa, Tag)                       \
  const ActivationKernel isa##_activation_kernels[kNumActivationTypes] = { \
      ActivationRows<Tag, double>::row(#isa),                              \
      ActivationRows<Tag, float>::row(#isa),                               \
  };

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_ACTIVATION_ROWS_H_
