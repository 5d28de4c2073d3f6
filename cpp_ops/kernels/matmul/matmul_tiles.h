// Layer: kernels. C = A B in tiles, as a template over an ISA and a storage type; each ISA's unit
// instantiates it with a tag from an anonymous namespace, so every function here has internal linkage there.
//
// The order of each sum depends on the shapes alone: K is cut into blocks; within a block the terms are added
// in order, each with one rounding; the sums of the blocks are added in order.
#ifndef MYLINEAR_KERNELS_MATMUL_MATMUL_TILES_H_
#define MYLINEAR_KERNELS_MATMUL_MATMUL_TILES_H_

#include "kernels/matmul/even_cut.h"
#include "kernels/matmul/matmul.h"
#include "kernels/matmul/outer_products.h"

namespace mylinear::kernels {

template <class Tag, class S, int kMr, int kVecs>
struct Matmul {
  using Simd = typename SumsOf<Tag, S>::type;
  using T = typename Simd::Scalar;
  using Vec = typename Simd::Vec;
  using Kernel = OuterProducts<Simd, kMr, kVecs>;
  using Strip = typename Kernel::Strip;

  static constexpr bool kConverts = sizeof(S) != sizeof(T);
  static constexpr size_t kLanes = Simd::kLanes;
  static constexpr size_t kNr = kVecs * kLanes;  // columns of a panel

  // A block of K. The panel of B that is this long, 24 KiB, stays in L1 while rows of A pass; meanwhile the
  // next one is prefetched from memory into L2, and the C that comes next too. See benchmarks/README.md.
  static constexpr size_t kMaxPacked = 24576 / sizeof(T);
  static constexpr size_t kMaxBlock = min(kMaxPacked / kNr, 256);
  // A block of K where few rows read B once, in place.
  static constexpr size_t kStreamed = 16;
  // Rows of A that are not multiplied in place are held on the stack, copied or converted once a tile.
  static constexpr size_t kMaxHeld = (kConverts ? 32768 : 65536) / sizeof(T);
  static constexpr size_t kMaxRows = 512;
  // Panels in a tile, and in the sums of a tile whose type is converted. Tiles are wider where all time goes
  // into reading B or writing C: a row is read or written on and on, by one thread too.
  static constexpr size_t kTilePanels = 2;
  static constexpr size_t kStreamedPanels = 8;
  static constexpr size_t kShort = 16;  // of K
  static constexpr size_t kUnit = kMr > kLanes ? kMr : kLanes;
  static constexpr size_t kMaxSummed = kConverts ? kMaxHeld / kMaxBlock / kUnit * kUnit : 1;
  static constexpr size_t kEnough = 16;  // tiles, so that there are some for each thread
  static constexpr size_t kMinRows = 32;

  static size_t round_up(size_t a) { return divide_up(a, kLanes) * kLanes; }

  // How a product is cut, which its shapes alone decide.
  struct Plan {
    bool streams;    // B in place
    bool holds;      // A copied
    size_t block;    // of K
    EvenCut panels;  // in vectors
    size_t row_tile;
    size_t row_tiles;
    size_t column_tiles;
    size_t tile_panels;

    explicit Plan(const MatmulParams& p) : panels(divide_up(p.N, kLanes), kVecs) {
      streams = !kConverts && p.M <= kMr && p.N >= kLanes;
      const EvenCut blocks(p.K, streams ? kStreamed : kMaxBlock);
      block = blocks.length + (blocks.longer > 0 || p.K == 0);
      const size_t stride = (p.a_step == 1 ? p.a_row : p.a_step) * sizeof(S);
      holds = kConverts || (stride > 256 && panels.pieces > 1 && p.M > 1 && p.K > 1 && !streams);
      size_t most = kMaxRows;
      if (holds && block > 0) most = min(most, kMaxHeld / round_up(block) / kUnit * kUnit);
      if (kConverts) most = min(most, kMaxSummed);
      tile_panels = streams ? kStreamedPanels : kTilePanels;
      if (!kConverts && p.K <= kShort && p.M >= kEnough * kMinRows)
        tile_panels = panels.pieces + !panels.pieces;
      column_tiles = divide_up(panels.pieces, tile_panels);
      if (column_tiles > 0 && column_tiles < kEnough) {
        const size_t rows = p.M / divide_up(kEnough, column_tiles) / kMr * kMr;
        most = min(most, rows > kMinRows ? rows : kMinRows);
      }
      row_tile = most;
      row_tiles = divide_up(p.M, most);
    }
  };

  struct Panel {
    size_t n;  // first column
    size_t vecs;
    size_t columns;  // fewer than vecs * kLanes at the edge
  };

