// Layer: kernels. AVX-512 F, BW, DQ and VL: Skylake-SP and newer.
#include "kernels/isa/avx512.h"
#include "kernels/activation/rows.h"
#include "kernels/adam/adam_loop.h"
#include "kernels/gemm_list.h"
#include "kernels/gemm_tiles.h"
#include "kernels/matmul/matmul_list.h"
#include "kernels/matmul/tables.h"

namespace mylinear::kernels {

MYLINEAR_DEFINE_KERNELS(avx512, Avx512)

MYLINEAR_DEFINE_MATMUL_KERNELS(avx512, Avx512)

MYLINEAR_DEFINE_ADAM_KERNELS(avx512, Avx512)

MYLINEAR_DEFINE_ACTIVATION_KERNELS(avx512, Avx512)

}  // namespace mylinear::kernels
