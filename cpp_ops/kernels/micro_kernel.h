// Layer: kernels. The algorithm, once, as templates over an ISA and a storage type; each ISA's unit
// instantiates it with a tag from an anonymous namespace, so every function here has internal linkage there.
// No STL inside.
//
// An ISA gives two structs, Float and Double, each with: Scalar, Vec, kLanes, zero(), load(const S*) for
// every storage type S that it sums, store(S*, Vec) with one rounding, broadcast(Scalar), fma(a, b, c) = a *
// b + c, add(a, b), and sum(Vec) in an order of its own. Loads and stores need no alignment.
//
// Two ways through the work:
// - dot: few rows or few columns. W is streamed as it lies, row by row, and each element of Y is a dot
// product.
// - packed: mr x nr elements of Y stay in registers while a panel of W, K-major, streams past. The panel
// comes
//   from prepacked weights or is packed here, on the stack, a block of kKc at a time.
#ifndef MYLINEAR_KERNELS_MICRO_KERNEL_H_
#define MYLINEAR_KERNELS_MICRO_KERNEL_H_

#include "kernels/gemm.h"

namespace mylinear::kernels {

template <class Tag, class S>
struct SimdOf {
  using type = typename Tag::Float;
};
template <class Tag>
struct SimdOf<Tag, double> {
  using type = typename Tag::Double;
};

template <class Tag, class S, int kMr>
struct Gemm {
  using Simd = typename SimdOf<Tag, S>::type;
  using T = typename Simd::Scalar;  // what sums are held in
  using Vec = typename Simd::Vec;

  static constexpr bool kConverts = sizeof(S) != sizeof(T);
  static constexpr size_t kLanes = Simd::kLanes;
  static constexpr size_t kNr = 2 * kLanes;
  // A tile of Y is kMc x kNc. Its sums and the blocks of W and X that are packed or converted for it lie on
  // the stack: 104 KiB at most, for bfloat16 with computed weights on AVX-512, which fits an L2 and any
  // thread's stack.
  static constexpr size_t kMc = 96;
  static constexpr size_t kNc = 256 / sizeof(T) < kNr ? kNr : 256 / sizeof(T) / kNr * kNr;
  static constexpr size_t kKc = kConverts ? 128 : 256;
  // Up to this many rows the weight, read once, is the whole cost, and packed weights have nothing to offer.
  static constexpr size_t kDotMaxM = 4;
  // Up to this many columns most of a panel would be padding.
  static constexpr size_t kDotMaxN = kNr / 4;
  static constexpr size_t kDotTileM = 16;
  static constexpr size_t kDotTileN = 32;
  static_assert(kMc % kMr == 0 && kNc % kNr == 0);

  static size_t min(size_t a, size_t b) { return a < b ? a : b; }
  static size_t divide_up(size_t a, size_t b) { return a / b + (a % b != 0); }
  static bool is_dot(size_t M, size_t N) { return M <= kDotMaxM || N <= kDotMaxN; }

  // ---- vectors cut short: the same arithmetic on a copy that is filled up with zeros
  // --------------------------

  static Vec load_partial(const S* from, size_t count) {
    S full[kLanes] = {};
    __builtin_memcpy(full, from, count * sizeof(S));
    return Simd::load(full);
  }

  static void store_partial(S* to, Vec value, size_t count) {
    S full[kLanes];
    Simd::store(full, value);
    __builtin_memcpy(to, full, count * sizeof(S));
  }

  // ---- dot products
  // -------------------------------------------------------------------------------------------

  // R rows of X by C rows of W; C chains of FMAs at once hide their latency.
  template <int R, int C>
  static void dot_block(const GemmParams& p, size_t m, size_t n) {
    const S* x = static_cast<const S*>(p.x) + m * p.K;
    const S* w = static_cast<const S*>(p.w) + n * p.K;
    Vec sums[R][C];
    for (int i = 0; i < R; ++i) {
      for (int j = 0; j < C; ++j) sums[i][j] = Simd::zero();
    }
    const auto step = [&](auto load, size_t k) {
      Vec xs[R];
      for (int i = 0; i < R; ++i) xs[i] = load(x + i * p.K + k);
      for (int j = 0; j < C; ++j) {
        const Vec ws = load(w + j * p.K + k);
        for (int i = 0; i < R; ++i) sums[i][j] = Simd::fma(xs[i], ws, sums[i][j]);
      }
    };
    size_t k = 0;
    for (; k + kLanes <= p.K; k += kLanes) step([](const S* from) { return Simd::load(from); }, k);
    if (k < p.K) step([rest = p.K - k](const S* from) { return load_partial(from, rest); }, k);
    for (int i = 0; i < R; ++i) {
      for (int j = 0; j < C; ++j) {
        Vec y = Simd::broadcast(Simd::sum(sums[i][j]));
        if (p.bias) y = Simd::add(y, load_partial(static_cast<const S*>(p.bias) + n + j, 1));
        store_partial(static_cast<S*>(p.y) + (m + i) * p.N + n + j, y, 1);
      }
    }
  }

