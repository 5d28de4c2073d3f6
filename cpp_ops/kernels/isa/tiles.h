// Layer: kernels. The tiles of AMX in memory, multiplied by FMAs; needs AVX-512. No STL inside.
#ifndef MYLINEAR_KERNELS_ISA_TILES_H_
#define MYLINEAR_KERNELS_ISA_TILES_H_

#include "kernels/isa/avx512.h"

namespace mylinear::kernels {
namespace {

constexpr size_t kTileRows = 16;
constexpr size_t kTileBytes = 64;  // of a row
constexpr int kNumTiles = 8;

class FmaTiles {
 public:
  template <int kTile>
  void zero() {
    __builtin_memset(tiles_[kTile], 0, sizeof tiles_[kTile]);
  }
  // Rows are `stride` bytes apart.
  template <int kTile>
  void load(const void* from, size_t stride) {
    for (size_t i = 0; i < kTileRows; ++i) {
      __builtin_memcpy(tiles_[kTile][i], static_cast<const char*>(from) + i * stride, kTileBytes);
    }
  }
  template <int kTile>
  void store(void* to, size_t stride) const {
    for (size_t i = 0; i < kTileRows; ++i) {
      __builtin_memcpy(static_cast<char*>(to) + i * stride, tiles_[kTile][i], kTileBytes);
    }
  }
  template <int kC, int kA, int kB>
  void dot() {
    using Pairs = Avx512::Pairs;
    for (size_t i = 0; i < kTileRows; ++i) {
      __m512 even = _mm512_setzero_ps(), odd = even;
      for (size_t k = 0; k < kTileRows; ++k) {
        const __m512i a = _mm512_set1_epi32(static_cast<int>(tiles_[kA][i][k]));
        const __m512i b = _mm512_load_si512(tiles_[kB][k]);
        even = _mm512_fmadd_ps(Pairs::lower(a), Pairs::lower(b), even);
        odd = _mm512_fmadd_ps(Pairs::upper(a), Pairs::upper(b), odd);
      }
      const __m512 before = _mm512_castsi512_ps(_mm512_load_si512(tiles_[kC][i]));
      _mm512_store_ps(tiles_[kC][i], _mm512_add_ps(before, _mm512_add_ps(even, odd)));
    }
  }

 private:
  alignas(64) uint32_t tiles_[kNumTiles][kTileRows][kTileBytes / sizeof(uint32_t)];
};

}  // namespace
}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_ISA_TILES_H_
