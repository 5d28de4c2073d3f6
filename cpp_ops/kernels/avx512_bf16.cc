// Layer: kernels. AVX-512 with the dot product of pairs of bfloat16, twice as fast as products in float:
// Cooper Lake, Sapphire Rapids, Zen 4 and newer.
#include "kernels/avx512.h"
#include "kernels/kernel_list.h"

namespace mylinear::kernels {
namespace {

struct Avx512Bf16 : Avx512 {
  // X and W as they are stored, 32 elements a vector, in pairs. Each of the 16 lanes of the sums takes the
  // product of the upper elements, then that of the lower ones, each with one rounding: what the instruction
  // does, and what two FMAs do. But the instruction takes denormals, of its operands and of the sums, for
  // zero; so it is used where there can be none.
  struct Bfloat : Float {
    using Held = Bfloat16;
    using Operand = __m512i;
    static constexpr size_t kStep = 32;
    static constexpr bool kHasDot = true;

    using Float::fma;
    using Float::keep;

    static Operand load_operand(const Bfloat16* from) { return _mm512_loadu_si512(from); }
    static Operand load_operand_partial(const Bfloat16* from, size_t count) {
      return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << count) - 1), from);
    }
    static void keep(Operand* value) { asm("" : "+v"(*value)); }

    static Vec fma(Operand a, Operand b, Vec c) {
      return fma(lower(a), lower(b), fma(upper(a), upper(b), c));
    }
    static Vec dot(Operand a, Operand b, Vec c) {
      return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
    }

    // Whether each element of four rows is zero or of 2^-56 and up. Then each is a multiple of 2^-63, each
    // product and hence each sum one of 2^-126, the least normal float.
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

   private:
    static Vec upper(Operand pairs) {
      return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
    }
    static Vec lower(Operand pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
  };
};

}  // namespace

MYLINEAR_DEFINE_KERNELS(avx512_bf16, Avx512Bf16)

}  // namespace mylinear::kernels
