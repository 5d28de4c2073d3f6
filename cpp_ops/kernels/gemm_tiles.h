// Layer: kernels. Y = activation(X W^T + B) in tiles, as a template over an ISA, the storage type of X and Y
// (S), and that of W (SW); each ISA's unit instantiates it with a tag from an anonymous namespace, so every
// function here has internal linkage there.
//
// The order of each sum depends on K and the ISA alone: K is cut into blocks (`block_length`); within a block
// lane l of the accumulator sums the elements k = l (mod lanes) in order, then the lanes are added in the
// order of `sum4`; the sums of the blocks are added in order, and the bias last. So a row of Y has the same
// bits whatever the other rows, the tiles and the threads are.
#ifndef MYLINEAR_KERNELS_GEMM_TILES_H_
#define MYLINEAR_KERNELS_GEMM_TILES_H_

#include "kernels/cut.h"
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
  using Short = ShortRows<Tag, S, kMr, SW>;
  using Wide = WidePanels<Tag, S, kMr, SW>;
  using Finish = Epilogue<Tag, S>;

  // A block of K: a few rows of X and four of W, this long, lie in an L1 of 32 KiB.
  static constexpr size_t kMaxBlock = 3072 / sizeof(Held);
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
  // Rows of X that are not multiplied in place are held on the stack, copied or converted once a tile:
  // 72 KiB, which fits an L2 and, with the sums of types that are converted, the 128 KiB of the smallest
  // usual stack of a thread.
  static constexpr size_t kMaxHeld = 73728 / sizeof(Held);
  using Turned = TurnedPanels<Tag, S, SW, kMaxBlock>;  // for many rows, with the same bits
  static constexpr bool kTurns = Simd::kHasTurned && !kConverts;
  static_assert(kMc % kMr == 0 && kNc % kNr == 0);

  // The length of a block of K: as few blocks as possible, and all but the last alike.
  static size_t block_length(size_t K) {
    if (K <= kMaxBlock) return K;
    return round_up(divide_up(K, divide_up(K, kMaxBlock)));
  }

  // With fewer rows than this, looking for small weights would cost more than their products.
  static constexpr size_t kMinDotRows = 4;

  static bool can_dot(const void* w, size_t count) {
    return Simd::has_no_denormal_sums(static_cast<const SW*>(w), count);
  }

  // Whether Simd::dot can multiply the rows of X. False too where asking costs more than it saves.
  static bool may_dot(const Strip& s, size_t rows, bool w_can_dot) {
    if constexpr (Simd::kHasDot) {
      if (rows < kMinDotRows) {
        if (!w_can_dot) return false;
        for (size_t i = 0; i < rows; ++i) {
          if (!Simd::has_no_denormal_sums(s.x + i * s.x_stride, s.length)) return false;
        }
        return true;
      }
      return Simd::has_no_denormal_sums(s.x, s.x_stride, rows, s.length);
    } else {
      return false;
    }
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

  // Whether to copy rows of X close together although they need no conversion: rows some KiB apart share few
  // sets of an L1 cache. For one pass it does not pay.
  static bool is_held(const GemmParams& p) {
    const size_t stride = p.K * sizeof(S);
    return kConverts || (p.M > kMr && (stride >= 4096 || (stride > 0 && stride % 2048 == 0)));
  }

  // How much of W each of `passes` prefetches, so that all of them together prefetch a tile.
  static Prefetch prefetch_of(size_t pass, size_t passes, size_t* row) {
    const size_t rows = divide_up(kNr, passes);
    *row = pass * rows;
    if (*row >= kNr) return Prefetch::kNone;
    return rows == 1 ? Prefetch::kTile1 : rows == 2 ? Prefetch::kTile2 : Prefetch::kTile4;
  }

  // Computes a tile of Y of short rows, `s.x` as held.
  static void short_tile(const GemmParams& p, const Strip& s, size_t rows, const SW* w, T* sums, S* y,
                         bool is_dot) {
    if (p.activation == Activation::kNone) {
      return Short::tile(p, s.x, s.x_stride, rows, w, s.columns, s.bias, y, p.N, is_dot);
    }
    Short::tile(p, s.x, s.x_stride, rows, w, s.columns, s.bias, sums, kNc, is_dot);
    for (size_t i = 0; i < rows; ++i) Finish::round_row(p.activation, sums + i * kNc, s.columns, y + i * p.N);
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
    const size_t block = block_length(p.K);
    strip.bias = p.bias ? bias : nullptr;
    uint64_t dot_panels;
    strip.dot_panels = &dot_panels;
    static_assert(kNc / kNr <= 64);
    do {
      strip.length = min(block, p.K - strip.k);
      strip.w = w + strip.k;
      if (is_held(p)) {
        strip.x = held;
        strip.x_stride = round_up(strip.length);
        for (size_t i = 0; i < rows; ++i) {
          hold(x + i * p.K + strip.k, strip.length, held + i * strip.x_stride);
        }
      } else if constexpr (!kConverts) {
        strip.x = x + strip.k;
        strip.x_stride = p.K;
      }
      if constexpr (kConverts) {
        strip.sums = sums;
        strip.sums_stride = kNc;
      } else {
        strip.sums = y;
        strip.sums_stride = p.N;
      }
      const bool is_dot = may_dot(strip, rows, p.w_can_dot);
      if constexpr (Simd::kHasPanels && kConverts) {
        if (Short::is_short(p, rows, columns)) {
          return short_tile(p, strip, rows, w, sums, y, is_dot);
        }
      }
      if constexpr (Wide::kWidens) {
        if (passes >= Wide::kMinPasses) {
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
          prefetch = prefetch_of(pass - !is_called, passes - !is_called, &row);
        }
        strip.ahead = ahead ? ahead + row * p.K : strip.w;
        strip.looks = is_dot && !p.w_can_dot && pass == 0;
        Micro::template strip_of<kMr>(pass_rows, prefetch, strip);
        if (!kConverts && is_last && p.activation != Activation::kNone) {
          Finish::activate(p.activation, strip.sums, strip.sums_stride, pass_rows, columns);
        }
        i += pass_rows;
        strip.x += pass_rows * strip.x_stride;
        strip.sums += pass_rows * strip.sums_stride;
      }
      *called = is_same ? strip.w : ahead;
      strip.k += strip.length;
    } while (strip.k < p.K);
    if constexpr (kConverts) {
      for (size_t i = 0; i < rows; ++i) Finish::round_row(p.activation, sums + i * kNc, columns, y + i * p.N);
    }
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

  // Tiles that share rows of W follow each other: a thread that runs several reads those from its cache.
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
    for (size_t tile = first; tile < last; ++tile) {
      const size_t m = row * by_rows.length, n = column * by_columns.length;
      if (++row == by_rows.pieces) {
        row = 0;
        ++column;
      }
      const size_t next = column * by_columns.length;
      run_tile(p, m, min(by_rows.length, p.M - m), n, min(by_columns.length, p.N - n), is_transposed(params),
               tile + 1 < last ? static_cast<const SW*>(p.w) + next * p.K : nullptr, &called);
    }
  }

  static constexpr GemmKernel row(const char* isa, ElementType type, ElementType weight_type) {
    GemmKernel kernel{isa, type, weight_type, kMr, static_cast<int>(kLanes), num_tiles, run, nullptr};
    if constexpr (Simd::kHasDot) kernel.can_dot = can_dot;
    return kernel;
  }
};

#define MYLINEAR_GEMM(isa, Tag, S, SW, type, weight_type) \
  Gemm<Tag, S, isa##_mr, SW>::row(#isa, ElementType::type, ElementType::weight_type)

// Defines `<isa>_kernels` of gemm_list.h for the tag of a unit.
#define MYLINEAR_DEFINE_KERNELS(isa, Tag)                                \
  const GemmKernel isa##_kernels[kNumGemmKernels] = {                    \
      MYLINEAR_GEMM(isa, Tag, double, double, kFloat64, kFloat64),       \
      MYLINEAR_GEMM(isa, Tag, float, float, kFloat32, kFloat32),         \
      MYLINEAR_GEMM(isa, Tag, Float16, Float16, kFloat16, kFloat16),     \
      MYLINEAR_GEMM(isa, Tag, Bfloat16, Bfloat16, kBfloat16, kBfloat16), \
      MYLINEAR_GEMM(isa, Tag, float, Float16, kFloat32, kFloat16),       \
      MYLINEAR_GEMM(isa, Tag, float, Bfloat16, kFloat32, kBfloat16),     \
  };

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_GEMM_TILES_H_
