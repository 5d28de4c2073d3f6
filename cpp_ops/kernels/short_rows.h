// Layer: kernels. Another algorithm for Y = X W^T + B, with the same bits, where K is short.
//
// There, adding up the lanes costs as much as the products. If there are many rows of X, W is transposed once
// for all of them, and the lanes run along N: then each of the kLanes sums of an element of Y is a vector of
// its own, of kLanes columns, and they are added in the order of sum4.
#ifndef MYLINEAR_KERNELS_SHORT_ROWS_H_
#define MYLINEAR_KERNELS_SHORT_ROWS_H_

#include "kernels/epilogue.h"
#include "kernels/gemm.h"

namespace mylinear::kernels {

template <class Tag, class S, int kMr, class SW = S>
struct ShortRows : Elements<Tag, S> {
  using Base = Elements<Tag, S>;
  using Base::kAbsent;
  using Base::kConverts;
  using Base::kLanes;
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

  using Finish = Epilogue<Tag, S>;

  static constexpr size_t kPerWord = kStep / kLanes;  // elements of K that a lane multiplies at once
  // Of K. The more it costs to load W or to add up lanes, the longer the rows for which one panel pays.
  static constexpr size_t kMaxShort = kPerWord > 1             ? 160
                                      : sizeof(SW) < sizeof(S) ? 256
                                      : kConverts              ? 128
                                                               : 64;
  static constexpr size_t kMaxShortest = kPerWord > 1 ? 96 : 64;
  static constexpr size_t kMinShortRows = sizeof(S) < sizeof(T) ? 16 : 32;
  static constexpr size_t kMinLongerRows = 32;  // where K exceeds kMaxShortest

  static_assert(kPerWord == 1 || kConverts,
                "pairs of X are read whole, so rows of odd length must be held, with zeros behind");

  // Adding up the lanes of an element of Y takes the other algorithm, kNr columns at a time, as long as this
  // many elements of K.
  static constexpr size_t kSumCost = kPerWord > 1 ? 40 : sizeof(SW) < sizeof(T) ? 30 : 20;

  // False too where lanes that are wasted cost more than adding lanes up.
  static bool is_short(const GemmParams& p, size_t rows, size_t columns) {
    return Simd::kHasPanels && p.K > 0 && p.K <= kMaxShort &&
           rows >= (p.K <= kMaxShortest ? kMinShortRows : kMinLongerRows) &&
           divide_up(columns, kLanes) * kLanes * p.K <= divide_up(columns, kNr) * kNr * (p.K + kSumCost);
  }

  // Whether sums of a tile are kept before they are rounded, by their activation.
  static bool keeps_sums(const GemmParams& p) { return kConverts && p.activation != Activation::kNone; }

  // Transposes kLanes rows of W, which are K apart; where there are fewer, the last one again.
  static void transpose_panel(const SW* w, size_t K, size_t columns, Operand* panel) {
    for (size_t k = 0; k < K; k += kStep) {
      const size_t rest = K - k;
      Operand v[kLanes];
#pragma GCC unroll 16
      for (size_t i = 0; i < kLanes; ++i) {
        const SW* row = w + min(i, columns - 1) * K + k;
        v[i] = rest >= kStep ? load(row) : load_partial(row, rest);
      }
      Simd::transpose(v);
#pragma GCC unroll 16
      for (size_t i = 0; i < kLanes; ++i) panel[k / kPerWord + i] = v[i];
    }
  }

