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
