// Layer: kernels. Three plain loops.
#include "kernels/reference.h"

#include <cmath>

#include "kernels/half.h"

namespace mylinear::kernels {
namespace {

double to_double(double value) { return value; }
double to_double(float value) { return value; }
double to_double(Float16 value) { return to_float(value); }
double to_double(Bfloat16 value) { return to_float(value); }

template <class S>
void reference_of(const GemmParams& p, double* y, double* magnitude) {
  const S* x = static_cast<const S*>(p.x);
  const S* w = static_cast<const S*>(p.w);
  const S* bias = static_cast<const S*>(p.bias);
  for (size_t m = 0; m < p.M; ++m) {
    for (size_t n = 0; n < p.N; ++n) {
      double sum = 0;
      double terms = 0;
      for (size_t k = 0; k < p.K; ++k) {
        const double term = to_double(x[m * p.K + k]) * to_double(w[n * p.K + k]);
        sum += term;
        terms += std::fabs(term);
      }
      const double b = bias ? to_double(bias[n]) : 0.0;
      y[m * p.N + n] = bias ? sum + b : sum;
      magnitude[m * p.N + n] = terms + std::fabs(b);
    }
  }
}

}  // namespace

void reference(ElementType type, const GemmParams& params, double* y, double* magnitude) {
  switch (type) {
    case ElementType::kFloat64:
      return reference_of<double>(params, y, magnitude);
    case ElementType::kFloat32:
      return reference_of<float>(params, y, magnitude);
    case ElementType::kFloat16:
      return reference_of<Float16>(params, y, magnitude);
    case ElementType::kBfloat16:
      return reference_of<Bfloat16>(params, y, magnitude);
  }
}

}  // namespace mylinear::kernels