  // Multiplies R rows of X by a panel of `words` words of K.
  template <int R, bool kDot>
  static inline __attribute__((always_inline)) void multiply_panel(const Held* x, size_t x_stride,
                                                                   const Operand* panel, size_t words,
                                                                   Vec (&sums)[R]) {
    Vec pending[5][R];  // sums of 1, 2, 4, 8 and 16 lanes
    static_assert(kLanes == 16);
#pragma GCC unroll 16
    for (size_t n = 0; n < kLanes; ++n) {
      Vec sum[R];
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) sum[i] = Simd::zero();
      for (size_t k = Simd::kSumOrder[n]; k < words; k += kLanes) {
        Operand value = panel[k];
        Simd::keep(&value);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
          sum[i] = Base::template multiply_add<kDot>(Simd::broadcast(x + i * x_stride + k * kPerWord), value,
                                                     sum[i]);
        }
      }
      const size_t level = static_cast<size_t>(__builtin_ctzl(~n));
#pragma GCC unroll 4
      for (size_t complete = 0; complete < 4; ++complete) {
        if (complete >= level) break;
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) sum[i] = Simd::add(pending[complete][i], sum[i]);
      }
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) pending[level][i] = sum[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) sums[i] = pending[4][i];
  }

  template <int R, bool kDot, class D>
  static __attribute__((noinline)) void short_rows(const Held* x, size_t x_stride, const Operand* panel,
                                                   size_t words, const Vec& bias, size_t columns, D* y,
                                                   size_t stride) {
    Vec sums[R];
    multiply_panel<R, kDot>(x, x_stride, panel, words, sums);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const Vec sum = Simd::add(sums[i], bias);
      if (columns >= kLanes) {
        Simd::store(y + i * stride, sum);
      } else {
        store_partial<Simd>(y + i * stride, sum, columns);
      }
    }
  }

  // Computes a tile of Y, as `tile` does, and its activation. `sums` has room where keeps_sums is true.
  static void run(const GemmParams& p, const Held* x, size_t x_stride, size_t rows, const SW* w,
                  size_t columns, const T* bias, T* sums, S* y, bool is_dot) {
    if constexpr (kConverts) {
      if (keeps_sums(p)) {
        tile(p, x, x_stride, rows, w, columns, bias, sums, columns, is_dot);
        return Finish::round_rows(p.activation, sums, columns, rows, columns, y, p.N);
      }
    }
    tile(p, x, x_stride, rows, w, columns, bias, y, p.N, is_dot);
    if constexpr (!kConverts) {
      if (p.activation != Activation::kNone) Finish::activate(p.activation, y, p.N, rows, columns);
    }
  }

  // Computes a tile of Y, or the sums that Y is rounded from. `x` are the rows as held, `bias` is in the type
  // of the sums and in whole vectors.
  template <class D>
  static void tile(const GemmParams& p, const Held* x, size_t x_stride, size_t rows, const SW* w,
                   size_t columns, const T* bias, D* y, size_t y_stride, bool is_dot) {
    alignas(64) Operand panel[kMaxShort / kPerWord];
    T absent[kLanes];
    for (T& value : absent) value = kAbsent[0];
    for (size_t j = 0; j < columns; j += kLanes) {
      const size_t width = min(kLanes, columns - j);
      transpose_panel(w + j * p.K, p.K, width, panel);
      const Vec added = Simd::load(bias ? bias + j : absent);
      const auto multiply = [&](auto can_dot) __attribute__((always_inline)) {
        constexpr bool kDot = decltype(can_dot)::value;
        const size_t words = divide_up(p.K, kPerWord);
        size_t i = 0;
        for (; i + kMr <= rows; i += kMr) {
          short_rows<kMr, kDot>(x + i * x_stride, x_stride, panel, words, added, width, y + i * y_stride + j,
                                y_stride);
        }
        for (; i < rows; ++i) {
          short_rows<1, kDot>(x + i * x_stride, x_stride, panel, words, added, width, y + i * y_stride + j,
                              y_stride);
        }
      };
      if constexpr (Simd::kHasDot) {
        if (is_dot && (p.w_can_dot || Simd::has_no_denormal_sums(w + j * p.K, p.K, width, p.K))) {
          multiply(Bool<true>{});
          continue;
        }
      }
      multiply(Bool<false>{});
    }
  }
};

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_SHORT_ROWS_H_
