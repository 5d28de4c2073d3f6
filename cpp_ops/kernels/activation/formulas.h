// Layer: kernels. Activations of one vector, as a template over an ISA's Float or Double. No branches and no
// libm: every lane takes the same steps, so its bits depend on its element alone.
//
// Vectors are the compiler's own here, which adds, multiplies, divides, compares and selects with each ISA's
// instructions; only fma comes from the ISA.
#ifndef MYLINEAR_KERNELS_ACTIVATION_FORMULAS_H_
#define MYLINEAR_KERNELS_ACTIVATION_FORMULAS_H_

#include "kernels/activation/activation.h"
#include "kernels/activation/coefficients.h"
#include "kernels/simd.h"

namespace mylinear::kernels {

#define MYLINEAR_INLINE static inline __attribute__((always_inline))

template <class Simd>
struct Formulas {
  using T = typename Simd::Scalar;
  using Vec = typename Simd::Vec;
  using C = Coefficients<T>;
  using Word = typename C::Word;
  typedef T V __attribute__((vector_size(sizeof(Vec))));
  typedef Word W __attribute__((vector_size(sizeof(Vec))));
  using Mask = decltype(V{} < V{});

  MYLINEAR_INLINE V all(T value) { return V{} + value; }
  MYLINEAR_INLINE V fma(V a, V b, V c) { return (V)Simd::fma((Vec)a, (Vec)b, (Vec)c); }
  MYLINEAR_INLINE V magnitude(V x) { return (V)((W)x & (~Word{0} >> 1)); }
  MYLINEAR_INLINE V at_most(V x, T limit) { return x < limit ? x : all(limit); }  // for NaN too
  MYLINEAR_INLINE V unless_nan(V x, V result) { return x == x ? result : x; }

  // The coefficients from `kFirst` on.
  template <size_t kFirst = 0, size_t kCount>
  MYLINEAR_INLINE V polynomial(const T (&coefficients)[kCount], V x) {
    V sum = all(coefficients[kCount - 1]);
#pragma GCC unroll 16
    for (size_t i = kCount - 1; i > kFirst; --i) sum = fma(sum, x, all(coefficients[i - 1]));
    return sum;
  }

  // z = n ln(2) - r, n whole, |r| at most about ln(2)/2; `shifted` is n + kMagic.
  struct Reduced {
    V n;
    V shifted;
    V r;
  };
  // Of z = high + low >= 0; `high` has so few bits that its difference from n kLn2High is exact.
  template <bool kHasLow>
  MYLINEAR_INLINE Reduced reduce(V high, V low) {
    V whole = high;
    if constexpr (kHasLow) whole += low;
    const V shifted = fma(whole, all(C::kLog2e), all(C::kMagic));
    const V n = shifted - C::kMagic;
    V r = fma(n, all(C::kLn2Low), fma(n, all(C::kLn2High), -high));
    if constexpr (kHasLow) r -= low;
    return {n, shifted, r};
  }

  // e^r - 1
  MYLINEAR_INLINE V small_expm1(V r) { return fma(r * r, polynomial(C::kExp, r), r); }
  MYLINEAR_INLINE W whole(Reduced z) { return (W)z.shifted - (W)all(C::kMagic); }
  MYLINEAR_INLINE V power_of_two(W exponent) { return (V)((exponent + C::kBias) << C::kFractionBits); }

  // Numbers near e^-z are held 2^kUpBits times as large, so that they are normal wherever a result is. Where
  // the result is that of an infinite x, e^-z is 0, and z is 0 meanwhile: a CPU takes ten times as long over
  // numbers that become denormal.
  static constexpr int kUpBits = 24;
  static constexpr T kDown = 0x1p-24;

  // value 2^-n, held so
  MYLINEAR_INLINE V scaled(V value, Reduced z) {
    if constexpr (Simd::kHasScale) {
      return (V)Simd::scale((Vec)value, (Vec)(T{kUpBits} - z.n));
    } else {
      const W n = whole(z), half = n >> 1;
      return value * power_of_two(kUpBits - half) * power_of_two(half - n);
    }
  }

