// Layer: kernels. The algorithm, once, as templates over an ISA and a storage type; each ISA's unit
// instantiates it with a tag from an anonymous namespace, so every function here has internal linkage there.
// No STL inside.
//
// Every element of Y is the dot product of a row of X and a row of W, and both lie in memory as a dot product
// wants them: nothing is packed or transposed, and W is read where it lies, whoever owns it. The micro-kernel
// takes R rows of X by four rows of W, with an accumulator for each pair, whose lanes run along K: R + 4
// loads for 4 R FMAs. What the lanes hold is added up four accumulators at a time, between the FMAs of the
// next call where the ISA has registers for both. One exception, with the same bits: "short rows" below.
//
// The order of each sum depends on K and the ISA alone: K is cut into blocks (`block_length`); within a block
// lane l of the accumulator sums the elements k = l (mod lanes) in order, then the lanes are added in the
// order of `sum4`; the sums of the blocks are added in order, and the bias last. So a row of Y has the same
// bits whatever the other rows, the tiles and the threads are.
//
// An ISA says whether it has 32 registers (kDefersSums) and gives two structs, Float and Double, each with:
// Scalar, Vec, kLanes, zero(), load(const S*) and load_partial(const S*, count) for every storage type S that
// it sums (what is missing is zero), store(S*, Vec) with one rounding, fma(a, b, c) = a * b + c, add(a, b),
// sum4(const Vec[4], Scalar[4]), and keep(Vec*), which keeps the compiler from loading a value anew for each
// use. Loads and stores need no alignment. Where kHasPanels is true there are also kSumOrder, the lanes in
// the order of sum4's tree of sums, broadcast(const Held*) and transpose(Operand[kLanes]). A third one,
// Bfloat, is Float again where there is no instruction for dot products of bfloat16; see avx512_bf16.cc.
#ifndef MYLINEAR_KERNELS_MICRO_KERNEL_H_
#define MYLINEAR_KERNELS_MICRO_KERNEL_H_

#include "kernels/gemm.h"

namespace mylinear::kernels {

// How rows of X are held and elements multiplied: as what they are summed in, kLanes a vector. An ISA's
// Bfloat may have an instruction for dot products; then both are multiplied as they are stored, kStep a
// vector.
struct NoDot {
  static constexpr bool kHasDot = false;
  static constexpr bool kHasPanels = false;
};
template <class Simd, bool kHasDot = Simd::kHasDot>
struct Operands {
  using Held = typename Simd::Scalar;
  using Operand = typename Simd::Vec;
  static constexpr size_t kStep = Simd::kLanes;
};
template <class Simd>
struct Operands<Simd, true> : Simd {};

static inline size_t min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t divide_up(size_t a, size_t b) { return a / b + (a % b != 0); }

template <bool kValue>
struct Bool {
  static constexpr bool value = kValue;
};

template <class Tag, class S>
struct SimdOf {
  using type = typename Tag::Float;
};
template <class Tag>
struct SimdOf<Tag, Bfloat16> {
  using type = typename Tag::Bfloat;
};
template <class Tag>
struct SimdOf<Tag, double> {
  using type = typename Tag::Double;
};

// load_partial for an ISA, or a type, that has no load of its own for it: the same load, from a copy.
template <class Vector, class S>
static typename Vector::Vec load_copied(const S* from, size_t count) {
  S full[Vector::kLanes] = {};
  for (size_t i = 0; i < count; ++i) __builtin_memcpy(full + i, from + i, sizeof(S));
  return Vector::load(full);
}

// The first `count` lanes, with the one rounding of each.
template <class Simd, class S>
static inline void store_partial(S* to, const typename Simd::Vec& value, size_t count) {
  S full[Simd::kLanes];
  Simd::store(full, value);
  __builtin_memcpy(to, full, count * sizeof(S));
}

template <class Tag, class S, int kMr>
struct Gemm {
  using Simd = typename SimdOf<Tag, S>::type;
  using T = typename Simd::Scalar;  // what sums are held in
  using Vec = typename Simd::Vec;
  using Held = typename Operands<Simd>::Held;
  using Operand = typename Operands<Simd>::Operand;
  typedef T Quad __attribute__((vector_size(4 * sizeof(T))));

