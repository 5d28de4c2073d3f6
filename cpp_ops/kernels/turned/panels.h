// Layer: kernels. Another algorithm for Y = X W^T + B, with the same bits, where there are many rows: X or W
// is turned round, so that lanes run along its rows (turned/micro_kernel.h).
//
// Turning a matrix costs about as much as multiplying it by eight rows. Fewer rows of X are turned, once for
// all of W; of more, W is, a panel at a time.
#ifndef MYLINEAR_KERNELS_TURNED_PANELS_H_
#define MYLINEAR_KERNELS_TURNED_PANELS_H_

#include "kernels/epilogue.h"
#include "kernels/gemm.h"
#include "kernels/turned/micro_kernel.h"
#include "kernels/turned/scratch.h"

namespace mylinear::kernels {

// kMaxBlock is the longest block of K.
template <class Tag, class S, class SW, size_t kMaxBlock>
struct TurnedPanels : Elements<Tag, S> {
  using Base = Elements<Tag, S>;
  using Base::kLanes;
  using typename Base::Simd;
  using typename Base::T;
  using typename Base::Vec;
  using Finish = Epilogue<Tag, S>;
  using Kernel = TurnedKernel<Simd>;
  using Sums = typename Kernel::Sums;
  using Walk = typename Kernel::Walk;

  static constexpr size_t kVecs = Kernel::kVecs;
  static constexpr size_t kWalked = Kernel::kWalked;
  static constexpr size_t kMinRows = 32;
  static constexpr size_t kMinColumns = 16;
  static constexpr size_t kMinLength = 8;
  // Rows that are turned at a time: 576 KiB at most, in an L2 of 1 MiB or more.
  static constexpr size_t kMaxTurned = 192;
  static_assert(kMaxTurned * kMaxBlock * sizeof(T) <= Scratch::kBytes);
  // With fewer tiles than kEnough they walk over fewer rows, down to kMinWalked, so that there are some for
  // each thread.
  static constexpr size_t kEnough = 16;
  static constexpr size_t kMinWalked = 48;

  // False too where lanes would be wasted.
  static bool applies(const GemmParams& p) {
    if (p.M < kMinRows || p.N < kMinColumns || p.K < kMinLength) return false;
    if (!p.turns()) return false;
    const size_t turned = turns_x(p) ? p.M : p.N;
    return 7 * Kernel::round_up(turned) <= 8 * turned;
  }
  static bool turns_x(const GemmParams& p) { return p.M < min(p.N, kMaxTurned); }

  // How a product is cut, which its shapes alone decide.
  struct Plan {
    bool turns_x;
    size_t turned;  // rows of X or W, in tiles of turned_tile
    size_t turned_tile;
    size_t walked;  // rows of the other, in tiles of walked_tile
    size_t walked_tile;
    size_t walked_tiles;
    size_t tiles;

    explicit Plan(const GemmParams& p) : turns_x(TurnedPanels::turns_x(p)) {
      turned = turns_x ? p.M : p.N;
      walked = turns_x ? p.N : p.M;
      constexpr size_t kUnit = kVecs * kLanes;
      turned_tile = divide_up(divide_up(turned, divide_up(turned, kMaxTurned)), kUnit) * kUnit;
      const size_t turned_tiles = divide_up(turned, turned_tile);
      const size_t pieces = divide_up(kEnough, turned_tiles);
      walked_tile = divide_up(divide_up(walked, pieces), kWalked) * kWalked;
      if (walked_tile < kMinWalked) walked_tile = kMinWalked;
      walked_tiles = divide_up(walked, walked_tile);
      tiles = turned_tiles * walked_tiles;
    }
  };

  static size_t num_tiles(const GemmParams& p) { return Plan(p).tiles; }

  // sums (+)= those of a vector of rows of X by the last `count` of kWalked columns.
  static void finish_turned(const Sums& sums, size_t v, T* y, size_t N, size_t rows, size_t count, bool adds,
                            const T* bias) {
    Vec columns[kWalked];
#pragma GCC unroll 8
    for (size_t r = 0; r < kWalked; ++r) columns[r] = sums[r][v];
    Simd::store_turned(columns, y, N, rows, kWalked - count, adds, bias);
  }

