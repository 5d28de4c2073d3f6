// Layer: kernels. W in 16 bits under float rows of X, where there are many of them: rows of W are widened a
// few at a time into a panel on the stack, once for all rows of X of a tile, and multiplied there with the
// same bits. It serves CPUs with two ports for 512-bit FMAs, where widening in registers takes turns with
// them.
#ifndef MYLINEAR_KERNELS_WIDE_PANELS_H_
#define MYLINEAR_KERNELS_WIDE_PANELS_H_

#include "kernels/micro_kernel.h"

namespace mylinear::kernels {

template <class Tag, class S, int kMr, class SW>
struct WidePanels : MicroKernel<Tag, typename SimdOf<Tag, S>::type, S> {
  using Base = MicroKernel<Tag, typename SimdOf<Tag, S>::type, S>;
  using Base::kLanes;
  using Base::round_up;
  using typename Base::Prefetch;
  using typename Base::Simd;

  static constexpr bool kWidens = sizeof(SW) < sizeof(S);
  // Rows of W in a panel, which with the rows of X of one pass fits an L1 of 48 KiB.
  static constexpr size_t kRows = 8;
  static constexpr size_t kMaxBlock = 3072 / sizeof(S);  // of K
  // For fewer passes over W, widening it in registers costs less.
  static constexpr size_t kMinPasses = 3;

  // Widens `rows` rows of W, w_stride apart, and zeros up to a whole vector; prefetches as many behind them.
  static void widen(const SW* w, size_t w_stride, size_t rows, size_t length, bool has_next, S* panel) {
    const size_t stride = round_up(length);
    for (size_t i = 0; i < rows; ++i, w += w_stride, panel += stride) {
      size_t k = 0;
      for (; k + kLanes <= length; k += kLanes) {
        Simd::store(panel + k, Simd::load(w + k));
        if (has_next) __builtin_prefetch(w + kRows * w_stride + k, 0, 2);
      }
      if (k < length) Simd::store(panel + k, Simd::load_partial(w + k, length - k));
    }
  }

  // Multiplies `rows` rows of X by the W of a strip along its block of K. `Strip` is that of the MicroKernel
  // for SW.
  template <class Strip>
  static void run(const Strip& strip, size_t rows) {
    alignas(64) S panel[kRows * kMaxBlock];
    typename Base::Strip s{};
    s.w = s.ahead = panel;
    s.w_stride = round_up(strip.length);
    s.K = strip.K;
    s.k = strip.k;
    s.length = s.block = strip.length;
    s.x_stride = strip.x_stride;
    s.sums_stride = strip.sums_stride;
    const size_t passes = divide_up(rows, static_cast<size_t>(kMr));
    for (size_t j = 0; j < strip.columns; j += kRows) {
      s.columns = min(kRows, strip.columns - j);
      widen(strip.w + j * strip.w_stride, strip.w_stride, s.columns, s.length, j + 2 * kRows <= strip.columns,
            panel);
      s.bias = strip.bias ? strip.bias + j : nullptr;
      s.x = strip.x;
      s.sums = strip.sums + j;
      for (size_t pass = 0, i = 0; pass < passes; ++pass) {
        const size_t pass_rows = divide_up(rows - i, passes - pass);  // as equal as possible
        Base::template strip_of<kMr>(pass_rows, Prefetch::kNone, s);
        i += pass_rows;
        s.x += pass_rows * s.x_stride;
        s.sums += pass_rows * s.sums_stride;
      }
    }
  }
};

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_WIDE_PANELS_H_