  static constexpr bool kConverts = sizeof(S) != sizeof(T);
  static constexpr size_t kLanes = Simd::kLanes;
  static constexpr size_t kStep = Operands<Simd>::kStep;
  static constexpr size_t kNr = 4;
  // A block of K: a few rows of X and four of W, this long, lie in an L1 of 32 KiB.
  static constexpr size_t kMaxBlock = 3072 / sizeof(Held);
  // A tile of Y is kMc x kNc at most. Its rows of W (a block long) stay in L2 while the rows of X pass, and
  // those of the next tile come in: 768 KiB in all, where 512-bit vectors say that the CPU has 1 MiB or more.
  // Few rows take narrower tiles, so that there is one for each thread.
  static constexpr size_t kMc = 96;
  static constexpr size_t kNc = sizeof(Vec) == 64 ? 128 : 64;
  static constexpr size_t kNarrow = 64;
  static constexpr size_t kFewRows = 16;
  // With fewer tiles than kEnough they get fewer rows, down to kMinRows, so that there are some for each
  // thread.
  static constexpr size_t kEnough = 16;
  static constexpr size_t kMinRows = 32;
  // Rows of X that are not multiplied where they lie are held on the stack, copied or converted once a tile:
  // 72 KiB, which fits an L2 and, with the sums of types that are converted, the 128 KiB of the smallest
  // usual stack of a thread.
  static constexpr size_t kMaxHeld = 73728 / sizeof(Held);
  static_assert(kMc % kMr == 0 && kNc % kNr == 0);

  static size_t round_up(size_t a) { return divide_up(a, kStep) * kStep; }

  // The length of a block of K: as few blocks as can be, and all but the last alike.
  static size_t block_length(size_t K) {
    if (K <= kMaxBlock) return K;
    return round_up(divide_up(K, divide_up(K, kMaxBlock)));
  }

  // ---- the micro-kernel
  // ---------------------------------------------------------------------------------------

  // R rows of X by `columns` rows of W, along a block of K: `length` elements from `k` on.
  struct Strip {
    const Held* x;  // rows `x_stride` apart
    size_t x_stride;
    const S* w;  // rows K apart
    size_t K;
    size_t columns;
    size_t k;
    size_t length;
    T* sums;  // [R][columns], rows `sums_stride` apart; nothing in it yet if k is 0
    size_t sums_stride;
    const T* bias;         // added when the sums have come to the end of K, or null
    const S* ahead;        // what Prefetch::kTile1 to kTile4 call in, laid out as w
    bool looks;            // whether to find out of which rows of W Simd::dot can multiply with these of X
    uint64_t* dot_panels;  // what was found, a bit for each four rows
  };

  // What x + absent leaves as it is, -0.0 included.
  static constexpr T kAbsent[kNr] = {-T{0}, -T{0}, -T{0}, -T{0}};

  // What of W is called into a cache meanwhile, since rows are too short for what the hardware foresees:
  // kPanel, the next four rows, into L2, where more loads from memory can be under way at once than L1
  // allows; kTile<n>, n of each four rows of the next tile, so that memory and multiplication overlap; kNear,
  // if W may well lie in L2 already, what comes kNear elements later, into L1. benchmarks/README.md has the
  // measurements.
  enum class Prefetch { kNone, kNear, kPanel, kTile1, kTile2, kTile4 };
  static constexpr size_t kNear = 1024 / sizeof(S);

  template <class E>
  static Operand load(const E* from) {
    if constexpr (Simd::kHasDot) {
      return Simd::load_operand(from);
    } else {
      return Simd::load(from);
    }
  }
  template <class E>
  static Operand load_partial(const E* from, size_t count) {
    if constexpr (Simd::kHasDot) {
      return Simd::load_operand_partial(from, count);
    } else {
      return Simd::load_partial(from, count);
    }
  }
  template <bool kDot>
  static Vec multiply_add(const Operand& a, const Operand& b, const Vec& c) {
    if constexpr (kDot) {
      return Simd::dot(a, b, c);
    } else {
      return Simd::fma(a, b, c);
    }
  }

  // What is left to do when the micro-kernel has run: to add up its lanes, and to put the sums in their
  // place.
  struct Destination {
    T* to;  // rows `stride` apart
    size_t stride;
    const T* before;  // the sums so far, rows `before_stride` apart
    size_t before_stride;
    const T* bias;
  };

