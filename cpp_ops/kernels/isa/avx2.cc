// Layer: kernels. AVX2 with FMA and F16C: x86-64 since 2013.
#include <immintrin.h>

#include "kernels/activation/rows.h"
#include "kernels/adam/adam_loop.h"
#include "kernels/gemm_list.h"
#include "kernels/gemm_tiles.h"
#include "kernels/matmul/matmul_list.h"
#include "kernels/matmul/tables.h"

namespace mylinear::kernels {
namespace {

struct Avx2 {
  static constexpr bool kDefersSums = false;

  struct Double : NoDot {
    using Scalar = double;
    using Vec = __m256d;
    static constexpr size_t kLanes = 4;

    static Vec zero() { return _mm256_setzero_pd(); }
    static Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_pd(a, b, c); }
    static Vec add(Vec a, Vec b) { return _mm256_add_pd(a, b); }
    static void keep(Vec* value) { asm("" : "+x"(*value)); }
    static void sum4(const Vec* v, double* out) {
      const Vec ab = _mm256_hadd_pd(v[0], v[1]), cd = _mm256_hadd_pd(v[2], v[3]);
      _mm256_storeu_pd(out, add(_mm256_permute2f128_pd(ab, cd, 0x20), _mm256_permute2f128_pd(ab, cd, 0x31)));
    }
    static Vec load(const double* from) { return _mm256_loadu_pd(from); }
    static Vec load_partial(const double* from, size_t count) {
      const __m256i index = _mm256_setr_epi64x(0, 1, 2, 3);
      const __m256i limit = _mm256_set1_epi64x(static_cast<long long>(count));
      return _mm256_maskload_pd(from, _mm256_cmpgt_epi64(limit, index));
    }
    static Vec broadcast(const double* from) {
      double value;
      __builtin_memcpy(&value, from, sizeof value);
      return _mm256_set1_pd(value);
    }
    static void store(double* to, Vec value) { _mm256_storeu_pd(to, value); }
    static void store_first(double* to, Vec value, size_t count) {
      const __m256i index = _mm256_setr_epi64x(0, 1, 2, 3);
      const __m256i limit = _mm256_set1_epi64x(static_cast<long long>(count));
      _mm256_maskstore_pd(to, _mm256_cmpgt_epi64(limit, index), value);
    }
  };

  struct Float : NoDot {
    using Scalar = float;
    using Vec = __m256;
    static constexpr size_t kLanes = 8;

    static Vec zero() { return _mm256_setzero_ps(); }
    static Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
    static Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
    static void keep(Vec* value) { asm("" : "+x"(*value)); }
    static void sum4(const Vec* v, float* out) {
      const Vec all = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
      _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
    }
    static Vec load(const float* from) { return _mm256_loadu_ps(from); }
    static Vec load(const Float16* from) { return _mm256_cvtph_ps(load_16_bits(from)); }
    static Vec load(const Bfloat16* from) {
      const __m256i bits = _mm256_cvtepu16_epi32(load_16_bits(from));
      return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
    }
    static Vec load_partial(const float* from, size_t count) {
      const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
      const __m256i limit = _mm256_set1_epi32(static_cast<int>(count));
      return _mm256_maskload_ps(from, _mm256_cmpgt_epi32(limit, index));
    }
    template <class S>
    static Vec load_partial(const S* from, size_t count) {
      return load_copied<Float>(from, count);
    }
    static Vec broadcast(const float* from) {
      float value;
      __builtin_memcpy(&value, from, sizeof value);
      return _mm256_set1_ps(value);
    }
    static void store(float* to, Vec value) { _mm256_storeu_ps(to, value); }
    static void store_first(float* to, Vec value, size_t count) {
      const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
      const __m256i limit = _mm256_set1_epi32(static_cast<int>(count));
      _mm256_maskstore_ps(to, _mm256_cmpgt_epi32(limit, index), value);
    }
    static void store(Float16* to, Vec value) {
      const __m128i bits = _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bits);
    }
    static void store(Bfloat16* to, Vec value) {  // half.h's to_bfloat16, eight at a time
      const __m256i bits = _mm256_castps_si256(value);
      const __m256i upper = _mm256_srli_epi32(bits, 16);
      const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
      const __m256i carry = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
      const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, carry), 16);
      const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
      const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
      const __m256i words = _mm256_blendv_epi8(rounded, quiet, is_nan);
      const __m256i packed = _mm256_packus_epi32(words, words);  // within each half, hence the permutation
      const __m256i ordered = _mm256_permute4x64_epi64(packed, 0x08);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(ordered));
    }

   private:
    static __m128i load_16_bits(const void* from) {
      return _mm_loadu_si128(static_cast<const __m128i*>(from));
    }
  };
  using Bfloat = Float;
};

}  // namespace

MYLINEAR_DEFINE_KERNELS(avx2, Avx2)

MYLINEAR_DEFINE_MATMUL_KERNELS(avx2, Avx2)

MYLINEAR_DEFINE_ADAM_KERNELS(avx2, Avx2)

MYLINEAR_DEFINE_ACTIVATION_KERNELS(avx2, Avx2)

}  // namespace mylinear::kernels
