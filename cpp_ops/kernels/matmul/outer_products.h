// Layer: kernels. The micro-kernel of C = A B, once, as a template over the vectors of an ISA.
//
// It takes R rows of A by V vectors of columns of B, with an accumulator for each pair: each step along K
// loads V vectors of B and, for each row, one element of A into all lanes: R + V loads for R V FMAs, and no
// lanes to add up. A is read through two strides, so that A and its transpose are one code.
#ifndef MYLINEAR_KERNELS_MATMUL_OUTER_PRODUCTS_H_
#define MYLINEAR_KERNELS_MATMUL_OUTER_PRODUCTS_H_

#include "kernels/simd.h"

namespace mylinear::kernels {

// The vectors that elements of type S are summed in.
template <class Tag, class S>
struct SumsOf {
  using type = typename Tag::Float;
};
template <class Tag>
struct SumsOf<Tag, double> {
  using type = typename Tag::Double;
};

template <class Simd, int kMr, int kVecs>
struct OuterProducts {
  using T = typename Simd::Scalar;
  using Vec = typename Simd::Vec;
  static constexpr size_t kLanes = Simd::kLanes;

  // One call: `length` steps along K. Strides are in elements.
  struct Block {
    const T* a;
    size_t a_row;
    size_t a_step;
    const T* b;
    size_t b_step;
    T* c;
    size_t c_row;
    size_t length;
    bool adds;       // to what c holds; else c is overwritten
    const T* ahead;  // the B to prefetch into L2 meanwhile
    size_t ahead_step;
  };

  template <int R, int V>
  static __attribute__((noinline)) void multiply(const Block& shared) {
    const Block s = shared;  // a copy, which no store to c can change
    Vec acc[R][V];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[i][v] = Simd::zero();
    }
    // Rows by fours: one pointer and three strides each, which is what the registers hold.
    constexpr int kFours = (R + 3) / 4;
    const size_t row_of[4] = {0, s.a_row, 2 * s.a_row, 3 * s.a_row};
    const T* a[kFours];
#pragma GCC unroll 2
    for (int f = 0; f < kFours; ++f) a[f] = s.a + static_cast<size_t>(f) * 4 * s.a_row;
    const T* b = s.b;
    const T* ahead = s.ahead;
    for (size_t k = 0; k < s.length; ++k) {
      Vec bs[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        bs[v] = Simd::load(b + v * kLanes);
        Simd::keep(&bs[v]);
        __builtin_prefetch(ahead + v * kLanes, 0, 2);
      }
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
        Vec value = Simd::broadcast(a[i / 4] + row_of[i % 4]);
        Simd::keep(&value);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[i][v] = Simd::fma(value, bs[v], acc[i][v]);
      }
#pragma GCC unroll 2
      for (int f = 0; f < kFours; ++f) a[f] += s.a_step;
      b += s.b_step;
      ahead += s.ahead_step;
    }
    T* c = s.c;
    if (s.adds) {
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i, c += s.c_row) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          Simd::store(c + v * kLanes, Simd::add(Simd::load(c + v * kLanes), acc[i][v]));
        }
      }
    } else {
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i, c += s.c_row) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) Simd::store(c + v * kLanes, acc[i][v]);
      }
    }
  }

  // Runs it for `rows` rows, 1 to R, and `vecs` vectors, 1 to V.
  template <int R = kMr, int V = kVecs>
  static void multiply_of(size_t rows, size_t vecs, const Block& s) {
    if constexpr (V > 1) {
      if (vecs < V) return multiply_of<R, V - 1>(rows, vecs, s);
    }
    if constexpr (R > 1) {
      if (rows < R) return multiply_of<R - 1, V>(rows, vecs, s);
    }
    multiply<R, V>(s);
  }
};

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_MATMUL_OUTER_PRODUCTS_H_
