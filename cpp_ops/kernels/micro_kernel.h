// Layer: kernels. The micro-kernel of Y = X W^T + B, once, as a template over an ISA, the storage type of X
// and Y (S), and that of W (SW).
//
// Every element of Y is the dot product of a row of X and a row of W, and both lie in memory as a dot
// product needs them: nothing is packed or transposed, and W is read in place, whoever owns it. The
// micro-kernel takes R rows of X by four rows of W, with an accumulator for each pair, whose lanes run along
// K: R + 4 loads for 4 R FMAs. The lanes are added up four accumulators at a time, between the FMAs of the
// next call where the ISA has registers for both; or sixteen at a time, half of the lanes at once and the
// rest between the products of the next call.
#ifndef MYLINEAR_KERNELS_MICRO_KERNEL_H_
#define MYLINEAR_KERNELS_MICRO_KERNEL_H_

#include "kernels/activation/activation.h"
#include "kernels/simd.h"

namespace mylinear::kernels {

template <class Tag, class Vectors, class SW>
struct MicroKernel : Products<Vectors> {
  using Base = Products<Vectors>;
  using Base::kAbsent;
  using Base::kNr;
  using Base::kStep;
  using Base::load;
  using Base::load_partial;
  using Base::multiply_add;
  using typename Base::Held;
  using typename Base::Operand;
  using typename Base::Simd;
  using typename Base::T;
  using typename Base::Vec;
  typedef T Quad __attribute__((vector_size(4 * sizeof(T))));

  // R rows of X by `columns` rows of W, along `length` elements of K from `k` on: a block, or all of them.
  struct Strip {
    const Held* x;  // rows `x_stride` apart
    size_t x_stride;
    const SW* w;  // rows `w_stride` apart
    size_t w_stride;
    size_t K;
    size_t columns;
    size_t k;
    size_t length;
    size_t block;  // of K
    T* sums;       // [R][columns], rows `sums_stride` apart; nothing in it yet if k is 0
    size_t sums_stride;
    void* y;  // as SW, where to round the last sums to instead, rows `y_stride` apart, or null
    size_t y_stride;
    const T* bias;         // added with the last block of K, or null
    const SW* ahead;       // the W that Prefetch::kTile1 to kTile4 prefetch, laid out as w
    bool looks;            // whether to check which rows of W are safe for Simd::dot
    uint64_t* dot_panels;  // those that are, a bit for each four rows
  };

  // Which part of W to prefetch meanwhile, since rows are too short for the hardware's own prefetch: kPanel,
  // the next four rows, into L2, where more loads from memory can be under way at once than L1 allows;
  // kTile<n>, n of each four rows of the next tile, so that memory and multiplication overlap; kNear, if W
  // may well be in L2 already, the elements kNear further on, into L1. benchmarks/README.md has the
  // measurements.
  enum class Prefetch { kNone, kNear, kPanel, kTile1, kTile2, kTile4 };
  static constexpr size_t kNear = 1024 / sizeof(SW);

  // How much of W each of `passes` prefetches, so that all of them together prefetch a tile.
  static Prefetch prefetch_of(size_t pass, size_t passes, size_t* row) {
    const size_t rows = divide_up(kNr, passes);
    *row = pass * rows;
    if (*row >= kNr) return Prefetch::kNone;
    return rows == 1 ? Prefetch::kTile1 : rows == 2 ? Prefetch::kTile2 : Prefetch::kTile4;
  }

  // Where the sums of a micro-kernel go, once its lanes are added up.
  struct Destination {
    T* to;  // rows `stride` apart
    size_t stride;
    const T* before;  // the sums so far, rows `before_stride` apart
    size_t before_stride;
    const T* bias;
    SW* y;  // where to round them to instead, or null
    size_t y_stride;
  };

  // Whether lanes are added up for all rows together.
  template <int R>
  static constexpr bool kFolds = R == kNr && Simd::kFoldsLanes;
  // Whether a strip can round its sums itself.
  static bool rounds(size_t rows, size_t columns, Activation activation) {
    return Simd::kFoldsLanes && rows == kNr && columns % kNr == 0 && activation == Activation::kNone;
  }

  static inline __attribute__((always_inline)) void finish_row(const Vec (*lanes)[kNr], const Destination& d,
                                                               int i) {
    Quad sum, before, bias;
    Simd::sum4(lanes[i], reinterpret_cast<T*>(&sum));
    __builtin_memcpy(&before, d.before + i * d.before_stride, sizeof sum);
    __builtin_memcpy(&bias, d.bias, sizeof sum);
    sum = (before + sum) + bias;
    __builtin_memcpy(d.to + i * d.stride, &sum, sizeof sum);
  }

