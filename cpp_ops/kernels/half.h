// Layer: kernels. float16 and bfloat16 to and from float in software, bit-equal to the hardware (x86 F16C,
// arm64 FCVT): round to nearest even, denormals kept, a NaN stays a NaN with its sign and upper
// payload, quieted.
//
// Internal linkage on purpose: each ISA's unit gets its own copies, so that none compiled for a newer CPU is
// linked into the code of an older one.
#ifndef MYLINEAR_KERNELS_HALF_H_
#define MYLINEAR_KERNELS_HALF_H_

#include <cstdint>

#ifdef __CUDACC__
#define MYLINEAR_ON_DEVICE_TOO __host__ __device__
#else
#define MYLINEAR_ON_DEVICE_TOO
#endif

namespace mylinear::kernels {

// Storage of the two small types: a number each, so that no arithmetic happens in them by accident.
struct Float16 {
  uint16_t bits;
};
struct Bfloat16 {
  uint16_t bits;
};

MYLINEAR_ON_DEVICE_TOO static inline uint32_t float_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

MYLINEAR_ON_DEVICE_TOO static inline float float_from_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

MYLINEAR_ON_DEVICE_TOO static inline float to_float(Bfloat16 value) {
  return float_from_bits(uint32_t{value.bits} << 16);
}

MYLINEAR_ON_DEVICE_TOO static inline float to_float(Float16 value) {
  const uint32_t sign = (value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1fu;
  const uint32_t mantissa = value.bits & 0x3ffu;
  if (exponent == 31) {
    const uint32_t quiet = mantissa ? 0x400000u : 0;
    return float_from_bits(sign | 0x7f800000u | quiet | (mantissa << 13));
  }
  if (exponent == 0) {  // zero or denormal: mantissa * 2^-24, exact in float
    return float_from_bits(sign | float_bits(static_cast<float>(mantissa) * 0x1p-24f));
  }
  return float_from_bits(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

MYLINEAR_ON_DEVICE_TOO static inline Bfloat16 to_bfloat16(float value) {
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

MYLINEAR_ON_DEVICE_TOO static inline Float16 to_float16(float value) {
  const uint32_t bits = float_bits(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  } else if (magnitude >=
             0x47800000u) {  // 2^16 and up; what lies between the largest number and 2^16 is below
    half = 0x7c00u;
  } else if (magnitude >=
             0x38800000u) {  // 2^-14 and up: normal; a carry runs on into the exponent, up to inf
    const uint32_t rebased = magnitude - (112u << 23);
    half = (rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13;
  } else if (magnitude >= 0x33000000u) {              // 2^-25 and up: denormal, in units of 2^-24
    const uint32_t shift = 126u - (magnitude >> 23);  // 14 to 24
    const uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;
    const uint32_t floor = significand >> shift;
    const uint32_t rest = significand & ((1u << shift) - 1u);
    const uint32_t halfway = 1u << (shift - 1u);
    half = floor + (rest > halfway || (rest == halfway && (floor & 1u)));
  } else {
    half = 0;
  }
  return {static_cast<uint16_t>(sign | half)};
}

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_HALF_H_
