// The kernel for AMX with a model of AMX's tiles: for the tests on CPUs that have AVX-512 only.
#include "kernels/isa/tile_gemm.h"

namespace mylinear::kernels {
namespace {

// Denormals, of the operands and of the sums, are zero, as they are to the instruction.
class FlushingTiles : public FmaTiles {
 public:
  template <int kC, int kA, int kB>
  void dot() {
    constexpr unsigned kFlushToZero = 0x8000, kDenormalsAreZero = 0x40;
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | kFlushToZero | kDenormalsAreZero);
    asm volatile("" ::: "memory");
    FmaTiles::dot<kC, kA, kB>();
    asm volatile("" ::: "memory");
    _mm_setcsr(mode);
  }
};

}  // namespace

extern const GemmKernel tile_model_kernel;
const GemmKernel tile_model_kernel = TileGemm<FlushingTiles>::row("tile_model");

}  // namespace mylinear::kernels
