// Layer: kernels. Polynomials for formulas.h, by least squares with mpmath, reweighted towards the least
// maximum of the relative error. Lowest degree first.
#ifndef MYLINEAR_KERNELS_ACTIVATION_COEFFICIENTS_H_
#define MYLINEAR_KERNELS_ACTIVATION_COEFFICIENTS_H_

#include <cstddef>
#include <cstdint>

namespace mylinear::kernels {

template <class T>
struct Coefficients;

template <>
struct Coefficients<float> {
  using Word = uint32_t;
  static constexpr int kFractionBits = 23;
  static constexpr Word kBias = 127;
  static constexpr Word kUpperHalf = 0xfffff000;  // 12 bits of the significand, whose squares are exact
  static constexpr float kMagic = 0x1.8p23f;      // x + kMagic has x, rounded, in its lowest bits

  // n kLn2High is exact for each n here.
  static constexpr float kLog2e = 0x1.715476p0f, kLn2High = 0x1.63p-1f, kLn2Low = -0x1.bd0106p-13f;
  // (e^r - 1 - r) / r^2 for |r| <= ln(2)/2; 2^-28.2 of e^r.
  static constexpr float kExp[] = {0x1p-1f, 0x1.55548ap-3f, 0x1.555458p-5f, 0x1.123f7cp-7f, 0x1.6db9d2p-10f};
  // e^(a^2/2) erfc(a / sqrt(2)) / 2, a quotient, for 0 <= a <= 14.5; 2^-27.3.
  static constexpr float kNormalTop[] = {0x1.000000p-1f, 0x1.c0a55ap-2f, 0x1.7702d0p-3f, 0x1.4c84a2p-5f,
                                         0x1.0d56cap-8f};
  static constexpr float kNormalBottom[] = {0x1p0f,         0x1.ac94dep0f,  0x1.33b5cap0f,
                                            0x1.e066bep-2f, 0x1.a0c6b6p-4f, 0x1.518ffep-7f};

  // From here on the result is that for an infinite x: what is left of it is less than half of 2^-149.
  static constexpr float kGeluLimit = 14.5f, kGeluTanhLimit = 10.9f, kExpLimit = 110, kTanhLimit = 10;
};

template <>
struct Coefficients<double> {
  using Word = uint64_t;
  static constexpr int kFractionBits = 52;
  static constexpr Word kBias = 1023;
  static constexpr Word kUpperHalf = 0xfffffffff8000000;
  static constexpr double kMagic = 0x1.8p52;

  static constexpr double kLog2e = 0x1.71547652b82fep0, kLn2High = 0x1.62e42fefa2p-1,
                          kLn2Low = 0x1.9ef35793c7673p-41;
  // 2^-62 of e^r.
  static constexpr double kExp[] = {0x1p-1,
                                    0x1.5555555555557p-3,
                                    0x1.5555555555556p-5,
                                    0x1.111111110febap-7,
                                    0x1.6c16c16c1619cp-10,
                                    0x1.a01a01ad0d666p-13,
                                    0x1.a01a01a780286p-16,
                                    0x1.71ddfe9d9c037p-19,
                                    0x1.27e4d95922886p-22,
                                    0x1.af553e3465927p-26,
                                    0x1.1f77336cc2f5bp-29};
  // For 0 <= a <= 38.8; 2^-59.9.
  static constexpr double kNormalTop[] = {0x1p-1,
                                          0x1.a7c7548defa35p-1,
                                          0x1.5bc62941b762cp-1,
                                          0x1.6da25425cdd2ep-2,
                                          0x1.0e260cd072b74p-3,
                                          0x1.23ce689238492p-5,
                                          0x1.d20d985f6c573p-8,
                                          0x1.1007132dc02a3p-10,
                                          0x1.bdf8262fde73cp-14,
                                          0x1.d2df851f7cd8cp-18,
                                          0x1.dfdeceaf33798p-23};
  static constexpr double kNormalBottom[] = {0x1p0,
                                             0x1.3a04bf1648aafp+1,
                                             0x1.6870052d3937cp+1,
                                             0x1.0007a808bdaf0p+1,
                                             0x1.f56552c99376ep-1,
                                             0x1.644b61837e26ep-2,
                                             0x1.783c80a023aeep-4,
                                             0x1.286761c00953cp-6,
                                             0x1.5738c69aaf53fp-9,
                                             0x1.180ea27fba5edp-12,
                                             0x1.2491c086e0682p-16,
                                             0x1.2cb6d1f847a1fp-21};

  static constexpr double kGeluLimit = 38.8, kGeluTanhLimit = 21.6, kExpLimit = 755, kTanhLimit = 20;
};

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_ACTIVATION_COEFFICIENTS_H_
