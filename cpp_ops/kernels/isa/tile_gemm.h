// Layer: kernels. Y = activation(X W^T + B) of bfloat16 by an instruction that multiplies tiles, as a
// template over the class that holds the tiles; needs AVX-512 too. No STL inside.
//
//   C [16 rows of W][16 rows of X]  +=  A [16 rows of W][32 of K]  B [32 of K, in pairs][16 rows of X]
//
// A is W in place. X is packed into pairs of K once for all the columns of a tile of Y, and the result, Y^T,
// is transposed when it is rounded: both by the same transposition of 16 x 16 words.
//
// The order of each sum depends on K alone: of each 32 elements the even ones and the odd ones are summed, in
// order and each with one rounding, then both sums are added to each other, and to the sum so far. The
// instruction takes denormals for zero, so it serves where there can be none; elsewhere FMAs do the same.
#ifndef MYLINEAR_KERNELS_ISA_TILE_GEMM_H_
#define MYLINEAR_KERNELS_ISA_TILE_GEMM_H_

#include "kernels/activation/rows.h"
#include "kernels/gemm.h"
#include "kernels/isa/tiles.h"

namespace mylinear::kernels {
namespace {

// `Tiles` has the members of FmaTiles, belongs to the thread that makes it, and may take denormals for zero.
template <class Tiles>
struct TileGemm {
  using S = Bfloat16;
  using Pairs = Avx512::Pairs;
  using Float = Avx512::Float;

  static constexpr size_t kStep = Pairs::kStep;
  // Rows of X in a tile of Y: those of two tiles. Eight tiles allow two by two tiles of sums, or four by one.
  static constexpr size_t kMc = 2 * kTileRows;
  static constexpr int kSums = 4;
  // Columns of a tile of Y: the more, the less X is packed. Few tiles get narrower ones, down to kMinColumns,
  // so that there is one for each thread.
  static constexpr size_t kNc = 512;
  static constexpr size_t kMinColumns = 64;
  static constexpr size_t kEnough = 64;
  // A block of K. With the sums it takes 96 KiB of the stack, and 8 KiB for tiles that FMAs multiply.
  static constexpr size_t kMaxBlock = 512;

  template <int kValue>
  struct Int {
    static constexpr int value = kValue;
  };
  // function(Int<0>), ..., function(Int<kCount - 1>)
  template <int kCount, class F>
  static inline __attribute__((always_inline)) void unrolled(F function) {
    if constexpr (kCount > 0) {
      unrolled<kCount - 1>(function);
      function(Int<kCount - 1>{});
    }
  }

  static __m512i load_pairs(const S* from, size_t count) {
    return count >= kStep ? Pairs::load_operand(from) : Pairs::load_operand_partial(from, count);
  }

  // ---- what is multiplied

  // 16 rows of X at most, as tiles for B, one for each kStep elements of K, `tile_stride` words apart.
  // Missing rows and elements are zero.
  static void pack(const S* x, size_t K, size_t rows, size_t length, uint32_t* to, size_t tile_stride) {
    for (size_t k = 0; k < length; k += kStep, to += tile_stride) {
      __m512i v[kTileRows];
      for (size_t i = 0; i < kTileRows; ++i) {
        v[i] = i < rows ? load_pairs(x + i * K + k, length - k) : _mm512_setzero_si512();
      }
      Avx512::transpose(v);
      for (size_t i = 0; i < kTileRows; ++i) _mm512_store_si512(to + i * kTileRows, v[i]);
    }
  }

  // ---- the micro-kernel

  // Rows of W by the rows of X of a tile of Y, along a block of K.
  struct Panel {
    const S* w;  // rows K apart
    size_t K;
    size_t columns;
    size_t length;
    const uint32_t* packed;  // kX tiles for each kStep elements of K
    float* sums;             // [columns][kMc]
    bool is_first;           // whether there are no sums yet
    bool has_next;           // whether as many rows of W follow, to prefetch into L2
  };

  // Up to 16 rows of W, as a tile for A, where the edge of W lies within it.
  static void copy_edge(const S* w, size_t K, size_t rows, size_t length, uint32_t* to) {
    for (size_t i = 0; i < kTileRows; ++i) {
      const __m512i row = i < rows ? load_pairs(w + i * K, length) : _mm512_setzero_si512();
      _mm512_store_si512(to + i * kTileRows, row);
    }
  }

