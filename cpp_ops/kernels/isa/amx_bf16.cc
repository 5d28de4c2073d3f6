// Layer: kernels. AMX: tiles of bfloat16, multiplied by one instruction. Sapphire Rapids and newer.
// All but the product of bfloat16 is that of avx512.cc.
#include "kernels/gemm_list.h"
#include "kernels/isa/tile_gemm.h"

namespace mylinear::kernels {
namespace {

// The CPU's own tiles. In assembler, since GCC's intrinsics take the number of a tile only as a literal.
class AmxTiles {
 public:
  AmxTiles() {
    Configuration all_whole{};
    all_whole.palette = 1;
    for (int i = 0; i < kNumTiles; ++i) {
      all_whole.bytes[i] = kTileBytes;
      all_whole.rows[i] = kTileRows;
    }
    asm volatile("ldtilecfg %0" : : "m"(all_whole));
  }
  AmxTiles(const AmxTiles&) = delete;
  ~AmxTiles() { asm volatile("tilerelease"); }

  template <int kTile>
  void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  void load(const void* from, size_t stride) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(kTile), "r"(from), "r"(stride) : "memory");
  }
  template <int kTile>
  void store(void* to, size_t stride) const {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(kTile), "r"(to), "r"(stride) : "memory");
  }
  template <int kC, int kA, int kB>
  void dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  }

 private:
  struct Configuration {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t bytes[16];  // of a row
    uint8_t rows[16];
  };
  static_assert(sizeof(Configuration) == 64);
};

}  // namespace

const GemmKernel amx_bf16_kernels[1] = {TileGemm<AmxTiles>::row("amx_bf16")};

}  // namespace mylinear::kernels