  template <int R>
  static void dot_rows(const GemmParams& p, size_t m, size_t n, size_t n_end) {
    for (; n + 4 <= n_end; n += 4) dot_block<R, 4>(p, m, n);
    for (; n < n_end; ++n) dot_block<R, 1>(p, m, n);
  }

  static void dot_tile(const GemmParams& p, size_t tile) {
    const size_t m_tiles = divide_up(p.M, kDotTileM);
    const size_t n = tile / m_tiles * kDotTileN;
    const size_t n_end = min(n + kDotTileN, p.N);
    size_t m = tile % m_tiles * kDotTileM;
    const size_t m_end = min(m + kDotTileM, p.M);
    for (; m + 2 <= m_end; m += 2) dot_rows<2>(p, m, n, n_end);
    if (m < m_end) dot_rows<1>(p, m, n, n_end);
  }

  // ---- packed panels
  // ------------------------------------------------------------------------------------------

  // `count` elements as what they are summed in; the identity needs no copy, see `rows_of_x` and
  // `pack_block`.
  static void convert(const S* from, size_t count, T* to) {
    size_t i = 0;
    for (; i + kLanes <= count; i += kLanes) Simd::store(to + i, Simd::load(from + i));
    if (i < count) {
      T full[kLanes];
      Simd::store(full, load_partial(from + i, count - i));
      __builtin_memcpy(to + i, full, (count - i) * sizeof(T));
    }
  }

  // Panel [kc][kNr] of `columns` rows of W, the rest zero. E is S (prepack) or T (a block for the
  // micro-kernel).
  template <class E>
  static void transpose(const E* from, size_t row_stride, size_t columns, size_t kc, E* to) {
    for (size_t j = 0; j < kNr; ++j) {
      if (j < columns) {
        for (size_t k = 0; k < kc; ++k) {
          __builtin_memcpy(to + k * kNr + j, from + j * row_stride + k, sizeof(E));
        }
      } else {
        for (size_t k = 0; k < kc; ++k) to[k * kNr + j] = E{};
      }
    }
  }

  static void pack_block(const S* w, size_t K, size_t columns, size_t kc, T* block) {
    if constexpr (kConverts) {
      T rows[kNr * kKc];
      for (size_t j = 0; j < columns; ++j) convert(w + j * K, kc, rows + j * kKc);
      transpose(rows, kKc, columns, kc, block);
    } else {
      transpose(w, K, columns, kc, block);
    }
  }

  // sums[R][kNr] += x[R][kc] block[kc][kNr]
  template <int R>
  static void micro_kernel(const T* x, size_t x_stride, const T* block, size_t kc, T* sums) {
    Vec low[R], high[R];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      low[i] = Simd::load(sums + i * kNr);
      high[i] = Simd::load(sums + i * kNr + kLanes);
    }
    for (size_t k = 0; k < kc; ++k) {
      const Vec w_low = Simd::load(block + k * kNr);
      const Vec w_high = Simd::load(block + k * kNr + kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        T element;
        __builtin_memcpy(&element, x + i * x_stride + k, sizeof element);
        const Vec xs = Simd::broadcast(element);
        low[i] = Simd::fma(xs, w_low, low[i]);
        high[i] = Simd::fma(xs, w_high, high[i]);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      Simd::store(sums + i * kNr, low[i]);
      Simd::store(sums + i * kNr + kLanes, high[i]);
    }
  }

  // The micro-kernel for `rows` rows, 1 to R.
  template <int R>
  static void micro_kernel_of(size_t rows, const T* x, size_t stride, const T* block, size_t kc, T* sums) {
    if constexpr (R > 1) {
      if (rows < R) return micro_kernel_of<R - 1>(rows, x, stride, block, kc, sums);
    }
    micro_kernel<R>(x, stride, block, kc, sums);
  }

