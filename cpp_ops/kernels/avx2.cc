// Layer: kernels. AVX2 with FMA and F16C: x86-64 since 2013.
#include <immintrin.h>

#include "kernels/kernel_list.h"
#include "kernels/micro_kernel.h"

namespace mylinear::kernels {
namespace {

struct Avx2 {
  struct Double {
    using Scalar = double;
    using Vec = __m256d;
    static constexpr size_t kLanes = 4;

    static Vec zero() { return _mm256_setzero_pd(); }
    static Vec broadcast(double value) { return _mm256_set1_pd(value); }
    static Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_pd(a, b, c); }
    static Vec add(Vec a, Vec b) { return _mm256_add_pd(a, b); }
    static double sum(Vec value) {
      const __m128d pair = _mm_add_pd(_mm256_castpd256_pd128(value), _mm256_extractf128_pd(value, 1));
      return _mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair)));
    }
    static Vec load(const double* from) { return _mm256_loadu_pd(from); }
    static void store(double* to, Vec value) { _mm256_storeu_pd(to, value); }
  };

  struct Float {
    using Scalar = float;
    using Vec = __m256;
    static constexpr size_t kLanes = 8;

    static Vec zero() { return _mm256_setzero_ps(); }
    static Vec broadcast(float value) { return _mm256_set1_ps(value); }
    static Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
    static Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
    static float sum(Vec value) {
      __m128 four = _mm_add_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps(value, 1));
      four = _mm_add_ps(four, _mm_movehl_ps(four, four));
      return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
    }
    static Vec load(const float* from) { return _mm256_loadu_ps(from); }
    static Vec load(const Float16* from) { return _mm256_cvtph_ps(load_16_bits(from)); }
    static Vec load(const Bfloat16* from) {
      const __m256i bits = _mm256_cvtepu16_epi32(load_16_bits(from));
      return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
    }
    static void store(float* to, Vec value) { _mm256_storeu_ps(to, value); }
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
};

}  // namespace

MYLINEAR_DEFINE_KERNELS(avx2, Avx2)

}  // namespace mylinear::kernels
