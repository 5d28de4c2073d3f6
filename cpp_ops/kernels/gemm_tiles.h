// Layer: kernels. Y = activation(X W^T + B) in tiles, as a template over an ISA, the storage type of X and Y
// (S), and that of W (SW). The tag of an ISA's unit is in an anonymous namespace, so all of it is internal.
//
// The order of each sum depends on K and the ISA alone: K is cut into blocks (`block_length`); within a block
// lane l of the accumulator sums the elements k = l (mod lanes) in order, then the lanes are added in the
// order of `sum4`; the sums of the blocks are added in order, and the bias last. So a row of Y has the same
// bits whatever the other rows, the tiles and the threads are.
#ifndef MYLINEAR_KERNELS_GEMM_TILES_H_
#define MYLINEAR_KERNELS_GEMM_TILES_H_

#include "kernels/cut.h"
#include "kernels/dots.h"
#include "kernels/epilogue.h"
#include "kernels/gemm.h"
#include "kernels/micro_kernel.h"
#include "kernels/short_rows.h"
#include "kernels/turned/panels.h"
#include "kernels/wide_panels.h"

namespace mylinear::kernels {

template <class Tag, class S, int kMr, class SW = S>
struct Gemm : Elements<Tag, S> {
  using Base = Elements<Tag, S>;
  using Base::hold;
  using Base::kConverts;
  using Base::kLanes;
  using Base::kNr;
  using Base::round_up;
  using typename Base::Held;
  using typename Base::Simd;
  using typename Base::T;
  using typename Base::Vec;
  using Micro = MicroKernel<Tag, Simd, SW>;
  using Prefetch = typename Micro::Prefetch;
  using Strip = typename Micro::Strip;
  using Safe = Dots<Micro, kMr>;
  using Short = ShortRows<Tag, S, kMr, SW>;
  using Wide = WidePanels<Tag, S, kMr, SW>;
  using Finish = Epilogue<Tag, S>;

  // A block of K: a few rows of X and four of W, this long, lie in an L1 of 32 KiB.
  static constexpr size_t kMaxBlock = 3072 / sizeof(Held);
  static constexpr size_t kMaxWhole = 32768;  // bytes of all of their K, for one pass over W
  // A tile of Y is kMc x kNc at most. Its rows of W (a block long) stay in L2 while the rows of X pass, and
  // those of the next tile come in: 768 KiB in all, where 512-bit vectors say that the CPU has 1 MiB or more.
  // Few rows take narrower tiles, so that there is one for each thread.
  static constexpr size_t kMc = 96;
  static constexpr size_t kNc = sizeof(Vec) == 64 ? 128 : 64;
  static constexpr size_t kNarrow = 64;
  static constexpr size_t kFewRows = 16;
  // With fewer tiles than kEnough they get fewer rows, down to kMinRows: there are some for each thread.
  static constexpr size_t kEnough = 16;
  static constexpr size_t kMinRows = 32;
  // Rows of X that are not multiplied in place are held on the stack, once a tile: 72 KiB, which with the
  // sums of types that are converted fits the 128 KiB of the smallest usual stack of a thread.
  static constexpr size_t kMaxHeld = 73728 / sizeof(Held);
  using Turned = TurnedPanels<Tag, S, SW, kMaxBlock>;  // for many rows, with the same bits
  static constexpr bool kTurns = Simd::kHasTurned && !kConverts;
  static_assert(kMc % kMr == 0 && kNc % kNr == 0 && kNc / kNr <= 64);

  // The length of a block of K: as few blocks as possible, and all but the last alike.
  static size_t block_length(size_t K) {
    if (K <= kMaxBlock) return K;
    return round_up(divide_up(K, divide_up(K, kMaxBlock)));
  }

  static bool can_dot(const void* w, size_t count) {
    return Simd::has_no_denormal_sums(static_cast<const SW*>(w), count);
  }

  // With one row of W, Y^T = W X^T: then the micro-kernel takes four rows of X at a time, and Y^T lies in
  // memory as Y does. The products are the same, in the same order. Not where X and W differ in type.
  static bool is_transposed(const GemmParams& p) { return sizeof(S) == sizeof(SW) && p.N == 1 && p.M > 1; }

  // Not a copy of what was just written: wider loads than the stores have to wait for them.
  static const GemmParams& oriented(const GemmParams& p, GemmParams* turned) {
    if (!is_transposed(p)) return p;
    *turned = {1, p.M, p.K, p.w, p.x, p.bias, p.y, p.is_near, false, p.activation};
    return *turned;
  }

