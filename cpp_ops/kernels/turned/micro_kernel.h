// Layer: kernels. The micro-kernel of products with lanes along rows, as a template over the vectors of an
// ISA.
//
// One matrix is turned round: its rows lie side by side in vectors, a row a lane. Of the other, elements of
// kWalked rows are loaded into all lanes, wherever they lie. So no lanes are added up, and each element of
// the second costs one load, aligned or not. micro_kernel.h of the room above sums each element of Y in
// kLanes lanes, which are added in the order of sum4; here these are kLanes sums one after the other, each
// along its own elements of K, added in the same order. The bits are the same.
#ifndef MYLINEAR_KERNELS_TURNED_MICRO_KERNEL_H_
#define MYLINEAR_KERNELS_TURNED_MICRO_KERNEL_H_

#include "kernels/simd.h"

namespace mylinear::kernels {

template <class Simd>
struct TurnedKernel {
  using T = typename Simd::Scalar;
  using Vec = typename Simd::Vec;
  static constexpr size_t kLanes = Simd::kLanes;
  static constexpr size_t kWalked = 8;
  // Vectors of turned rows at a time: 24 accumulators, and 4 registers for the factors.
  static constexpr size_t kVecs = 3;
  static constexpr size_t kLevels = kLanes == 16 ? 4 : 3;  // of the tree of sums
  static_assert(kLanes == size_t{1} << kLevels);

  // By row of the walked matrix.
  using Sums = Vec[kWalked][kVecs];

  // The kWalked rows whose elements are broadcast.
  struct Walk {
    const T* rows;
    size_t stride;
    size_t length;      // of a block of K
    const char* ahead;  // kWalked rows to prefetch into L2 meanwhile
    size_t ahead_row;   // bytes from one of them to the next
    size_t ahead_step;  // bytes of kLanes elements
  };

  static size_t round_up(size_t length) { return divide_up(length, kLanes) * kLanes; }

  // Turns `vecs` vectors of rows, `stride` elements apart: those of the block's elements that one sum takes
  // follow each other, in the order of the sums. Where there are fewer rows, the last one again; where there
  // are fewer elements, zeros.
  template <class E>
  static void turn(const E* from, size_t stride, size_t rows, size_t length, size_t vecs, T* to) {
    constexpr size_t kNear = 2;  // steps that the memory is prefetched ahead
    const size_t steps = divide_up(length, kLanes);
    size_t place[kLanes];
    for (size_t n = 0; n < kLanes; ++n) place[Simd::kSumOrder[n]] = n * steps;
    for (size_t v = 0; v < vecs; ++v) {
      for (size_t s = 0; s < steps; ++s) {
        const size_t rest = length - s * kLanes;
        Vec words[kLanes];
#pragma GCC unroll 16
        for (size_t i = 0; i < kLanes; ++i) {
          const E* row = from + min(v * kLanes + i, rows - 1) * stride + s * kLanes;
          words[i] = rest >= kLanes ? Simd::load(row) : Simd::load_partial(row, rest);
        }
#pragma GCC unroll 16
        for (size_t i = 0; i < kLanes; ++i) {
          __builtin_prefetch(to + ((place[i] + s + kNear) * vecs + v) * kLanes, 1, 3);
        }
        Simd::transpose(words);
#pragma GCC unroll 16
        for (size_t i = 0; i < kLanes; ++i) {
          Simd::store(to + ((place[i] + s) * vecs + v) * kLanes, words[i]);
        }
      }
    }
  }