  // factor / (1 + e^-z), z of the sign of x and of the size that is reduced. Both sides lose nothing: for
  // negative x it is factor e^-|z| / (1 + e^-|z|).
  MYLINEAR_INLINE V logistic(V factor, V x, Reduced z, Mask is_inside) {
    const V exp = is_inside ? scaled(small_expm1(z.r) + T{1}, z) : V{};
    const V bottom = fma(exp, all(kDown), all(1));
    const V quotient = (x < T{0} ? exp : all(1)) / bottom;
    return factor * quotient * (x < T{0} ? all(kDown) : all(1));
  }

  MYLINEAR_INLINE V relu(V x) { return x < T{0} ? V{} : x; }
  // factor / (1 + e^-x)
  MYLINEAR_INLINE V logistic(V factor, V x) {
    const Mask is_inside = magnitude(x) < C::kExpLimit;
    return logistic(factor, x, reduce<false>(is_inside ? magnitude(x) : V{}, V{}), is_inside);
  }
  MYLINEAR_INLINE V sigmoid(V x) { return unless_nan(x, logistic(all(1), x)); }
  MYLINEAR_INLINE V silu(V x) { return logistic(x, x); }

  // (1 + tanh(u)) / 2 = 1 / (1 + e^-2u)
  MYLINEAR_INLINE V gelu_tanh(V x) {
    constexpr T kLinear = static_cast<T>(1.5957691216057307117597842397375L);  // 2 sqrt(2/pi)
    constexpr T kCubic = static_cast<T>(0.07135481627260025L);                 // 0.044715 of it
    const Mask is_inside = magnitude(x) < C::kGeluTanhLimit;
    const V a = is_inside ? magnitude(x) : V{};
    const V z = a * fma(a * a, all(kCubic), all(kLinear));
    return logistic(x, x, reduce<false>(z, V{}), is_inside);
  }

  // x times the normal distribution: of -a = -|x|, e^(-a^2/2) times a quotient of polynomials, or 1 minus
  // that. a^2 is computed in two parts, because its absolute error is a relative one of the result.
  MYLINEAR_INLINE V gelu(V x) {
    const Mask is_inside = magnitude(x) < C::kGeluLimit;
    const V a = is_inside ? magnitude(x) : V{};
    const V upper = (V)((W)a & C::kUpperHalf);
    const Reduced z = reduce<true>(upper * upper * T{0.5}, (a - upper) * (a + upper) * T{0.5});
    // (1 + fraction) top, with one rounding of a size near that of the constant term
    const V rest = polynomial<1>(C::kNormalTop, a) * a;
    const V top = fma(rest + C::kNormalTop[0], small_expm1(z.r), rest) + C::kNormalTop[0];
    const V tail = is_inside ? scaled(top, z) / polynomial(C::kNormalBottom, a) : V{};
    const V share = x < T{0} ? tail : fma(tail, all(-kDown), all(1));
    return x * share * (x < T{0} ? all(kDown) : all(1));
  }

  // t / (t + 2), t = e^2|x| - 1
  MYLINEAR_INLINE V tanh(V x) {
    const V z = at_most(magnitude(x), C::kTanhLimit) * T{2};
    const Reduced reduced = reduce<false>(z, V{});
    const V scale = power_of_two(whole(reduced));
    const V t = fma(scale, small_expm1(-reduced.r), scale - T{1});
    const W sign = (W)x & ~(~Word{0} >> 1);
    return unless_nan(x, (V)((W)(t / (t + T{2})) | sign));
  }

  template <Activation kActivation>
  MYLINEAR_INLINE Vec apply(Vec value) {
    const V x = (V)value;
    if constexpr (kActivation == Activation::kRelu) return (Vec)relu(x);
    if constexpr (kActivation == Activation::kGelu) return (Vec)gelu(x);
    if constexpr (kActivation == Activation::kGeluTanh) return (Vec)gelu_tanh(x);
    if constexpr (kActivation == Activation::kSilu) return (Vec)silu(x);
    if constexpr (kActivation == Activation::kSigmoid) return (Vec)sigmoid(x);
    if constexpr (kActivation == Activation::kTanh) return (Vec)tanh(x);
    return value;
  }
};

#undef MYLINEAR_INLINE

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_ACTIVATION_FORMULAS_H_