  // Whether to copy rows of X close together although they need no conversion: rows a multiple of 4 KiB apart
  // share few sets of an L1 cache, and those of 2 KiB too if loads cross lines. For one pass it does not pay,
  // nor if rows are 2 KiB apart.
  static bool is_held(const GemmParams& p) {
    if (sizeof(S) != sizeof(Held)) return true;
    if (p.M <= kMr) return false;
    const size_t stride = p.K * sizeof(S);
    const bool crosses = reinterpret_cast<uintptr_t>(p.x) % sizeof(Vec) != 0;
    return p.K % Short::kPerWord != 0 || (stride > 2048 && stride % (crosses ? 2048 : 4096) == 0);
  }

  // Sets where a strip's block of K of rows of X lies: in place, or in `held`.
  static void place_rows(const GemmParams& p, const S* x, size_t rows, Held* held, Strip* strip) {
    if (is_held(p)) {
      strip->x = held;
      strip->x_stride = round_up(strip->length);
      for (size_t i = 0; i < rows; ++i) {
        hold(x + i * p.K + strip->k, strip->length, held + i * strip->x_stride);
      }
    } else if constexpr (sizeof(S) == sizeof(Held)) {
      strip->x = x + strip->k;
      strip->x_stride = p.K;
    }
  }

  // Computes a tile of Y of short rows.
  static __attribute__((noinline)) void run_short(const GemmParams& p, size_t m, size_t rows, size_t n,
                                                  size_t columns) {
    T bias[kNc];
    if (p.bias) Finish::widen(static_cast<const S*>(p.bias) + n, columns, false, bias);
    alignas(64) Held held[kMaxHeld];
    alignas(64) T sums[kConverts ? kMc * kNc : 1];
    Strip strip;
    strip.k = 0;
    strip.length = p.K;
    place_rows(p, static_cast<const S*>(p.x) + m * p.K, rows, held, &strip);
    Short::run(p, strip.x, strip.x_stride, rows, static_cast<const SW*>(p.w) + n * p.K, columns,
               p.bias ? bias : nullptr, sums, static_cast<S*>(p.y) + m * p.N + n,
               Safe::are_safe(strip, rows, p.w_can_dot));
  }

  // Computes a tile of Y. `next` is the W of the tile after it, or null; `called` is the W that was
  // prefetched last.
  static void run_tile(const GemmParams& p, size_t m, size_t rows, size_t n, size_t columns, bool one_bias,
                       const SW* next, const SW** called) {
    const size_t passes = divide_up(rows, static_cast<size_t>(kMr));
    const S* x = static_cast<const S*>(p.x) + m * p.K;
    const SW* w = static_cast<const SW*>(p.w) + n * p.K;
    T bias[kNc];
    if (p.bias) Finish::widen(static_cast<const S*>(p.bias) + (one_bias ? 0 : n), columns, one_bias, bias);
    S* y = static_cast<S*>(p.y) + m * p.N + n;

    alignas(64) Held held[kMaxHeld];
    alignas(64) T sums[kConverts ? kMc * kNc : 1];
    Strip strip;  // not zeroed, which takes as long as a tiny product
    strip.k = 0;
    strip.K = strip.w_stride = p.K;
    strip.columns = columns;
    strip.block = block_length(p.K);
    strip.bias = p.bias ? bias : nullptr;
    strip.y_stride = p.N;
    uint64_t dot_panels;
    strip.dot_panels = &dot_panels;
    // One pass takes all of a row at a time, as it lies in memory, if L1 can hold it.
    const bool is_whole =
        strip.block < p.K && passes == 1 && p.K * (rows * sizeof(Held) + kNr * sizeof(SW)) <= kMaxWhole;
    do {
      strip.length = is_whole ? p.K : min(strip.block, p.K - strip.k);
      strip.w = w + strip.k;
      place_rows(p, x, rows, held, &strip);
      strip.sums = kConverts ? sums : reinterpret_cast<T*>(y);
      strip.sums_stride = kConverts ? kNc : p.N;
      const bool is_dot = Safe::are_safe_in_tile(p, strip, m, rows);
      if constexpr (Wide::kWidens) {
        if (passes >= Wide::kMinPasses && p.turns()) {
          Wide::run(strip, rows);
          strip.k += strip.length;
          if (strip.k < p.K) continue;
          return Finish::activate(p.activation, y, p.N, rows, columns);
        }
      }
      dot_panels = is_dot && p.w_can_dot ? ~uint64_t{0} : 0;
      const bool is_called = strip.w == *called;
      const bool is_last = strip.k + strip.length == p.K;
      const SW* ahead = !is_last ? strip.w + strip.length : next;
      const bool is_same = ahead == strip.w;
      if (p.is_near || passes == 1 || is_same) ahead = nullptr;
      for (size_t pass = 0, i = 0; pass < passes; ++pass) {
        // As equal as possible.
        const size_t pass_rows = pass + 1 == passes ? rows - i : divide_up(rows - i, passes - pass);
        Prefetch prefetch = Prefetch::kNone;
        size_t row = 0;
        if (pass == 0 && !is_called) {
          prefetch = p.is_near ? Prefetch::kNear : Prefetch::kPanel;
        } else if (ahead) {
          prefetch = Micro::prefetch_of(pass - !is_called, passes - !is_called, &row);
        }
        strip.ahead = ahead ? ahead + row * p.K : strip.w;
        strip.looks = is_dot && !p.w_can_dot && pass == 0;
        S* const pass_y = y + i * p.N;
        const bool rounds = is_last && Micro::rounds(pass_rows, columns, p.activation);
        strip.y = rounds ? pass_y : nullptr;
        Micro::template strip_of<kMr>(pass_rows, prefetch, strip);
        if (is_last && !rounds) {
          Finish::finish(p.activation, strip.sums, strip.sums_stride, pass_rows, columns, pass_y, p.N);
        }
        i += pass_rows;
        strip.x += pass_rows * strip.x_stride;
        strip.sums += pass_rows * strip.sums_stride;
      }
      *called = is_same ? strip.w : ahead;
      strip.k += strip.length;
    } while (strip.k < p.K);
  }

