// Layer: kernels. AVX-512 F, BW, DQ and VL, for the units of the ISAs that have them.
#ifndef MYLINEAR_KERNELS_ISA_AVX512_H_
#define MYLINEAR_KERNELS_ISA_AVX512_H_

#include <immintrin.h>

#include "kernels/simd.h"

namespace mylinear::kernels {
namespace {

struct Avx512 {
  static constexpr bool kDefersSums = true;

  // 16 x 16 words.
  static void transpose(__m512i (&v)[16]) {
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
      t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
      v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
      v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
      v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
      v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    // v[4 g + c] has column c of each quarter, for the rows 4 g to 4 g + 3.
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const __m512i even_low = _mm512_shuffle_i32x4(v[c], v[4 + c], 0x88);
      const __m512i odd_low = _mm512_shuffle_i32x4(v[c], v[4 + c], 0xdd);
      const __m512i even_high = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0x88);
      const __m512i odd_high = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0xdd);
      t[c] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
      t[8 + c] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
      t[4 + c] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
      t[12 + c] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) v[i] = t[i];
  }

  struct Double : NoDot {
    using Scalar = double;
    using Vec = __m512d;
    static constexpr size_t kLanes = 8;

    static Vec zero() { return _mm512_setzero_pd(); }
    static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_pd(a, b, c); }
    static Vec add(Vec a, Vec b) { return _mm512_add_pd(a, b); }
    static constexpr bool kHasScale = true;
    static Vec scale(Vec value, Vec power) { return _mm512_scalef_pd(value, power); }
    static void keep(Vec* value) { asm("" : "+v"(*value)); }
    static void sum4(const Vec* v, double* out) {
      const Vec ab = add(_mm512_unpacklo_pd(v[0], v[1]), _mm512_unpackhi_pd(v[0], v[1]));
      const Vec cd = add(_mm512_unpacklo_pd(v[2], v[3]), _mm512_unpackhi_pd(v[2], v[3]));
      const Vec halves = add(_mm512_shuffle_f64x2(ab, cd, 0x88), _mm512_shuffle_f64x2(ab, cd, 0xdd));
      const Vec ordered = _mm512_shuffle_f64x2(halves, halves, 0xd8);
      _mm256_storeu_pd(out,
                       _mm256_add_pd(_mm512_castpd512_pd256(ordered), _mm512_extractf64x4_pd(ordered, 1)));
    }
    static Vec load(const double* from) { return _mm512_loadu_pd(from); }
    static Vec load_partial(const double* from, size_t count) {
      return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << count) - 1), from);
    }
    static Vec broadcast(const double* from) {
      double value;
      __builtin_memcpy(&value, from, sizeof value);
      return _mm512_set1_pd(value);
    }
    static void store(double* to, Vec value) { _mm512_storeu_pd(to, value); }
    static void store_first(double* to, Vec value, size_t count) {
      _mm512_mask_storeu_pd(to, static_cast<__mmask8>((1u << count) - 1), value);
    }
  };

  struct Float : NoDot {
    using Scalar = float;
    using Vec = __m512;
    static constexpr size_t kLanes = 16;
    static constexpr bool kHasPanels = true;
    static constexpr bool kHasTurned = true;
    static constexpr size_t kSumOrder[kLanes] = {0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15};

    static Vec zero() { return _mm512_setzero_ps(); }
    static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
    static Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
    static constexpr bool kHasScale = true;
    static Vec scale(Vec value, Vec power) { return _mm512_scalef_ps(value, power); }
    static void keep(Vec* value) { asm("" : "+v"(*value)); }
    static void sum4(const Vec* v, float* out) {
      const Vec ab = add(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
      const Vec cd = add(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
      const Vec quarters = add(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
      const __m256 halves =
          _mm256_add_ps(_mm512_castps512_ps256(quarters), _mm512_extractf32x8_ps(quarters, 1));
      _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1)));
    }
    static Vec load(const float* from) { return _mm512_loadu_ps(from); }
    static Vec load(const Float16* from) { return _mm512_cvtph_ps(load_16_bits(from)); }
    static Vec load(const Bfloat16* from) {
      return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_16_bits(from)), 16));
    }
    static Vec load_partial(const float* from, size_t count) {
      return _mm512_maskz_loadu_ps(first_lanes(count), from);
    }
    static Vec load_partial(const Float16* from, size_t count) {
      return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(count), from));
    }
    static Vec load_partial(const Bfloat16* from, size_t count) {
      const __m256i bits = _mm256_maskz_loadu_epi16(first_lanes(count), from);
      return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
    static Vec broadcast(const float* from) {
      float value;
      __builtin_memcpy(&value, from, sizeof value);
      return _mm512_set1_ps(value);
    }
    static void transpose(Vec (&v)[16]) {
      __m512i words[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) words[i] = _mm512_castps_si512(v[i]);
      Avx512::transpose(words);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) v[i] = _mm512_castsi512_ps(words[i]);
    }
    // y (+)= the rows of eight columns, the first `skipped` of them left out, + bias, or null. Rows of y are
    // `stride` apart.
    static void store_turned(const Vec (&columns)[8], float* y, size_t stride, size_t rows, size_t skipped,
                             bool adds, const float* bias) {
      Vec quads[8];  // [2 r] and [2 r + 1]: four columns each of the rows r, r + 4, r + 8 and r + 12
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const Vec* c = columns + 4 * i;
        const __m512d low0 = _mm512_castps_pd(_mm512_unpacklo_ps(c[0], c[1]));
        const __m512d low1 = _mm512_castps_pd(_mm512_unpacklo_ps(c[2], c[3]));
        const __m512d high0 = _mm512_castps_pd(_mm512_unpackhi_ps(c[0], c[1]));
        const __m512d high1 = _mm512_castps_pd(_mm512_unpackhi_ps(c[2], c[3]));
        quads[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(low0, low1));
        quads[2 + i] = _mm512_castpd_ps(_mm512_unpackhi_pd(low0, low1));
        quads[4 + i] = _mm512_castpd_ps(_mm512_unpacklo_pd(high0, high1));
        quads[6 + i] = _mm512_castpd_ps(_mm512_unpackhi_pd(high0, high1));
      }
      alignas(32) float turned[16][8];
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        const __m512d a = _mm512_castps_pd(quads[2 * r]), b = _mm512_castps_pd(quads[2 * r + 1]);
        const Vec low =
            _mm512_castpd_ps(_mm512_permutex2var_pd(a, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), b));
        const Vec high =
            _mm512_castpd_ps(_mm512_permutex2var_pd(a, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), b));
        _mm256_store_ps(turned[r], _mm512_castps512_ps256(low));
        _mm256_store_ps(turned[r + 4], _mm512_extractf32x8_ps(low, 1));
        _mm256_store_ps(turned[r + 8], _mm512_castps512_ps256(high));
        _mm256_store_ps(turned[r + 12], _mm512_extractf32x8_ps(high, 1));
      }
      const __mmask8 mask = static_cast<__mmask8>(0xffu << skipped);
      const __m256 added = bias ? _mm256_maskz_loadu_ps(mask, bias) : _mm256_set1_ps(-0.0f);
      for (size_t i = 0; i < rows; ++i, y += stride) {
        __m256 sum = _mm256_load_ps(turned[i]);
        if (adds) sum = _mm256_add_ps(_mm256_maskz_loadu_ps(mask, y), sum);
        _mm256_mask_storeu_ps(y, mask, _mm256_add_ps(sum, added));
      }
    }
    static void store(float* to, Vec value) { _mm512_storeu_ps(to, value); }
    static void store_first(float* to, Vec value, size_t count) {
      _mm512_mask_storeu_ps(to, first_lanes(count), value);
    }
    static void store(Float16* to, Vec value) {
      const __m256i bits = _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bits);
    }
    static void store(Bfloat16* to, Vec value) {  // half.h's to_bfloat16, sixteen at a time
      const __m512i bits = _mm512_castps_si512(value);
      const __m512i upper = _mm512_srli_epi32(bits, 16);
      const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
      const __m512i carry = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
      const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, carry), 16);
      const __mmask16 is_nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
      const __m512i words = _mm512_mask_or_epi32(rounded, is_nan, upper, _mm512_set1_epi32(0x40));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(words));
    }

   private:
    static __mmask16 first_lanes(size_t count) { return static_cast<__mmask16>((1u << count) - 1); }
    static __m256i load_16_bits(const void* from) {
      return _mm256_loadu_si256(static_cast<const __m256i*>(from));
    }
  };

  using Bfloat = Float;

  // bfloat16 as they are stored, 32 a vector: 16 pairs, whose upper and lower elements become floats by a
  // shift.
  struct Pairs {
    using Operand = __m512i;
    static constexpr size_t kStep = 32;

    static Operand load_operand(const Bfloat16* from) { return _mm512_loadu_si512(from); }
    static Operand load_operand_partial(const Bfloat16* from, size_t count) {
      return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << count) - 1), from);
    }
    static Operand broadcast(const Bfloat16* from) {
      int pair;
      __builtin_memcpy(&pair, from, sizeof pair);
      return _mm512_set1_epi32(pair);
    }
    static void transpose(Operand (&v)[16]) { Avx512::transpose(v); }
    static __m512 upper(Operand pairs) {
      return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
    }
    static __m512 lower(Operand pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }

    // Whether each element of four rows is zero or at least 2^-56 in size. Then each is a multiple of 2^-63,
    // and each product, hence each sum, a multiple of 2^-126, the least normal float.
    static bool has_no_denormal_sums(const Bfloat16* const* rows, size_t count) {
      Operand least[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) least[j] = _mm512_set1_epi16(-1);
      const auto look = [&](auto load, size_t k) __attribute__((always_inline)) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const Operand magnitude = _mm512_and_si512(load(rows[j] + k), _mm512_set1_epi16(0x7fff));
          const Operand below =
              _mm512_sub_epi16(magnitude, _mm512_set1_epi16(1));  // zero becomes the largest
          least[j] = _mm512_min_epu16(least[j], below);
        }
      };
      size_t k = 0;
      for (; k + kStep <= count; k += kStep) {
        look([](const Bfloat16* from) { return load_operand(from); }, k);
      }
      if (const size_t rest = count - k) {
        look([rest](const Bfloat16* from) { return load_operand_partial(from, rest); }, k);
      }
      const Operand all =
          _mm512_min_epu16(_mm512_min_epu16(least[0], least[1]), _mm512_min_epu16(least[2], least[3]));
      return !_mm512_cmplt_epu16_mask(all, _mm512_set1_epi16(((127 - 56) << 7) - 1));
    }

    // The same of `count` rows, `stride` elements apart.
    static bool has_no_denormal_sums(const Bfloat16* rows, size_t stride, size_t count, size_t length) {
      for (size_t i = 0; i < count; i += 4) {
        const Bfloat16* four[4];
        for (size_t j = 0; j < 4; ++j) four[j] = rows + min(i + j, count - 1) * stride;
        if (!has_no_denormal_sums(four, length)) return false;
      }
      return true;
    }

    // The same of `count` elements in a row.
    static bool has_no_denormal_sums(const Bfloat16* elements, size_t count) {
      const size_t part = count / 4;
      const Bfloat16* parts[4];
      const Bfloat16* rest[4];
      for (size_t j = 0; j < 4; ++j) {
        parts[j] = elements + j * part;
        rest[j] = elements + 4 * part;
      }
      return has_no_denormal_sums(parts, part) && has_no_denormal_sums(rest, count - 4 * part);
    }
  };
};

}  // namespace
}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_ISA_AVX512_H_