  template <int kW, int kX, class Any>
  static void multiply(Any& tiles, const Panel& p) {
    constexpr size_t kSumsStride = kMc * sizeof(float);
    alignas(64) uint32_t edge[kTileRows * kTileRows];
    const auto sums_of = [&p](int w, int x) {
      return p.sums + static_cast<size_t>(w) * kTileRows * kMc + static_cast<size_t>(x) * kTileRows;
    };
    unrolled<kW * kX>([&](auto sum) __attribute__((always_inline)) {
      constexpr int kSum = decltype(sum)::value;
      if (p.is_first) {
        tiles.template zero<kSum>();
      } else {
        tiles.template load<kSum>(sums_of(kSum / kX, kSum % kX), kSumsStride);
      }
    });
    const uint32_t* packed = p.packed;
    for (size_t k = 0; k < p.length; k += kStep) {
      unrolled<kX>([&](auto x) __attribute__((always_inline)) {
        tiles.template load<6 + decltype(x)::value>(packed, kTileBytes);
        packed += kTileRows * kTileRows;
      });
      unrolled<kW>([&](auto w) __attribute__((always_inline)) {
        constexpr int kWeight = decltype(w)::value;
        constexpr int kA = 4 + kWeight % 2;
        const size_t first = kWeight * kTileRows;
        const size_t rows = min(kTileRows, p.columns - first);
        const S* from = p.w + first * p.K + k;
        if (rows == kTileRows && p.length - k >= kStep) {
          tiles.template load<kA>(from, p.K * sizeof(S));
        } else {
          copy_edge(from, p.K, rows, p.length - k, edge);
          tiles.template load<kA>(edge, kTileBytes);
        }
        if (p.has_next) {
          for (size_t i = 0; i < kTileRows; ++i) {
            __builtin_prefetch(from + (kW * kTileRows + i) * p.K, 0, 2);
          }
        }
        unrolled<kX>([&](auto x) __attribute__((always_inline)) {
          constexpr int kRows = decltype(x)::value;
          tiles.template dot<kWeight * kX + kRows, kA, 6 + kRows>();
        });
      });
    }
    unrolled<kW * kX>([&](auto sum) __attribute__((always_inline)) {
      constexpr int kSum = decltype(sum)::value;
      tiles.template store<kSum>(sums_of(kSum / kX, kSum % kX), kSumsStride);
    });
  }

  // All columns of a tile of Y, along a block of K.
  template <int kW, int kX, class Any>
  static void multiply_panels(Any& tiles, Panel p, size_t columns, bool is_near) {
    constexpr size_t kColumns = kW * kTileRows;
    for (; columns > 0; columns -= p.columns) {
      p.columns = min(columns, kColumns);
      p.has_next = !is_near && columns >= 2 * kColumns;
      switch (divide_up(p.columns, kTileRows)) {
        case 1:
          multiply<1, kX>(tiles, p);
          break;
        case 2:
          multiply<2, kX>(tiles, p);
          break;
        case 3:
          if constexpr (kW > 2) multiply<3, kX>(tiles, p);
          break;
        default:
          if constexpr (kW > 2) multiply<4, kX>(tiles, p);
          break;
      }
      p.w += kColumns * p.K;
      p.sums += kColumns * kMc;
    }
  }

  template <class Any>
  static void multiply_block(Any& tiles, const Panel& p, size_t rows, size_t columns, bool is_near) {
    if (rows > kTileRows) {
      multiply_panels<kSums / 2, 2>(tiles, p, columns, is_near);
    } else {
      multiply_panels<kSums, 1>(tiles, p, columns, is_near);
    }
  }

  // Adds the bias to the sums, and replaces them by their activations.
  static void activate(Activation activation, float* sums, size_t rows, size_t columns, const S* bias) {
    for (size_t n = 0; n < columns; ++n, sums += kMc) {
      float one = -0.0f;
      if (bias) {
        S value;  // a copy: the bias need not be aligned
        __builtin_memcpy(&value, bias + n, sizeof value);
        one = to_float(value);
      }
      const __m512 added = _mm512_set1_ps(one);
      for (size_t m = 0; m < rows; m += kTileRows)
        Float::store(sums + m, Float::add(Float::load(sums + m), added));
      ActivationRows<Avx512, float>::run(activation, sums, sums, rows);
    }
  }