  // One row of a panel's sums: the bias, the one rounding, and out.
  static void epilogue(const GemmParams& p, const T* sums, size_t m, size_t n) {
    const S* bias = static_cast<const S*>(p.bias);
    S* y = static_cast<S*>(p.y) + m * p.N;
    for (size_t j = 0; j < kNr && n + j < p.N; j += kLanes) {
      const size_t count = min(kLanes, p.N - n - j);
      Vec value = Simd::load(sums + j);
      if (count == kLanes) {
        if (bias) value = Simd::add(value, Simd::load(bias + n + j));
        Simd::store(y + n + j, value);
      } else {
        if (bias) value = Simd::add(value, load_partial(bias + n + j, count));
        store_partial(y + n + j, value, count);
      }
    }
  }

  static void packed_tile(const GemmParams& p, size_t tile) {
    // Tiles that share columns follow each other: a thread that runs several reads those weights from its
    // cache.
    const size_t m_tiles = divide_up(p.M, kMc);
    const size_t m = tile % m_tiles * kMc;
    const size_t n = tile / m_tiles * kNc;
    const size_t rows = min(kMc, p.M - m);
    const size_t panels = divide_up(min(kNc, p.N - n), kNr);

    alignas(64) T sums[kNc / kNr][kMc][kNr];
    alignas(64) T w_block[kKc * kNr];
    alignas(64) T x_block[kConverts ? kMc * kKc : 1];
    for (size_t panel = 0; panel < panels; ++panel) {
      for (size_t i = 0; i < rows; ++i) {
        for (size_t j = 0; j < kNr; ++j) sums[panel][i][j] = T{0};
      }
    }
    const S* w_packed = static_cast<const S*>(p.w_packed);
    for (size_t k = 0; k < p.K; k += kKc) {
      const size_t kc = min(kKc, p.K - k);
      const S* x_from = static_cast<const S*>(p.x) + m * p.K + k;
      const T* x = nullptr;
      size_t x_stride = 0;
      if constexpr (kConverts) {
        for (size_t i = 0; i < rows; ++i) convert(x_from + i * p.K, kc, x_block + i * kKc);
        x = x_block;
        x_stride = kKc;
      } else {
        x = x_from;
        x_stride = p.K;
      }
      for (size_t panel = 0; panel < panels; ++panel) {
        const size_t column = n + panel * kNr;
        const T* block = w_block;
        if (!w_packed) {
          const S* w = static_cast<const S*>(p.w) + column * p.K + k;
          pack_block(w, p.K, min(kNr, p.N - column), kc, w_block);
        } else if constexpr (kConverts) {
          convert(w_packed + column * p.K + k * kNr, kc * kNr, w_block);
        } else {
          block = w_packed + column * p.K + k * kNr;
        }
        for (size_t i = 0; i < rows; i += kMr) {
          micro_kernel_of<kMr>(min(kMr, rows - i), x + i * x_stride, x_stride, block, kc, sums[panel][i]);
        }
      }
    }
    for (size_t panel = 0; panel < panels; ++panel) {
      for (size_t i = 0; i < rows; ++i) epilogue(p, sums[panel][i], m + i, n + panel * kNr);
    }
  }

  // ---- the row of the kernel table
  // ----------------------------------------------------------------------------

  static size_t packed_nbytes(size_t N, size_t K) {
    return N <= kDotMaxN ? 0 : divide_up(N, kNr) * kNr * K * sizeof(S);
  }

  static void prepack(const void* w, size_t N, size_t K, void* packed) {
    for (size_t n = 0; n < N; n += kNr) {
      transpose(static_cast<const S*>(w) + n * K, K, min(kNr, N - n), K, static_cast<S*>(packed) + n * K);
    }
  }

  static bool reads_packed(size_t M, size_t N) { return !is_dot(M, N); }

  static size_t num_tiles(const GemmParams& p) {
    if (is_dot(p.M, p.N)) return divide_up(p.M, kDotTileM) * divide_up(p.N, kDotTileN);
    return divide_up(p.M, kMc) * divide_up(p.N, kNc);
  }

  static void run(const GemmParams& p, size_t first, size_t last) {
    const auto one = is_dot(p.M, p.N) ? dot_tile : packed_tile;
    for (size_t tile = first; tile < last; ++tile) one(p, tile);
  }

  static constexpr GemmKernel row(const char* isa, ElementType type) {
    return {
        isa,       type, static_cast<int>(kMr), static_cast<int>(kNr), packed_nbytes, prepack, reads_packed,
        num_tiles, run};
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