  // The sums along a block of K of kWalked rows by V vectors of turned ones.
  template <size_t V>
  static __attribute__((noinline)) void multiply(const T* x, const Walk& shared, Sums& out) {
    const Walk walk = shared;
    constexpr size_t kAtOnce = V == 1 ? 2 : 1;  // sums, so that enough FMAs are under way
    constexpr size_t kNear = 8;                 // steps that the turned rows are prefetched ahead
    const size_t steps = divide_up(walk.length, kLanes), rest = walk.length % kLanes;
    Vec pending[kLevels][kWalked][V];  // sums of 1, 2, 4 and 8 of the kLanes sums
    for (size_t n = 0; n < kLanes; n += kAtOnce) {
      Vec sum[kAtOnce][kWalked][V];
#pragma GCC unroll 2
      for (size_t c = 0; c < kAtOnce; ++c) {
#pragma GCC unroll 8
        for (size_t r = 0; r < kWalked; ++r) {
#pragma GCC unroll 4
          for (size_t v = 0; v < V; ++v) sum[c][r][v] = Simd::zero();
        }
      }
      const size_t first = Simd::kSumOrder[n], second = Simd::kSumOrder[n + kAtOnce - 1];
      const T* near = walk.rows + first;
      const T* far = near + 4 * walk.stride;
      const T* x_second = x + steps * V * kLanes;
      const char* later = walk.ahead + n * kWalked / kLanes * walk.ahead_row;
      const auto step = [&](auto at_once, const T* turned, size_t offset) __attribute__((always_inline)) {
        constexpr size_t kSum = decltype(at_once)::value;
        Vec xs[V];
#pragma GCC unroll 4
        for (size_t v = 0; v < V; ++v) {
          Vec value = Simd::load(turned + v * kLanes);
          Simd::keep(&value);
          xs[v] = value;
          __builtin_prefetch(turned + (kNear * V + v) * kLanes, 0, 3);
        }
#pragma GCC unroll 8
        for (size_t r = 0; r < kWalked; ++r) {
          Vec value = Simd::broadcast((r < 4 ? near : far) + r % 4 * walk.stride + offset);
          if constexpr (V > 1) Simd::keep(&value);
#pragma GCC unroll 4
          for (size_t v = 0; v < V; ++v) sum[kSum][r][v] = Simd::fma(value, xs[v], sum[kSum][r][v]);
        }
      };
      const size_t count = steps - (rest && second >= rest);
      for (size_t s = 0; s < count; ++s) {
        step(Bool<false>{}, x, 0);
        if constexpr (kAtOnce == 2) step(Bool<true>{}, x_second, second - first);
        __builtin_prefetch(later, 0, 2);
        later += walk.ahead_step;
        near += kLanes;
        far += kLanes;
        x += V * kLanes;
        x_second += V * kLanes;
      }
      if (count < steps) {
        // The other micro-kernel adds the product of two zeros here, which makes 0 of -0.
        if (kAtOnce == 2 && first < rest) step(Bool<false>{}, x, 0);
        x += V * kLanes;
#pragma GCC unroll 2
        for (size_t c = 0; c < kAtOnce; ++c) {
#pragma GCC unroll 8
          for (size_t r = 0; r < kWalked; ++r) {
#pragma GCC unroll 4
            for (size_t v = 0; v < V; ++v) sum[c][r][v] = Simd::add(sum[c][r][v], Simd::zero());
          }
        }
      }
      const size_t level = static_cast<size_t>(__builtin_ctzl(~(n + kAtOnce - 1)));
      if constexpr (kAtOnce == 2) {
        x += steps * V * kLanes;
#pragma GCC unroll 8
        for (size_t r = 0; r < kWalked; ++r) sum[0][r][0] = Simd::add(sum[0][r][0], sum[1][r][0]);
      }
      for (size_t complete = kAtOnce - 1; complete < level; ++complete) {
#pragma GCC unroll 8
        for (size_t r = 0; r < kWalked; ++r) {
#pragma GCC unroll 4
          for (size_t v = 0; v < V; ++v) sum[0][r][v] = Simd::add(pending[complete][r][v], sum[0][r][v]);
        }
      }
#pragma GCC unroll 8
      for (size_t r = 0; r < kWalked; ++r) {
#pragma GCC unroll 4
        for (size_t v = 0; v < V; ++v) (level < kLevels ? pending[level][r][v] : out[r][v]) = sum[0][r][v];
      }
    }
  }

  static void multiply_of(size_t vecs, const T* x, const Walk& walk, Sums& out) {
    if (vecs == 3) return multiply<3>(x, walk, out);
    if (vecs == 2) return multiply<2>(x, walk, out);
    multiply<1>(x, walk, out);
  }
};

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_TURNED_MICRO_KERNEL_H_