  static Cut cut_columns(const GemmParams& p) { return Cut(p.N, p.M > kFewRows ? kNc : kNarrow, kNr); }
  static Cut cut_rows(const GemmParams& p) {
    const size_t block = round_up(block_length(p.K));
    size_t most = kMc;
    if (is_held(p) && block > 0) most = min(most, kMaxHeld / block / kMr * kMr);
    const size_t columns = cut_columns(p).pieces;
    if (p.M > kMinRows && columns > 0 && columns < kEnough) {
      const size_t rows = p.M / divide_up(kEnough, columns);
      most = min(most, rows > kMinRows ? rows : kMinRows);
    }
    return Cut(p.M, most, kMr);
  }

  static size_t num_tiles(const GemmParams& params) {
    GemmParams turned;
    const GemmParams& p = oriented(params, &turned);
    if constexpr (kTurns) {
      if (Turned::applies(p)) return Turned::num_tiles(p);
    }
    return cut_rows(p).pieces * cut_columns(p).pieces;
  }

  // Tiles of TurnedPanels without its memory.
  static void run_turned(const GemmParams& p, size_t first, size_t last) {
    const size_t block = round_up(block_length(p.K)), most = min(kMc, kMaxHeld / block / kMr * kMr);
    const SW* called = nullptr;
    for (size_t tile = first; tile < last; ++tile) {
      const auto [m, rows, n, columns] = Turned::place(p, tile);
      for (size_t i = 0; i < rows; i += most) {
        for (size_t j = 0; j < columns; j += kNc) {
          run_tile(p, m + i, min(most, rows - i), n + j, min(kNc, columns - j), false, nullptr, &called);
        }
      }
    }
  }

  // Tiles that share rows of W follow each other: they find them in a cache. Short rows share their panels.
  static void run(const GemmParams& params, size_t first, size_t last) {
    GemmParams turned;
    const GemmParams& p = oriented(params, &turned);
    if constexpr (kTurns) {
      if (Turned::applies(p)) {
        if (!Turned::run(p, block_length(p.K), first, last)) run_turned(p, first, last);
        return;
      }
    }
    const Cut by_rows = cut_rows(p), by_columns = cut_columns(p);
    const SW* called = nullptr;
    size_t column = first > 0 ? first / by_rows.pieces : 0, row = first - column * by_rows.pieces;
    for (size_t tile = first; tile < last;) {
      const size_t m = row * by_rows.length, n = column * by_columns.length;
      const size_t columns = min(by_columns.length, p.N - n);
      size_t rows = min(by_rows.length, p.M - m), count = 1;
      const bool is_short = Short::is_short(p, rows, columns);
      if (is_short) {
        const size_t most = Short::keeps_sums(p) ? kMc : is_held(p) ? kMaxHeld / round_up(p.K) : SIZE_MAX;
        count = min(min(by_rows.pieces - row, last - tile), most / by_rows.length);
        rows = min(count * by_rows.length, p.M - m);
      }
      tile += count;
      if ((row += count) == by_rows.pieces) {
        row = 0;
        ++column;
      }
      if constexpr (Simd::kHasPanels) {
        if (is_short) {
          run_short(p, m, rows, n, columns);
          continue;
        }
      }
      const size_t next = column * by_columns.length;
      run_tile(p, m, rows, n, columns, is_transposed(params),
               tile < last ? static_cast<const SW*>(p.w) + next * p.K : nullptr, &called);
    }
  }

  static constexpr GemmKernel row(const char* isa, ElementType type, ElementType weight_type) {
    GemmKernel kernel{isa, type, weight_type, kMr, static_cast<int>(kLanes), num_tiles, run, nullptr};
    if constexpr (Simd::kHasDot) kernel.can_dot = can_dot;
    return kernel;
  }
};

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_GEMM_TILES_H_