  // The same of the last `count` of kWalked rows by a vector of columns.
  static void finish_straight(const Sums& sums, size_t v, T* y, size_t N, size_t count, size_t columns,
                              bool adds, const Vec& bias) {
    y += (kWalked - count) * N;
    for (size_t r = kWalked - count; r < kWalked; ++r, y += N) {
      Vec sum = sums[r][v];
      if (columns >= kLanes) {
        if (adds) sum = Simd::add(Simd::load(y), sum);
        Simd::store(y, Simd::add(sum, bias));
      } else {
        if (adds) sum = Simd::add(Simd::load_partial(y, columns), sum);
        Simd::store_first(y, Simd::add(sum, bias), columns);
      }
    }
  }

  static Vec load_bias(const T* bias, size_t columns) {
    if (!bias) return Simd::broadcast(&Base::kAbsent[0]);
    return columns >= kLanes ? Simd::load(bias) : Simd::load_partial(bias, columns);
  }

  // Widens kWalked rows of W, and zeros up to a whole vector.
  static void widen(const SW* w, size_t stride, size_t length, T* to) {
    for (size_t r = 0; r < kWalked; ++r, w += stride) {
      for (size_t k = 0; k < length; k += kLanes, to += kLanes) {
        Simd::store(to, length - k >= kLanes ? Simd::load(w + k) : Simd::load_partial(w + k, length - k));
      }
    }
  }