  static inline __attribute__((always_inline)) void put_rows(Vec sums, const Destination& d) {
    if (d.before_stride) sums = Simd::add(Simd::load_rows(d.before, d.before_stride), sums);
    sums = Simd::add(sums, Simd::repeat_row(d.bias));
    if (d.y) return Simd::store_rows(d.y, d.y_stride, sums);
    Simd::store_rows(d.to, d.stride, sums);
  }

  // Finishes R rows.
  template <int R>
  static inline __attribute__((always_inline)) void finish(const Vec (*lanes)[kNr], const Destination& d) {
    if constexpr (kFolds<R>) {
      put_rows(Simd::sum_folded(lanes[0]), d);
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) finish_row(lanes, d, i);
    }
  }

  // Multiplies R rows of X by four rows of W, along `length` elements. The part of W that comes next lies
  // `next` elements behind. Finishes the rows of the call before, if sums are deferred, and leaves its own
  // lanes in their place.
  template <int R, Prefetch kPrefetch, bool kDot>
  static inline __attribute__((always_inline)) void micro_kernel(const Held* x, size_t x_stride,
                                                                 const SW* const* w, ptrdiff_t next,
                                                                 const SW* ahead, size_t K, size_t length,
                                                                 Vec (*lanes)[kNr],
                                                                 const Destination& pending) {
    Vec acc[R][kNr];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (size_t j = 0; j < kNr; ++j) acc[i][j] = Simd::zero();
    }
    const auto step = [&](auto load_x, auto load_w, size_t k) __attribute__((always_inline)) {
      Operand xs[R];
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        Operand value = load_x(x + i * x_stride + k);
        Simd::keep(&value);
        xs[i] = value;
      }
#pragma GCC unroll 4
      for (size_t j = 0; j < kNr; ++j) {
        Operand value = load_w(w[j] + k);
        Simd::keep(&value);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) acc[i][j] = Base::template multiply_add<kDot>(xs[i], value, acc[i][j]);
      }
    };
    [[maybe_unused]] const size_t near = min(kNear, length);
    const auto whole_step = [&](size_t k) __attribute__((always_inline)) {
      if constexpr (kPrefetch == Prefetch::kNear) {
        const size_t later = k + near;
#pragma GCC unroll 4
        for (size_t j = 0; j < kNr; ++j) {
          __builtin_prefetch(w[j] + (later < length ? later : later - length + static_cast<size_t>(next)), 0,
                             3);
        }
      } else if constexpr (kPrefetch == Prefetch::kPanel) {
#pragma GCC unroll 4
        for (size_t j = 0; j < kNr; ++j) __builtin_prefetch(w[j] + next + k, 0, 2);
      } else if constexpr (kPrefetch != Prefetch::kNone) {
        constexpr size_t kRows = kPrefetch == Prefetch::kTile1 ? 1 : kPrefetch == Prefetch::kTile2 ? 2 : 4;
#pragma GCC unroll 4
        for (size_t j = 0; j < kRows; ++j) __builtin_prefetch(ahead + j * K + k, 0, 2);
      }
      step([](const Held* from) { return load(from); }, [](const SW* from) { return load(from); }, k);
    };
    size_t k = 0;
    if constexpr (Tag::kDefersSums) {
      [[maybe_unused]] Vec sums;
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        if (k + kStep <= length) {
          whole_step(k);
          k += kStep;
        }
        if constexpr (!kFolds<R>) {
          finish_row(lanes, pending, i);
        } else if (i == R - 2) {  // when products enough are under way to hide it
          sums = Simd::sum_folded(lanes[0]);
        } else if (i == R - 1) {
          put_rows(sums, pending);
        }
      }
    }
    for (; k + kStep <= length; k += kStep) whole_step(k);
    if (const size_t rest = length - k) {
      step([rest](const Held* from) { return load_partial(from, rest); },
           [rest](const SW* from) { return load_partial(from, rest); }, k);
    }
    if constexpr (kFolds<R>) {
      Simd::fold(acc, lanes[0]);
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
        for (size_t j = 0; j < kNr; ++j) lanes[i][j] = acc[i][j];
      }
    }
  }

  // sums (+)= X W^T + bias. `kIsWhole`: along all of K, a block after the other.
  template <int R, Prefetch kPrefetch, bool kIsWhole>
  static __attribute__((noinline)) void strip(const Strip& shared) {
    const Strip s = shared;  // a copy, which no store to the sums can change
    Vec lanes[R][kNr];
    T nowhere[R][kNr];
    Destination pending{nowhere[0], kNr, kAbsent, 0, kAbsent, nullptr, 0};
    for (int i = 0; i < R; ++i) {
      for (size_t j = 0; j < kNr; ++j) lanes[i][j] = Simd::zero();
    }
    for (size_t j = 0; j < s.columns; j += kNr) {
      const size_t count = min(kNr, s.columns - j);
      T* to = s.sums + j;
      size_t to_stride = s.sums_stride;
      const T* bias = s.bias ? s.bias + j : kAbsent;
      T edge[R + 1][kNr];  // the sums and the bias of fewer than four columns
      if (count < kNr) {
        if (s.k > 0) copy_rows(to, to_stride, edge[0], kNr, R, count);
        copy_rows(bias, 0, edge[R], 0, 1, count);
        to = edge[0];
        to_stride = kNr;
        bias = edge[R];
      }
      const SW* w[kNr];  // the last row again where there are fewer than four
#pragma GCC unroll 4
      for (size_t c = 0; c < kNr; ++c) w[c] = s.w + (j + (c < count ? c : count - 1)) * s.w_stride;
      bool can_dot = false;
      if constexpr (Simd::kHasDot) {
        const uint64_t bit = uint64_t{1} << (j / kNr);
        if (s.looks) {
          *s.dot_panels =
              Simd::has_no_denormal_sums(w, s.length) ? *s.dot_panels | bit : *s.dot_panels & ~bit;
        }
        can_dot = *s.dot_panels & bit;
      }
      for (size_t k = s.k;;) {
        const size_t length = kIsWhole ? min(s.block, s.K - k) : s.length;
        const bool is_end = k + length == s.K;
        const bool is_last = j + count == s.columns && (is_end || !kIsWhole);
        // Next come the four rows behind, or what follows in these, or after the last ones in the first.
        size_t next = kIsWhole ? kNr * s.K - k : kNr * s.K;
        if (!is_end && (kIsWhole || is_last)) next = kIsWhole ? length : length - j * s.K;
        const auto multiply = [&](auto dots) __attribute__((always_inline)) {
          micro_kernel<R, kPrefetch, decltype(dots)::value>(s.x + (kIsWhole ? k : 0), s.x_stride, w,
                                                            static_cast<ptrdiff_t>(next), s.ahead + j * s.K,
                                                            s.K, length, lanes, pending);
        };
        if (Simd::kHasDot && can_dot) {
          multiply(Bool<Simd::kHasDot>{});
        } else {
          multiply(Bool<false>{});
        }
        pending = {to, to_stride, k ? to : kAbsent, k ? to_stride : 0, is_end ? bias : kAbsent, nullptr, 0};
        if (kFolds<R> && s.y && is_end) {
          pending.y = static_cast<SW*>(s.y) + j;
          pending.y_stride = s.y_stride;
        }
        if (!Tag::kDefersSums || is_last) finish<R>(lanes, pending);
        if (!kIsWhole || is_end) break;
        k += length;
#pragma GCC unroll 4
        for (size_t c = 0; c < kNr; ++c) w[c] += length;
      }
      if (count < kNr) copy_rows(to, kNr, s.sums + j, s.sums_stride, R, count);
    }
  }

  static void copy_rows(const T* from, size_t from_stride, T* to, size_t to_stride, int rows, size_t count) {
    for (int i = 0; i < rows; ++i) {
      for (size_t j = 0; j < count; ++j)
        __builtin_memcpy(to + i * to_stride + j, from + i * from_stride + j, sizeof(T));
    }
  }

  // Runs the strip for `rows` rows, 1 to R.
  template <int R>
  static void strip_of(size_t rows, Prefetch prefetch, const Strip& s) {
    if constexpr (R > 1) {
      if (rows < R) return strip_of<R - 1>(rows, prefetch, s);
    }
    if (s.length > s.block) {
      if (prefetch == Prefetch::kNear) return strip<R, Prefetch::kNear, true>(s);
      return strip<R, Prefetch::kPanel, true>(s);
    }
    if (prefetch == Prefetch::kNear) return strip<R, Prefetch::kNear, false>(s);
    if (prefetch == Prefetch::kPanel) return strip<R, Prefetch::kPanel, false>(s);
    if (prefetch == Prefetch::kTile1) return strip<R, Prefetch::kTile1, false>(s);
    if (prefetch == Prefetch::kTile2) return strip<R, Prefetch::kTile2, false>(s);
    if (prefetch == Prefetch::kTile4) return strip<R, Prefetch::kTile4, false>(s);
    strip<R, Prefetch::kNone, false>(s);
  }
};

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_MICRO_KERNEL_H_