  static Panel panel_of(const Plan& plan, const MatmulParams& p, size_t index) {
    const size_t first = plan.panels.start(index), end = plan.panels.start(index + 1);
    const size_t n = first * kLanes;
    return {n, end - first, min((end - first) * kLanes, p.N - n)};
  }

  // Copies or converts rows of B, with zeros behind the edge.
  static void pack(const S* b, size_t N, const Panel& panel, size_t length, T* to) {
    const size_t whole = panel.columns / kLanes;
    const size_t rest = panel.columns % kLanes;
    for (size_t k = 0; k < length; ++k, b += N, to += panel.vecs * kLanes) {
      for (size_t v = 0; v < whole; ++v) Simd::store(to + v * kLanes, Simd::load(b + v * kLanes));
      if (rest) Simd::store(to + whole * kLanes, Simd::load_partial(b + whole * kLanes, rest));
    }
  }

  // Copies or converts `rows` rows of `count` elements each.
  static void hold(const S* from, size_t stride, size_t rows, size_t count, T* to, size_t to_stride) {
    for (size_t i = 0; i < rows; ++i, from += stride, to += to_stride) {
      size_t j = 0;
      for (; j + kLanes <= count; j += kLanes) Simd::store(to + j, Simd::load(from + j));
      if (j < count) Simd::store(to + j, Simd::load_partial(from + j, count - j));
    }
  }

  // The rows of A of a tile, along a block of K.
  struct Operand {
    const T* data;
    size_t row;
    size_t step;
  };
  static Operand read_a(const MatmulParams& p, const Plan& plan, size_t m, size_t rows, size_t k,
                        size_t length, T* held) {
    const S* a = static_cast<const S*>(p.a) + m * p.a_row + k * p.a_step;
    if constexpr (!kConverts) {
      if (!plan.holds) return {a, p.a_row, p.a_step};
    }
    if (p.a_step == 1) {
      hold(a, p.a_row, rows, length, held, round_up(length));
      return {held, round_up(length), 1};
    }
    hold(a, p.a_step, length, rows, held, round_up(rows));
    return {held, 1, round_up(rows)};
  }

  // Rounds sums, once each.
  static void round_row(const T* sums, size_t columns, S* c) {
    size_t j = 0;
    for (; j + kLanes <= columns; j += kLanes) Simd::store(c + j, Simd::load(sums + j));
    if (j < columns) store_partial<Simd>(c + j, Simd::load_partial(sums + j, columns - j), columns - j);
  }

  // Panels side by side with as many vectors each, from B in place or packed.
  struct Run {
    size_t first;
    size_t panels;
    size_t vecs;
    const T* b;
    size_t b_step;
    size_t b_panel;
  };

  // Packs those panels of [first, last) that are not read in place. Returns the number of runs.
  static size_t read_b(const MatmulParams& p, const Plan& plan, size_t k, size_t length, size_t first,
                       size_t last, T* packed, Run* runs) {
    const S* b = static_cast<const S*>(p.b) + k * p.N;
    size_t count = 0;
    bool was_in_place = false;
    for (size_t j = first; j < last; ++j) {
      const Panel panel = panel_of(plan, p, j);
      const bool is_in_place = plan.streams && panel.columns == panel.vecs * kLanes;
      const bool is_new = count == 0 || runs[count - 1].vecs != panel.vecs || was_in_place != is_in_place;
      was_in_place = is_in_place;
      if (!is_new) ++runs[count - 1].panels;
      if (is_in_place) {
        if constexpr (!kConverts) {
          if (is_new) runs[count++] = {j, 1, panel.vecs, b + panel.n, p.N, panel.vecs * kLanes};
        }
        continue;
      }
      const size_t size = length * panel.vecs * kLanes;
      if (is_new) runs[count++] = {j, 1, panel.vecs, packed, panel.vecs * kLanes, size};
      pack(b + panel.n, p.N, panel, length, packed);
      packed += size;
    }
    return count;
  }