  // A tile of Y: `turned` rows of one matrix from `first` on by `walked` of the other from `start` on.
  template <bool kTurnsX>
  static void run_tile(const GemmParams& p, const Plan& plan, size_t block, size_t first, size_t start,
                       uint64_t call, Scratch* scratch) {
    constexpr bool kWidens = kTurnsX && sizeof(SW) < sizeof(T);
    const size_t turned = min(plan.turned_tile, plan.turned - first);
    const size_t walked = min(plan.walked_tile, plan.walked - start);
    const size_t vecs = divide_up(turned, kLanes), most = divide_up(vecs, divide_up(vecs, kVecs));
    // All blocks of K, if they fit; then the next tile of these rows finds them.
    const bool fits = vecs * kLanes * (p.K + kLanes) * sizeof(T) <= Scratch::kBytes;
    const auto* x = static_cast<const S*>(p.x) + (kTurnsX ? first : start) * p.K;
    const auto* w = static_cast<const SW*>(p.w) + (kTurnsX ? start : first) * p.K;
    const void* const rows = kTurnsX ? static_cast<const void*>(x) : w;
    const bool is_held =
        scratch->held.call == call && scratch->held.rows == rows && scratch->held.count == turned;
    scratch->held = fits ? Scratch::Held{call, rows, turned} : Scratch::Held{};
    T* const memory = reinterpret_cast<T*>(scratch->bytes);
    alignas(64) T widened[kWidens ? kWalked * kMaxBlock : 1];
    T* const y = static_cast<T*>(p.y) + (kTurnsX ? first * p.N + start : start * p.N + first);
    const T* const bias = p.bias ? static_cast<const T*>(p.bias) + (kTurnsX ? start : first) : nullptr;
    for (size_t k = 0; k < p.K; k += block) {
      Walk walk;
      walk.length = min(block, p.K - k);
      const bool is_last = k + walk.length == p.K;
      const size_t size = Kernel::round_up(walk.length) * kLanes;  // of a turned vector of rows
      T* const held = memory + (fits ? vecs * k * kLanes : 0);
      for (size_t v = 0; v < vecs && !(is_held && fits); v += most) {
        const size_t some = min(most, vecs - v), offset = v * kLanes * p.K + k;
        if constexpr (kTurnsX) {
          Kernel::turn(x + offset, p.K, turned - v * kLanes, walk.length, some, held + v * size);
        } else {
          Kernel::turn(w + offset, p.K, turned - v * kLanes, walk.length, some, held + v * size);
        }
      }
      for (size_t j = 0; j < walked; j += kWalked) {
        // The last group begins earlier, in rows that belong to the one before.
        const size_t count = min(kWalked, walked - j);
        const ptrdiff_t at = static_cast<ptrdiff_t>(j + count) - static_cast<ptrdiff_t>(kWalked);
        const ptrdiff_t offset = at * static_cast<ptrdiff_t>(p.K) + static_cast<ptrdiff_t>(k);
        walk.stride = p.K;
        if constexpr (kWidens) {
          widen(w + offset, p.K, walk.length, widened);
          walk.rows = widened;
          walk.stride = Kernel::round_up(walk.length);
        } else if constexpr (kTurnsX) {
          walk.rows = w + offset;
        } else {
          walk.rows = x + offset;
        }
        for (size_t v = 0; v < vecs; v += most) {
          const bool has_next = v == 0 && start + j + 2 * kWalked <= plan.walked;
          walk.ahead = reinterpret_cast<const char*>(walk.rows);
          walk.ahead_row = walk.ahead_step = 0;
          if (has_next) {
            constexpr size_t kSize = kTurnsX ? sizeof(SW) : sizeof(S);
            walk.ahead = kTurnsX ? reinterpret_cast<const char*>(w + offset + kWalked * p.K)
                                 : reinterpret_cast<const char*>(x + offset + kWalked * p.K);
            walk.ahead_row = p.K * kSize;
            walk.ahead_step = kLanes * kSize;
          }
          Sums sums;
          const size_t some = min(most, vecs - v);
          for (size_t i = 0; i < (kTurnsX ? min(turned - v * kLanes, some * kLanes) : count * some); ++i) {
            const size_t row = kTurnsX ? v * kLanes + i : j + i / some;
            const size_t column = kTurnsX ? j : (v + i % some) * kLanes;
            __builtin_prefetch(y + row * p.N + column, 1, 2);
          }
          Kernel::multiply_of(some, held + v * size, walk, sums);
          for (size_t i = 0; i < some; ++i) {
            const size_t row = (v + i) * kLanes;
            if constexpr (kTurnsX) {
              finish_turned(sums, i, y + row * p.N + at, p.N, min(kLanes, turned - row), count, k > 0,
                            is_last && bias ? bias + at : nullptr);
            } else {
              finish_straight(sums, i, y + at * static_cast<ptrdiff_t>(p.N) + row, p.N, count, turned - row,
                              k > 0, load_bias(is_last && bias ? bias + row : nullptr, turned - row));
            }
          }
        }
        if (!kTurnsX && is_last && p.activation != Activation::kNone) {
          Finish::activate(p.activation, y + j * p.N, p.N, count, turned);
        }
      }
    }
    if (kTurnsX && p.activation != Activation::kNone) {
      Finish::activate(p.activation, y, p.N, turned, walked);
    }
  }

  // Runs the tiles [first, last); false if there is no memory for it.
  static bool run(const GemmParams& p, size_t block, size_t first, size_t last) {
    Scratch* scratch = thread_scratch();
    if (!scratch) return false;
    const uint64_t call = p.call ? p.call << 1 : ++scratch->num_calls << 1 | 1;
    const Plan plan(p);
    for (size_t tile = first; tile < last; ++tile) {
      const size_t row = tile / plan.walked_tiles * plan.turned_tile;
      const size_t start = tile % plan.walked_tiles * plan.walked_tile;
      if (plan.turns_x) {
        run_tile<true>(p, plan, block, row, start, call, scratch);
      } else {
        run_tile<false>(p, plan, block, row, start, call, scratch);
      }
    }
    return true;
  }

  // The place of a tile in Y, for who runs it by another algorithm.
  struct Place {
    size_t m, rows, n, columns;
  };
  static Place place(const GemmParams& p, size_t tile) {
    const Plan plan(p);
    const size_t row = tile / plan.walked_tiles * plan.turned_tile;
    const size_t start = tile % plan.walked_tiles * plan.walked_tile;
    const size_t turned = min(plan.turned_tile, plan.turned - row);
    const size_t walked = min(plan.walked_tile, plan.walked - start);
    return plan.turns_x ? Place{row, turned, start, walked} : Place{start, walked, row, turned};
  }
};

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_TURNED_PANELS_H_
