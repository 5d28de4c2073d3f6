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

  // One call: R rows of A by `panels` panels of V vectors of B, `length` steps along K. Strides are in
  // elements.
  struct Strip {
    const T* a;
    size_t a_row;
    size_t a_step;
    const T* b;
    size_t b_step;
    size_t b_panel;  // from panel to panel
    T* c;            // panels lie side by side
    size_t c_row;
    size_t c_next;  // from this c to the one of the next call, to prefetch
    size_t panels;
    size_t length;
    size_t rest;     // columns in the very last vector, kLanes if it is whole
    bool adds;       // to what c holds; else c is overwritten
    const T* ahead;  // the B to prefetch into L2 meanwhile, panels side by side; or b itself
    size_t ahead_step;
    size_t ahead_panel;
  };

  template <int R, int V>
  static __attribute__((noinline)) void multiply(const Strip& shared) {
    const Strip s = shared;  // a copy, which no store to c can change
    // Rows by fours: one pointer and three strides each, which is what the registers hold.
    constexpr int kFours = (R + 3) / 4;
    const size_t row_of[4] = {0, s.a_row, 2 * s.a_row, 3 * s.a_row};
    for (size_t panel = 0; panel < s.panels; ++panel) {
      const bool is_last = panel + 1 == s.panels;
      T* const c = s.c + panel * V * kLanes;
      T* later = is_last ? s.c + s.c_next : c + V * kLanes;
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i, later += s.c_row) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) __builtin_prefetch(later + v * kLanes, 1, 2);
      }
      Vec acc[R][V];
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[i][v] = Simd::zero();
      }
      const T* a[kFours];
#pragma GCC unroll 2
      for (int f = 0; f < kFours; ++f) a[f] = s.a + static_cast<size_t>(f) * 4 * s.a_row;
      const T* b = s.b + panel * s.b_panel;
      const T* ahead = s.ahead + panel * s.ahead_panel;
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
      if (is_last && s.rest < kLanes) {
        finish<R, V>(acc, c, s.c_row, s.adds, s.rest);
      } else {
        finish<R, V>(acc, c, s.c_row, s.adds, kLanes);
      }
    }
  }

  // Adds the sums to c, or stores them; `rest` columns of the last vector.
  template <int R, int V>
  static inline __attribute__((always_inline)) void finish(const Vec (&acc)[R][V], T* c, size_t c_row,
                                                           bool adds, size_t rest) {
    const auto store = [&](auto sum) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i, c += c_row) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          T* to = c + v * kLanes;
          if (v + 1 < V || rest == kLanes) {
            Simd::store(to, sum(acc[i][v], [to] { return Simd::load(to); }));
          } else {
            Simd::store_first(to, sum(acc[i][v], [to, rest] { return Simd::load_partial(to, rest); }), rest);
          }
        }
      }
    };
    if (adds) {
      store([](const Vec& sum, auto before) { return Simd::add(before(), sum); });
    } else {
      store([](const Vec& sum, auto) { return sum; });
    }
  }

  // Runs it for `rows` rows, 1 to R, and `vecs` vectors, 1 to V.
  template <int R = kMr, int V = kVecs>
  static void multiply_of(size_t rows, size_t vecs, const Strip& s) {
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
