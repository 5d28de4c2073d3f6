// Layer: kernel API. Activations, element by element, without libm; no onnxruntime here.
//
//   relu        max(x, 0)
//   gelu        x/2 (1 + erf(x / sqrt(2)))
//   gelu_tanh   x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
//   silu        x / (1 + exp(-x))
//   sigmoid     1 / (1 + exp(-x))
//   tanh        tanh(x)
//
// The results for NaN and infinities are those of these formulas in IEEE arithmetic: NaN stays NaN, gelu,
// gelu_tanh and silu of -inf are NaN, those of +inf are +inf. The sign of a zero is free.
//
// The errors are at most these, on every ISA, in units in the last place of the exact result, which may be
// denormal. tests/cpp/activation_test.cc checks them, on request over all 2^32 floats.
//
//                       float   double
//   relu                0       0
//   gelu, x >= 0        4       4
//   gelu, x < 0         9       14
//   gelu_tanh, x >= 0   3       3
//   silu                3.5     3.5
//   sigmoid             2.5     2.5
//   tanh                3       3
//
// gelu_tanh of a negative x is within 1.2 units in the last place of x: the rounding of its polynomial is a
// relative error of e^-2u, which grows with u where the result vanishes.
#ifndef MYLINEAR_KERNELS_ACTIVATION_ACTIVATION_H_
#define MYLINEAR_KERNELS_ACTIVATION_ACTIVATION_H_

#include <cstddef>

#include "kernels/isa/isa.h"

namespace mylinear::kernels {

enum class Activation : int { kNone, kRelu, kGelu, kGeluTanh, kSilu, kSigmoid, kTanh };
inline constexpr int kNumActivations = 7;
inline constexpr const char* kActivationNames[kNumActivations] = {"none", "relu",    "gelu", "gelu_tanh",
                                                                  "silu", "sigmoid", "tanh"};

// One row of the table for an ISA. Thread-safe; allocates nothing and throws nothing.
struct ActivationKernel {
  const char* isa;
  size_t element_size;  // of double or float
  // y = activation(x) for `count` elements; y may be x. Nothing need be aligned. The bits of a result depend
  // on the element and the ISA alone.
  void (*run)(Activation activation, const void* x, void* y, size_t count);
};

// The kernels for an ISA: that for double, then that for float.
inline constexpr int kNumActivationTypes = 2;
const ActivationKernel* activation_kernels(const Isa& isa);

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_ACTIVATION_ACTIVATION_H_
