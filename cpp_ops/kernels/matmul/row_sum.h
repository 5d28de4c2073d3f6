// Layer: kernels. The sum of the rows of a matrix, as a template over an ISA and a storage type.
#ifndef MYLINEAR_KERNELS_MATMUL_ROW_SUM_H_
#define MYLINEAR_KERNELS_MATMUL_ROW_SUM_H_

#include "kernels/matmul/matmul.h"
#include "kernels/matmul/outer_products.h"

namespace mylinear::kernels {

// The sum of the rows of A, in blocks of rows whose sums are added in order.
template <class Tag, class S>
struct RowSum {
  using Simd = typename SumsOf<Tag, S>::type;
  using T = typename Simd::Scalar;
  using Vec = typename Simd::Vec;
  static constexpr size_t kLanes = Simd::kLanes;
  static constexpr size_t kVecs = 4;
  static constexpr size_t kColumns = kVecs * kLanes;  // of a tile
  static constexpr size_t kBlock = 256;               // rows

  static void run_tile(const RowSumParams& p, size_t n, size_t columns) {
    const S* a = p.M > 0 ? static_cast<const S*>(p.a) + n : nullptr;
    S* s = static_cast<S*>(p.s) + n;
    const bool is_whole = columns == kColumns;
    Vec total[kVecs];
    for (size_t v = 0; v < kVecs; ++v) total[v] = Simd::zero();
    for (size_t m = 0; m < p.M; m += kBlock) {
      Vec sum[kVecs];
      for (size_t v = 0; v < kVecs; ++v) sum[v] = Simd::zero();
      const size_t rows = min(kBlock, p.M - m);
      for (size_t i = 0; i < rows; ++i, a += p.N) {
        if (is_whole) {
#pragma GCC unroll 4
          for (size_t v = 0; v < kVecs; ++v) sum[v] = Simd::add(sum[v], Simd::load(a + v * kLanes));
        } else {
          for (size_t v = 0; v * kLanes < columns; ++v) {
            const size_t rest = columns - v * kLanes;
            const S* from = a + v * kLanes;
            sum[v] = Simd::add(sum[v], rest < kLanes ? Simd::load_partial(from, rest) : Simd::load(from));
          }
        }
      }
      for (size_t v = 0; v < kVecs; ++v) total[v] = Simd::add(total[v], sum[v]);
    }
    for (size_t v = 0; v * kLanes < columns; ++v) {
      store_partial<Simd>(s + v * kLanes, total[v], min(kLanes, columns - v * kLanes));
    }
  }

  static size_t num_tiles(const RowSumParams& p) { return divide_up(p.N, kColumns); }

  static void run(const RowSumParams& p, size_t first, size_t last) {
    for (size_t tile = first; tile < last; ++tile) {
      run_tile(p, tile * kColumns, min(kColumns, p.N - tile * kColumns));
    }
  }

  static constexpr RowSumKernel row(const char* isa, ElementType type) {
    return {isa, type, static_cast<int>(kLanes), num_tiles, run};
  }
};

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_MATMUL_ROW_SUM_H_
