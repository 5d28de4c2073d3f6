// Layer: kernels. The one list of instruction sets: everything that exists once per ISA walks over it.
//
// X(isa, general): an ISA, and the one whose kernels it has. They are two where an ISA adds instructions for
// the product of bfloat16 alone: then its unit defines that kernel, and the others are those of `general`,
// which every such CPU has. CMake defines MYLINEAR_HAS_<ISA> for those that the compiler can make. Fastest
// first, except amx_bf16: no CPU with AMX has run it yet, only an emulator. It stands behind an ISA that
// every such CPU has too, so that it serves only where its name is asked for.
#ifndef MYLINEAR_KERNELS_ISA_ISA_LIST_H_
#define MYLINEAR_KERNELS_ISA_ISA_LIST_H_

#ifdef MYLINEAR_HAS_AVX512_BF16
#define MYLINEAR_ISA_AVX512_BF16(X) X(avx512_bf16, avx512)
#else
#define MYLINEAR_ISA_AVX512_BF16(X)
#endif

#ifdef MYLINEAR_HAS_AVX512
#define MYLINEAR_ISA_AVX512(X) X(avx512, avx512)
#else
#define MYLINEAR_ISA_AVX512(X)
#endif

#ifdef MYLINEAR_HAS_AMX_BF16
#define MYLINEAR_ISA_AMX_BF16(X) X(amx_bf16, avx512)
#else
#define MYLINEAR_ISA_AMX_BF16(X)
#endif

#ifdef MYLINEAR_HAS_AVX2
#define MYLINEAR_ISA_AVX2(X) X(avx2, avx2)
#else
#define MYLINEAR_ISA_AVX2(X)
#endif

#ifdef MYLINEAR_HAS_NEON
#define MYLINEAR_ISA_NEON(X) X(neon, neon)
#else
#define MYLINEAR_ISA_NEON(X)
#endif

#define MYLINEAR_ISA_LIST(X)  \
  MYLINEAR_ISA_AVX512_BF16(X) \
  MYLINEAR_ISA_AVX512(X)      \
  MYLINEAR_ISA_AMX_BF16(X)    \
  MYLINEAR_ISA_AVX2(X) MYLINEAR_ISA_NEON(X) X(baseline, baseline)

// X(isa) for those whose unit defines the product of bfloat16 alone.
#ifdef MYLINEAR_HAS_AVX512_BF16
#define MYLINEAR_BFLOAT16_AVX512_BF16(X) X(avx512_bf16)
#else
#define MYLINEAR_BFLOAT16_AVX512_BF16(X)
#endif

#ifdef MYLINEAR_HAS_AMX_BF16
#define MYLINEAR_BFLOAT16_AMX_BF16(X) X(amx_bf16)
#else
#define MYLINEAR_BFLOAT16_AMX_BF16(X)
#endif

#define MYLINEAR_BFLOAT16_ISA_LIST(X) MYLINEAR_BFLOAT16_AVX512_BF16(X) MYLINEAR_BFLOAT16_AMX_BF16(X)

#endif  // MYLINEAR_KERNELS_ISA_ISA_LIST_H_