  // Adds the bias to the sums and rounds each once, from [columns][kMc] to rows of Y.
  static void finish(const float* sums, size_t rows, size_t columns, const S* bias, S* y, size_t N) {
    for (size_t n = 0; n < columns; n += kTileRows) {
      const size_t width = min(kTileRows, columns - n);
      const __m512 added = !bias               ? _mm512_set1_ps(-0.0f)
                           : width < kTileRows ? Float::load_partial(bias + n, width)
                                               : Float::load(bias + n);
      for (size_t m = 0; m < rows; m += kTileRows) {
        __m512i v[kTileRows];
        for (size_t i = 0; i < kTileRows; ++i) v[i] = _mm512_loadu_si512(sums + (n + i) * kMc + m);
        Avx512::transpose(v);
        for (size_t i = 0; i < kTileRows && m + i < rows; ++i) {
          store_partial<Float>(y + (m + i) * N + n, Float::add(_mm512_castsi512_ps(v[i]), added), width);
        }
      }
    }
  }

  // ---- the row of the kernel table

  static size_t columns_of_tile(const GemmParams& p) {
    size_t columns = kNc;
    while (columns > kMinColumns && divide_up(p.M, kMc) * divide_up(p.N, columns) < kEnough) columns /= 2;
    return columns;
  }

  static void run_tile(Tiles& tiles, const GemmParams& p, size_t m, size_t n, size_t columns) {
    const size_t rows = min(kMc, p.M - m);
    const S* x = static_cast<const S*>(p.x) + m * p.K;
    alignas(64) float sums[kNc * kMc];
    alignas(64) uint32_t packed[kMc * kMaxBlock / 2];
    Panel panel{};
    panel.K = p.K;
    panel.packed = packed;
    panel.sums = sums;
    panel.is_first = true;
    bool can_dot = true;  // false from the first block on whose sums may be denormal
    for (size_t k = 0; k < p.K || panel.is_first; k += kMaxBlock) {
      panel.w = static_cast<const S*>(p.w) + n * p.K + k;
      panel.length = min(kMaxBlock, p.K - k);
      const size_t num_x = divide_up(rows, kTileRows);
      for (size_t i = 0; i < num_x; ++i) {
        const size_t first = i * kTileRows;
        pack(x + first * p.K + k, p.K, min(kTileRows, rows - first), panel.length,
             packed + i * kTileRows * kTileRows, num_x * kTileRows * kTileRows);
      }
      can_dot = can_dot && Pairs::has_no_denormal_sums(x + k, p.K, rows, panel.length) &&
                (p.w_can_dot || Pairs::has_no_denormal_sums(panel.w, p.K, columns, panel.length));
      if (can_dot) {
        multiply_block(tiles, panel, rows, columns, p.is_near);
      } else {
        FmaTiles exact;
        multiply_block(exact, panel, rows, columns, p.is_near);
      }
      panel.is_first = false;
    }
    const S* bias = p.bias ? static_cast<const S*>(p.bias) + n : nullptr;
    if (p.activation != Activation::kNone) {
      activate(p.activation, sums, rows, columns, bias);
      bias = nullptr;
    }
    finish(sums, rows, columns, bias, static_cast<S*>(p.y) + m * p.N + n, p.N);
  }

  static size_t num_tiles(const GemmParams& p) {
    return divide_up(p.M, kMc) * divide_up(p.N, columns_of_tile(p));
  }

  // Tiles that share rows of W follow each other.
  static void run(const GemmParams& p, size_t first, size_t last) {
    Tiles tiles;
    const size_t columns = columns_of_tile(p), by_rows = divide_up(p.M, kMc);
    for (size_t tile = first; tile < last; ++tile) {
      const size_t n = tile / by_rows * columns;
      run_tile(tiles, p, tile % by_rows * kMc, n, min(columns, p.N - n));
    }
  }

  static bool can_dot(const void* w, size_t count) {
    return Pairs::has_no_denormal_sums(static_cast<const S*>(w), count);
  }

  static constexpr GemmKernel row(const char* isa) {
    constexpr ElementType kType = ElementType::kBfloat16;
    return {isa, kType, kType, static_cast<int>(kMc), static_cast<int>(kStep), num_tiles, run, can_dot};
  }
};

}  // namespace
}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_ISA_TILE_GEMM_H_
