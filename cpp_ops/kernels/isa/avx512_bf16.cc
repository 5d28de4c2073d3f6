// Layer: kernels. AVX-512 with the dot product of pairs of bfloat16, twice as fast as products in float:
// Cooper Lake, Sapphire Rapids, Zen 4 and newer. All but the product of bfloat16 is that of avx512.cc.
#include "kernels/gemm_list.h"
#include "kernels/gemm_tiles.h"
#include "kernels/isa/avx512.h"

namespace mylinear::kernels {
namespace {

struct Avx512Bf16 : Avx512 {
  // X and W as they are stored, in pairs. Each of the 16 lanes of the sums takes the product of the upper
  // elements, then that of the lower ones, each with one rounding, by the instruction as by two FMAs. But the
  // instruction takes denormal operands and sums for zero, so it serves where there can be none.
  struct Bfloat : Float, Pairs {
    using Held = Bfloat16;
    static constexpr bool kHasDot = true;

    using Float::fma;
    using Float::keep;
    using Float::store;
    using Pairs::broadcast;
    using Pairs::transpose;

    static void keep(Operand* value) { asm("" : "+v"(*value)); }
    static Vec fma(Operand a, Operand b, Vec c) {
      return fma(lower(a), lower(b), fma(upper(a), upper(b), c));
    }
    static Vec dot(Operand a, Operand b, Vec c) {
      return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
    }
    // The lanes of 4 x 4 vectors, added up in the order of sum4 but for all of them at once: a vector of sums
    // of pairs of lanes has those of two vectors. That takes half of the shuffles, which use a port of the
    // products; blends do not.
    static constexpr bool kFoldsLanes = true;
    static inline __attribute__((always_inline)) void fold(const Vec (&v)[4][4], Vec* out) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 2
        for (int j = 0; j < 4; j += 2) {
          const Vec own = _mm512_mask_blend_ps(0xcccc, v[i][j], v[i][j + 1]);
          out[2 * i + j / 2] = add(own, _mm512_shuffle_ps(v[i][j], v[i][j + 1], 0x4e));
        }
      }
    }
    // The four sums of each row, in a quarter each.
    static inline __attribute__((always_inline)) Vec sum_folded(const Vec* folded) {
      Vec quarters[4], halves[2];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const Vec a = folded[2 * i], b = folded[2 * i + 1];
        quarters[i] = add(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
      }
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const Vec own = _mm512_mask_blend_ps(0xff00, quarters[i], quarters[i + 2]);
        halves[i] = add(own, _mm512_shuffle_f32x4(quarters[i], quarters[i + 2], 0x4e));
      }
      const Vec own = _mm512_mask_blend_ps(0xf0f0, halves[0], halves[1]);
      const Vec other = _mm512_mask_blend_ps(0xf0f0, halves[1], halves[0]);
      return add(own, _mm512_shuffle_f32x4(other, other, 0xb1));
    }
    static Vec load_rows(const float* from, size_t stride) {
      Vec rows = _mm512_castps128_ps512(_mm_loadu_ps(from));
      rows = _mm512_insertf32x4(rows, _mm_loadu_ps(from + stride), 1);
      rows = _mm512_insertf32x4(rows, _mm_loadu_ps(from + 2 * stride), 2);
      return _mm512_insertf32x4(rows, _mm_loadu_ps(from + 3 * stride), 3);
    }
    static Vec repeat_row(const float* from) { return _mm512_broadcast_f32x4(_mm_loadu_ps(from)); }
    static void store_rows(float* to, size_t stride, Vec rows) {
      _mm_storeu_ps(to, _mm512_castps512_ps128(rows));
      _mm_storeu_ps(to + stride, _mm512_extractf32x4_ps(rows, 1));
      _mm_storeu_ps(to + 2 * stride, _mm512_extractf32x4_ps(rows, 2));
      _mm_storeu_ps(to + 3 * stride, _mm512_extractf32x4_ps(rows, 3));
    }
    static void store_rows(Bfloat16* to, size_t stride, Vec rows) {  // rounded once
      alignas(32) Bfloat16 rounded[16];
      store(rounded, rows);
#pragma GCC unroll 4
      for (size_t i = 0; i < 4; ++i) __builtin_memcpy(to + i * stride, rounded + 4 * i, 4 * sizeof(Bfloat16));
    }

    // The instruction that rounds takes denormal numbers for zero too.
    static void store(Bfloat16* to, Vec value) {
      constexpr int kDenormal = 0x20;
      if (__builtin_expect(_mm512_fpclass_ps_mask(value, kDenormal) != 0, 0)) return Float::store(to, value);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                          reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)));
    }
  };
};

}  // namespace

const GemmKernel avx512_bf16_kernels[1] = {
    MYLINEAR_GEMM(avx512_bf16, Avx512Bf16, Bfloat16, Bfloat16, kBfloat16, kBfloat16),
};

}  // namespace mylinear::kernels
