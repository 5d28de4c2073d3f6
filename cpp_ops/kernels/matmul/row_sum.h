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

  static Vec load(const S* from, size_t count) {
    return count < kLanes ? Simd::load_partial(from, count) : Simd::load(from);
  }

  // Adds rows of up to kVecs vectors to `sum`.
  static void add_rows(const S* a, size_t N, size_t rows, size_t columns, Vec (&sum)[kVecs]) {
    if (columns == kColumns) {
      for (size_t i = 0; i < rows; ++i, a += N) {
#pragma GCC unroll 4
        for (size_t v = 0; v < kVecs; ++v) sum[v] = Simd::add(sum[v], Simd::load(a + v * kLanes));
      }
    } else {
      for (size_t i = 0; i < rows; ++i, a += N) {
        for (size_t v = 0; v * kLanes < columns; ++v) {
          sum[v] = Simd::add(sum[v], load(a + v * kLanes, columns - v * kLanes));
        }
      }
    }
  }

  // The same for one vector: each of kVecs sums takes every kVecs-th row, so that additions overlap.
  static void add_narrow_rows(const S* a, size_t N, size_t rows, size_t columns, Vec (&sum)[kVecs]) {
    size_t i = 0;
    for (; i + kVecs <= rows; i += kVecs, a += kVecs * N) {
#pragma GCC unroll 4
      for (size_t u = 0; u < kVecs; ++u) sum[u] = Simd::add(sum[u], load(a + u * N, columns));
    }
    for (size_t u = 0; i < rows; ++i, ++u, a += N) sum[u] = Simd::add(sum[u], load(a, columns));
    static_assert(kVecs == 4);
    sum[0] = Simd::add(Simd::add(sum[0], sum[1]), Simd::add(sum[2], sum[3]));
  }

  static void run_tile(const RowSumParams& p, size_t n, size_t columns) {
    S* s = static_cast<S*>(p.s) + n;
    Vec total[kVecs];
    for (size_t v = 0; v < kVecs; ++v) total[v] = Simd::zero();
    for (size_t m = 0; m < p.M; m += kBlock) {
      const S* a = static_cast<const S*>(p.a) + m * p.N + n;
      const size_t rows = min(kBlock, p.M - m);
      Vec sum[kVecs];
      for (size_t v = 0; v < kVecs; ++v) sum[v] = Simd::zero();
      if (columns <= kLanes) {
        add_narrow_rows(a, p.N, rows, columns, sum);
      } else {
        add_rows(a, p.N, rows, columns, sum);
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