  // Computes the panels [first, last) of `rows` rows of C.
  static void run_range(const MatmulParams& p, const Plan& plan, size_t m, size_t rows, size_t first,
                        size_t last) {
    const size_t start = panel_of(plan, p, first).n;
    const Panel final = panel_of(plan, p, last - 1);
    const size_t columns = final.n + final.columns - start;
    if (p.K == 0) {  // nothing is added, and perhaps no memory is behind a and b
      S* c = static_cast<S*>(p.c) + m * p.N + start;
      for (size_t i = 0; i < rows; ++i) __builtin_memset(c + i * p.N, 0, columns * sizeof(S));
      return;
    }
    if constexpr (!kConverts) {
      if (p.K == 1) return multiply_by_row(p, m, rows, start, columns);
    }
    alignas(64) T held[kMaxHeld];
    alignas(64) T packed[kMaxPacked];
    constexpr size_t kSummed = kTilePanels * kNr;
    alignas(64) T sums[kConverts ? kMaxSummed * kSummed : 1];
    const S* b = static_cast<const S*>(p.b);
    const EvenCut passes(rows, kMr);
    for (size_t k = 0; k < p.K; k += plan.block) {
      const size_t length = min(plan.block, p.K - k);
      const Operand a = read_a(p, plan, m, rows, k, length, held);
      const size_t group = plan.streams ? last - first : kMaxPacked / (length * kNr);
      for (size_t q = first; q < last; q += group) {
        const size_t end = min(q + group, last);
        Run runs[4];
        const size_t num_runs = read_b(p, plan, k, length, q, end, packed, runs);
        for (size_t pass = 0; pass < passes.pieces; ++pass) {
          const size_t i = passes.start(pass), count = passes.start(pass + 1) - i;
          for (size_t r = 0; r < num_runs; ++r) {
            const Run& run = runs[r];
            const size_t n = panel_of(plan, p, run.first).n;
            Strip strip{};
            strip.a = a.data + i * a.row;
            strip.a_row = a.row;
            strip.a_step = a.step;
            strip.b = run.b;
            strip.b_step = run.b_step;
            strip.b_panel = run.b_panel;
            strip.panels = run.panels;
            strip.length = length;
            strip.adds = k > 0;
            strip.rest = kLanes;
            strip.ahead = run.b;
            strip.ahead_step = run.b_step;
            strip.ahead_panel = run.b_panel;
            if constexpr (kConverts) {
              strip.c = sums + i * kSummed + n - start;
              strip.c_row = kSummed;
            } else {
              strip.c = static_cast<T*>(p.c) + (m + i) * p.N + n;
              strip.c_row = p.N;
              if (run.first + run.panels == last) strip.rest = final.columns - (final.vecs - 1) * kLanes;
              if (r + 1 < num_runs) {
                strip.c_next = panel_of(plan, p, runs[r + 1].first).n - n;
              } else if (pass + 1 < passes.pieces) {
                strip.c_next = count * p.N + panel_of(plan, p, q).n - n;
              }
              // The B that is packed next, or read next.
              if (pass == 0) {
                const size_t later = run.first + group;
                const bool is_here = !plan.streams && later < last;
                const size_t row = is_here ? k : k + length;
                if (row < p.K) {
                  const size_t panel = is_here ? later : plan.streams ? run.first : first + (run.first - q);
                  strip.ahead = b + row * p.N + panel_of(plan, p, panel).n;
                  strip.ahead_step = p.N;
                  strip.ahead_panel = run.vecs * kLanes;
                }
              }
            }
            Kernel::multiply_of(count, run.vecs, strip);
          }
        }
      }
    }
    if constexpr (kConverts) {
      S* c = static_cast<S*>(p.c) + m * p.N + start;
      for (size_t i = 0; i < rows; ++i) round_row(sums + i * kSummed, columns, c + i * p.N);
    }
  }

  // B is one row. C is written from its first element to its last, which is all that takes time.
  static void multiply_by_row(const MatmulParams& p, size_t m, size_t rows, size_t n, size_t columns) {
    const T* a = static_cast<const T*>(p.a) + m * p.a_row;
    const T* b = static_cast<const T*>(p.b) + n;
    T* c = static_cast<T*>(p.c) + m * p.N + n;
    for (size_t i = 0; i < rows; ++i, a += p.a_row, c += p.N) {
      const Vec value = Simd::broadcast(a);
      size_t j = 0;
      for (; j + kLanes <= columns; j += kLanes) {
        Simd::store(c + j, Simd::fma(value, Simd::load(b + j), Simd::zero()));
      }
      if (const size_t rest = columns - j) {
        Simd::store_first(c + j, Simd::fma(value, Simd::load_partial(b + j, rest), Simd::zero()), rest);
      }
    }
  }

  static size_t num_tiles(const MatmulParams& p) {
    const Plan plan(p);
    return plan.row_tiles * plan.column_tiles;
  }

  // Tiles of the same rows follow each other; where sums stay in C, those of one call are computed as one.
  static void run(const MatmulParams& p, size_t first, size_t last) {
    const Plan plan(p);
    while (first < last) {
      const size_t row = first / plan.column_tiles, column = first % plan.column_tiles;
      const size_t count = kConverts ? 1 : min(last - first, plan.column_tiles - column);
      const size_t m = row * plan.row_tile;
      run_range(p, plan, m, min(plan.row_tile, p.M - m), column * plan.tile_panels,
                min((column + count) * plan.tile_panels, plan.panels.pieces));
      first += count;
    }
  }

  static constexpr MatmulKernel row(const char* isa, ElementType type) {
    return {isa, type, kMr, static_cast<int>(kLanes), num_tiles, run};
  }
};

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_MATMUL_MATMUL_TILES_H_