  static inline __attribute__((always_inline)) void finish_row(const Vec (*lanes)[kNr], const Destination& d,
                                                               int i) {
    Quad sum, before, bias;
    Simd::sum4(lanes[i], reinterpret_cast<T*>(&sum));
    __builtin_memcpy(&before, d.before + i * d.before_stride, sizeof sum);
    __builtin_memcpy(&bias, d.bias, sizeof sum);
    sum = (before + sum) + bias;
    __builtin_memcpy(d.to + i * d.stride, &sum, sizeof sum);
  }

  // R rows of X by four rows of W, along `length` elements. What is wanted of W next lies `next` elements
  // behind. Finishes the rows of the call before, if sums are deferred, and leaves its own lanes in their
  // place.
  template <int R, Prefetch kPrefetch, bool kDot>
  static inline __attribute__((always_inline)) void micro_kernel(const Held* x, size_t x_stride,
                                                                 const S* const* w, ptrdiff_t next,
                                                                 const S* ahead, size_t K, size_t length,
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
        for (int i = 0; i < R; ++i) acc[i][j] = multiply_add<kDot>(xs[i], value, acc[i][j]);
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
      step([](const Held* from) { return load(from); }, [](const S* from) { return load(from); }, k);
    };
    size_t k = 0;
    if constexpr (Tag::kDefersSums) {
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        if (k + kStep <= length) {
          whole_step(k);
          k += kStep;
        }
        finish_row(lanes, pending, i);
      }
    }
    for (; k + kStep <= length; k += kStep) whole_step(k);
    if (const size_t rest = length - k) {
      step([rest](const Held* from) { return load_partial(from, rest); },
           [rest](const S* from) { return load_partial(from, rest); }, k);
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (size_t j = 0; j < kNr; ++j) lanes[i][j] = acc[i][j];
    }
  }

  // sums (+)= X W^T + bias.
  template <int R, Prefetch kPrefetch>
  static __attribute__((noinline)) void strip(const Strip& shared) {
    const Strip s = shared;  // whose members no store to the sums can change
    Vec lanes[R][kNr];
    T nowhere[R][kNr];
    Destination pending{nowhere[0], kNr, kAbsent, 0, kAbsent};
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
      const S* w[kNr];  // the last row again where there are fewer than four
#pragma GCC unroll 4
      for (size_t c = 0; c < kNr; ++c) w[c] = s.w + (j + (c < count ? c : count - 1)) * s.K;
      // Then come the next four rows, or behind the last ones the next block of the first.
      const bool is_last = j + count == s.columns;
      const bool is_end = s.k + s.length == s.K;
      const ptrdiff_t next = static_cast<ptrdiff_t>(is_last && !is_end ? s.length - j * s.K : kNr * s.K);
      const auto multiply = [&](auto can_dot) __attribute__((always_inline)) {
        micro_kernel<R, kPrefetch, decltype(can_dot)::value>(s.x, s.x_stride, w, next, s.ahead + j * s.K, s.K,
                                                             s.length, lanes, pending);
      };
      if constexpr (Simd::kHasDot) {
        const uint64_t bit = uint64_t{1} << (j / kNr);
        if (s.looks) {
          *s.dot_panels =
              Simd::has_no_denormal_sums(w, s.length) ? *s.dot_panels | bit : *s.dot_panels & ~bit;
        }
        if (*s.dot_panels & bit) {
          multiply(Bool<true>{});
        } else {
          multiply(Bool<false>{});
        }
      } else {
        multiply(Bool<false>{});
      }
      pending = {to, to_stride, s.k ? to : kAbsent, s.k ? to_stride : 0, is_end ? bias : kAbsent};
      if (!Tag::kDefersSums || is_last) {
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) finish_row(lanes, pending, i);
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

  // The strip for `rows` rows, 1 to R.
  template <int R>
  static void strip_of(size_t rows, Prefetch prefetch, const Strip& s) {
    if constexpr (R > 1) {
      if (rows < R) return strip_of<R - 1>(rows, prefetch, s);
    }
    switch (prefetch) {
      case Prefetch::kNone:
        return strip<R, Prefetch::kNone>(s);
      case Prefetch::kNear:
        return strip<R, Prefetch::kNear>(s);
      case Prefetch::kPanel:
        return strip<R, Prefetch::kPanel>(s);
      case Prefetch::kTile1:
        return strip<R, Prefetch::kTile1>(s);
      case Prefetch::kTile2:
        return strip<R, Prefetch::kTile2>(s);
      case Prefetch::kTile4:
        return strip<R, Prefetch::kTile4>(s);
    }
  }

  // ---- a tile of Y
  // --------------------------------------------------------------------------------------------

  // `count` elements as what they are multiplied as, then zeros up to a whole vector.
  static void hold(const S* from, size_t count, Held* to) {
    if constexpr (sizeof(S) == sizeof(Held)) {
      const auto put = [to](size_t i, const Operand& value) {
        __builtin_memcpy(to + i, &value, sizeof value);
      };
      size_t i = 0;
      for (; i + kStep <= count; i += kStep) put(i, load(from + i));
      if (i < count) put(i, load_partial(from + i, count - i));
    } else {
      size_t i = 0;
      for (; i + kLanes <= count; i += kLanes) Simd::store(to + i, Simd::load(from + i));
      if (i < count) Simd::store(to + i, Simd::load_partial(from + i, count - i));
    }
  }

  // With fewer rows than this, looking for small weights would cost more than their products.
  static constexpr size_t kMinDotRows = 4;

  static bool can_dot(const void* w, size_t count) {
    return Simd::has_no_denormal_sums(static_cast<const S*>(w), count);
  }

  // Whether Simd::dot can multiply the rows of X, and it is worth asking.
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

  // A row of sums, with the one rounding of each.
  static void round_row(const T* sums, size_t columns, S* y) {
    size_t j = 0;
    for (; j + kLanes <= columns; j += kLanes) Simd::store(y + j, Simd::load(sums + j));
    if (j < columns) store_partial<Simd>(y + j, Simd::load_partial(sums + j, columns - j), columns - j);
  }

  // ---- short rows
  // ---------------------------------------------------------------------------------------------

  // Where K is short, adding up the lanes costs as much as the products. If there are many rows of X, W is
  // turned round once for all of them, and the lanes run along N: then each of the kLanes sums of an element
  // of Y is a vector of its own, of kLanes columns, and they are added in the order of sum4. The bits are the
  // same.
  static constexpr size_t kPerWord = kStep / kLanes;  // elements of K that a lane multiplies at once
  static constexpr size_t kMaxShort = kPerWord > 1 ? 256 : 64;  // of K
  static constexpr size_t kMinShortRows = sizeof(S) < sizeof(T) ? 16 : 32;

  static_assert(kPerWord == 1 || kConverts,
                "pairs of X are read whole, so rows must be held, with zeros behind");

  static bool is_short(const GemmParams& p, size_t rows, size_t columns) {
    return Simd::kHasPanels && p.K > 0 && p.K <= kMaxShort && rows >= kMinShortRows && columns >= kLanes;
  }

  // kLanes columns at most, from rows of W K apart; where there are fewer, the last one again.
  static void turn_panel(const S* w, size_t K, size_t columns, Operand* panel) {
    for (size_t k = 0; k < K; k += kStep) {
      const size_t rest = K - k;
      Operand v[kLanes];
#pragma GCC unroll 16
      for (size_t i = 0; i < kLanes; ++i) {
        const S* row = w + min(i, columns - 1) * K + k;
        v[i] = rest >= kStep ? load(row) : load_partial(row, rest);
      }
      Simd::transpose(v);
#pragma GCC unroll 16
      for (size_t i = 0; i < kLanes; ++i) panel[k / kPerWord + i] = v[i];
    }
  }

  // R rows of X by a panel of `words` words of K.
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
          sum[i] = multiply_add<kDot>(Simd::broadcast(x + i * x_stride + k * kPerWord), value, sum[i]);
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

  template <int R, bool kDot>
  static __attribute__((noinline)) void short_rows(const Held* x, size_t x_stride, const Operand* panel,
                                                   size_t words, const Vec& bias, size_t columns, S* y,
                                                   size_t N) {
    Vec sums[R];
    multiply_panel<R, kDot>(x, x_stride, panel, words, sums);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const Vec sum = Simd::add(sums[i], bias);
      if (columns >= kLanes) {
        Simd::store(y + i * N, sum);
      } else {
        store_partial<Simd>(y + i * N, sum, columns);
      }
    }
  }

  // A tile of Y.
  static void short_tile(const GemmParams& p, const Held* x, size_t x_stride, size_t rows, const S* w,
                         size_t columns, const T* bias, S* y, bool is_dot) {
    alignas(64) Operand panel[kMaxShort / kPerWord];
    T absent[kLanes];
    for (T& value : absent) value = kAbsent[0];
    for (size_t j = 0; j < columns; j += kLanes) {
      const size_t width = min(kLanes, columns - j);
      turn_panel(w + j * p.K, p.K, width, panel);
      const Vec added = Simd::load(bias ? bias + j : absent);  // `widen` has filled whole vectors
      const auto multiply = [&](auto can_dot) __attribute__((always_inline)) {
        constexpr bool kDot = decltype(can_dot)::value;
        const size_t words = divide_up(p.K, kPerWord);
        size_t i = 0;
        for (; i + kMr <= rows; i += kMr) {
          short_rows<kMr, kDot>(x + i * x_stride, x_stride, panel, words, added, width, y + i * p.N + j, p.N);
        }
        for (; i < rows; ++i) {
          short_rows<1, kDot>(x + i * x_stride, x_stride, panel, words, added, width, y + i * p.N + j, p.N);
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

  // The bias of `columns` columns, as what sums are held in.
  static void widen(const S* bias, size_t columns, bool is_one, T* to) {
    S padded[kNc] = {};
    for (size_t j = 0; j < columns; ++j) __builtin_memcpy(padded + j, bias + (is_one ? 0 : j), sizeof(S));
    for (size_t j = 0; j < columns; j += kLanes) {
      const Vec value = Simd::load(padded + j);
      __builtin_memcpy(to + j, &value, sizeof value);
    }
  }

  // The most even cut of `size` into as few pieces as can be, of `unit` or a multiple, and of `largest` at
  // most.
  struct Cut {
    size_t pieces;
    size_t length;  // of each but the last
    Cut(size_t size, size_t largest, size_t unit)
        : pieces(divide_up(size, largest)),
          length(pieces ? divide_up(divide_up(size, pieces), unit) * unit : 0) {}
  };

  // With one output feature, Y^T = W X^T: then the micro-kernel takes four rows of X at a time, and Y^T lies
  // in memory as Y does. The products are the same, in the same order.
  static bool is_transposed(const GemmParams& p) { return p.N == 1 && p.M > 1; }

  static GemmParams oriented(const GemmParams& p) {
    return is_transposed(p) ? GemmParams{1, p.M, p.K, p.w, p.x, p.bias, p.y, p.is_near} : p;
  }

  // Whether rows of X are copied to where they lie close together although they need no conversion: rows some
  // KiB apart share few sets of an L1 cache. For one pass it does not pay.
  static bool is_held(const GemmParams& p) {
    const size_t stride = p.K * sizeof(S);
    return kConverts || (p.M > kMr && (stride >= 4096 || (stride > 0 && stride % 2048 == 0)));
  }

  // How much of W each of `passes` calls in, so that all of them together call in a tile.
  static Prefetch prefetch_of(size_t pass, size_t passes, size_t* row) {
    const size_t rows = divide_up(kNr, passes);
    *row = pass * rows;
    if (*row >= kNr) return Prefetch::kNone;
    return rows == 1 ? Prefetch::kTile1 : rows == 2 ? Prefetch::kTile2 : Prefetch::kTile4;
  }

  // A tile of Y. `next` is the W of the tile that comes after it, or null; `called` is what was called into
  // the cache last.
  static void run_tile(const GemmParams& p, size_t m, size_t rows, size_t n, size_t columns, bool one_bias,
                       const S* next, const S** called) {
    const size_t passes = divide_up(rows, static_cast<size_t>(kMr));
    const S* x = static_cast<const S*>(p.x) + m * p.K;
    const S* w = static_cast<const S*>(p.w) + n * p.K;
    T bias[kNc];
    if (p.bias) widen(static_cast<const S*>(p.bias) + (one_bias ? 0 : n), columns, one_bias, bias);
    S* y = static_cast<S*>(p.y) + m * p.N + n;

    alignas(64) Held held[kMaxHeld];
    alignas(64) T sums[kConverts ? kMc * kNc : 1];
    Strip strip{};
    strip.K = p.K;
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
      if constexpr (Simd::kHasPanels) {
        if (is_short(p, rows, columns)) {
          return short_tile(p, strip.x, strip.x_stride, rows, w, columns, strip.bias, y, is_dot);
        }
      }
      dot_panels = is_dot && p.w_can_dot ? ~uint64_t{0} : 0;
      const bool is_called = strip.w == *called;
      const S* ahead = strip.k + strip.length < p.K ? strip.w + strip.length : next;
      const bool is_same = ahead == strip.w;
      if (p.is_near || passes == 1 || is_same) ahead = nullptr;
      for (size_t pass = 0, i = 0; pass < passes; ++pass) {
        const size_t pass_rows = divide_up(rows - i, passes - pass);  // as equal as can be
        Prefetch prefetch = Prefetch::kNone;
        size_t row = 0;
        if (pass == 0 && !is_called) {
          prefetch = p.is_near ? Prefetch::kNear : Prefetch::kPanel;
        } else if (ahead) {
          prefetch = prefetch_of(pass - !is_called, passes - !is_called, &row);
        }
        strip.ahead = ahead ? ahead + row * p.K : strip.w;
        strip.looks = is_dot && !p.w_can_dot && pass == 0;
        strip_of<kMr>(pass_rows, prefetch, strip);
        i += pass_rows;
        strip.x += pass_rows * strip.x_stride;
        strip.sums += pass_rows * strip.sums_stride;
      }
      *called = is_same ? strip.w : ahead;
      strip.k += strip.length;
    } while (strip.k < p.K);
    if constexpr (kConverts) {
      for (size_t i = 0; i < rows; ++i) round_row(sums + i * kNc, columns, y + i * p.N);
    }
  }

  // ---- the row of the kernel table
  // ----------------------------------------------------------------------------

  static Cut cut_columns(const GemmParams& p) { return Cut(p.N, p.M > kFewRows ? kNc : kNarrow, kNr); }
  static Cut cut_rows(const GemmParams& p) {
    const size_t block = round_up(block_length(p.K));
    size_t most = kMc;
    if (is_held(p) && block > 0) most = min(most, kMaxHeld / block / kMr * kMr);
    const size_t columns = cut_columns(p).pieces;
    if (columns > 0 && columns < kEnough) {
      const size_t rows = p.M / divide_up(kEnough, columns);
      most = min(most, rows > kMinRows ? rows : kMinRows);
    }
    return Cut(p.M, most, kMr);
  }

  static size_t num_tiles(const GemmParams& params) {
    const GemmParams p = oriented(params);
    return cut_rows(p).pieces * cut_columns(p).pieces;
  }

  // Tiles that share rows of W follow each other: a thread that runs several reads those from its cache.
  static void run(const GemmParams& params, size_t first, size_t last) {
    const GemmParams p = oriented(params);
    const Cut by_rows = cut_rows(p), by_columns = cut_columns(p);
    const S* called = nullptr;
    for (size_t tile = first; tile < last; ++tile) {
      const size_t m = tile % by_rows.pieces * by_rows.length;
      const size_t n = tile / by_rows.pieces * by_columns.length;
      const size_t next = (tile + 1) / by_rows.pieces * by_columns.length;
      run_tile(p, m, min(by_rows.length, p.M - m), n, min(by_columns.length, p.N - n), is_transposed(params),
               tile + 1 < last ? static_cast<const S*>(p.w) + next * p.K : nullptr, &called);
    }
  }

  static constexpr GemmKernel row(const char* isa, ElementType type) {
    GemmKernel kernel{isa, type, kMr, static_cast<int>(kLanes), num_tiles, run, nullptr};
    if constexpr (Simd::kHasDot) kernel.can_dot = can_dot;
    return kernel;
  }
};

// Defines `<isa>_kernels` of kernel_list.h for the tag of a unit.
#define MYLINEAR_DEFINE_KERNELS(isa, Tag)                               \
  const GemmKernel isa##_kernels[kNumElementTypes] = {                  \
      Gemm<Tag, double, isa##_mr>::row(#isa, ElementType::kFloat64),    \
      Gemm<Tag, float, isa##_mr>::row(#isa, ElementType::kFloat32),     \
      Gemm<Tag, Float16, isa##_mr>::row(#isa, ElementType::kFloat16),   \
      Gemm<Tag, Bfloat16, isa##_mr>::row(#isa, ElementType::kBfloat16), \
  };

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_MICRO_KERNEL_H_
