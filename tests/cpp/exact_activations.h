// The activations by libm, in the type of their argument.
#ifndef MYLINEAR_TESTS_EXACT_ACTIVATIONS_H_
#define MYLINEAR_TESTS_EXACT_ACTIVATIONS_H_

#include <cmath>

#include "kernels/activation/activation.h"

namespace mylinear::kernels {

inline const char* name_of(Activation activation) { return kActivationNames[static_cast<int>(activation)]; }

// erfc(-x / sqrt(2)) / 2 with what the division's rounding loses, which matters where it is tiny.
template <class Wide>
Wide normal_distribution(Wide x) {
  if (std::isinf(x)) return x > 0 ? 1 : 0;
  const Wide root = std::sqrt(Wide{0.5L});
  const Wide lost = (Wide{0.5L} - root * root) / (2 * root);  // of the root
  const Wide y = -x * root;
  const Wide rest = std::fma(-x, root, -y) - x * lost;
  const Wide slope = 2 / std::sqrt(std::acos(Wide{-1})) * std::exp(-y * y);
  return (std::erfc(y) - slope * rest) / 2;
}

template <class Wide>
Wide exact(Activation activation, Wide x) {
  switch (activation) {
    case Activation::kRelu:
      return x < 0 ? 0 : x;
    case Activation::kGelu:
      return x * normal_distribution(x);
    case Activation::kGeluTanh: {
      const Wide twice = 2 * std::sqrt(2 / std::acos(Wide{-1})) * (x + Wide{0.044715L} * x * x * x);
      return x / (1 + std::exp(-twice));
    }
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kSigmoid:
      return 1 / (1 + std::exp(-x));
    case Activation::kTanh:
      return std::tanh(x);
    case Activation::kNone:
      break;
  }
  return x;
}

}  // namespace mylinear::kernels

#endif  // MYLINEAR_TESTS_EXACT_ACTIVATIONS_H_
