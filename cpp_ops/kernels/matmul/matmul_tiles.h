// Layer: kernels. C = A B in tiles, as a template over an ISA and a storage type; each ISA's unit
// instantiates it with a tag from an anonymous namespace, so every function here has internal linkage there.
//
// The order of each sum depends on the shapes alone: K is cut into blocks; within a block the terms are added
// in order, each with one rounding; the sums of the blocks are added in order.
#ifndef MYLINEAR_KERNELS_MATMUL_MATMUL_TILES_H_
#define MYLINEAR_KERNELS_MATMUL_MATMUL_TILES_H_

#include "kernels/matmul/matmul.h"
#include "kernels/matmul/outer_products.h"

namespace mylinear::kernels {

// A cut of `size` into `pieces` that differ by one at most, the longer ones first.
struct EvenCut {
  size_t pieces;
  size_t length;
  size_t longer;

  EvenCut(size_t size, size_t largest) : pieces(divide_up(size, largest)), length(0), longer(0) {
    if (pieces == 0) return;
    length = size / pieces;
    longer = size % pieces;
  }
  size_t start(size_t piece) const { return piece * length + min(piece, longer); }
};

template <class Tag, class S, int kMr, int kVecs>
struct Matmul {
  using Simd = typename SumsOf<Tag, S>::type;
  using T = typename Simd::Scalar;
  using Vec = typename Simd::Vec;
  using Kernel = OuterProducts<Simd, kMr, kVecs>;
  using Block = typename Kernel::Block;

  static constexpr bool kConverts = sizeof(S) != sizeof(T);
  static constexpr size_t kLanes = Simd::kLanes;
  static constexpr size_t kNr = kVecs * kLanes;  // columns of a panel

  // A block of K. The panel of B that is this long, 24 KiB, stays in L1 while rows of A pass.
  static constexpr size_t kMaxPacked = 24576 / sizeof(T);
  static constexpr size_t kMaxBlock = min(kMaxPacked / kNr, 256);
  // A block of K where few rows read B once, in place: as many rows of B as the hardware prefetches at a
  // time.
  static constexpr size_t kStreamed = 8;
  // Rows of A that are not multiplied in place are held on the stack, copied or converted once a tile.
  static constexpr size_t kMaxHeld = (kConverts ? 32768 : 65536) / sizeof(T);
  static constexpr size_t kMaxRows = 512;
  // Panels in a tile, and in the sums of a tile whose type is converted.
  static constexpr size_t kTilePanels = 2;
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

    explicit Plan(const MatmulParams& p) : panels(divide_up(p.N, kLanes), kVecs) {
      streams = !kConverts && p.M <= kMr && p.N >= kLanes;
      const EvenCut blocks(p.K, streams ? kStreamed : kMaxBlock);
      block = blocks.length + (blocks.longer > 0 || p.K == 0);
      const size_t stride = (p.a_step == 1 ? p.a_row : p.a_step) * sizeof(S);
      holds = kConverts || (stride > 256 && panels.pieces > 1 && p.M > 1 && p.K > 1 && !streams);
      size_t most = kMaxRows;
      if (holds && block > 0) most = min(most, kMaxHeld / round_up(block) / kUnit * kUnit);
      if (kConverts) most = min(most, kMaxSummed);
      column_tiles = divide_up(panels.pieces, kTilePanels);
      if (column_tiles > 0 && column_tiles < kEnough) {
        const size_t rows = p.M / divide_up(kEnough, column_tiles) / kMr * kMr;
        most = min(most, rows > kMinRows ? rows : kMinRows);
      }
      row_tile = most;
      row_tiles = divide_up(p.M, most);
    }
  };

  // A panel of a group: some vectors of columns.
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

  struct Operand {
    const T* data;
    size_t row;
    size_t step;
  };

  // The rows of A of a tile, along a block of K.
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

  static void copy_rows(const T* from, size_t from_stride, T* to, size_t to_stride, size_t rows,
                        size_t count) {
    for (size_t i = 0; i < rows; ++i) {
      __builtin_memcpy(to + i * to_stride, from + i * from_stride, count * sizeof(T));
    }
  }

  // Computes columns of C of a panel, for the rows of a pass.
  static void multiply(const MatmulParams& p, const Panel& panel, size_t m, size_t rows, Block block) {
    if constexpr (!kConverts) {
      T* c = static_cast<T*>(p.c) + m * p.N + panel.n;
      if (panel.columns < panel.vecs * kLanes) {
        T edge[kMr * kNr];
        if (block.adds) copy_rows(c, p.N, edge, kNr, rows, panel.columns);
        block.c = edge;
        block.c_row = kNr;
        Kernel::multiply_of(rows, panel.vecs, block);
        copy_rows(edge, kNr, c, p.N, rows, panel.columns);
        return;
      }
      block.c = c;
      block.c_row = p.N;
    }
    Kernel::multiply_of(rows, panel.vecs, block);
  }

  // Rounds a row of sums, once each.
  static void round_row(const T* sums, size_t columns, S* c) {
    size_t j = 0;
    for (; j + kLanes <= columns; j += kLanes) Simd::store(c + j, Simd::load(sums + j));
    if (j < columns) store_partial<Simd>(c + j, Simd::load_partial(sums + j, columns - j), columns - j);
  }

  // Computes the panels [first, last) of `rows` rows of C.
  static void run_range(const MatmulParams& p, const Plan& plan, size_t m, size_t rows, size_t first,
                        size_t last) {
    alignas(64) T held[kMaxHeld];
    alignas(64) T packed[kMaxPacked];
    constexpr size_t kSummed = kTilePanels * kNr;
    alignas(64) T sums[kConverts ? kMaxSummed * kSummed : 1];
    const S* b = static_cast<const S*>(p.b);
    const size_t start = panel_of(plan, p, first).n;
    if (p.K == 0) {  // nothing to add, and perhaps no memory behind a and b
      const Panel end = panel_of(plan, p, last - 1);
      S* c = static_cast<S*>(p.c) + m * p.N + start;
      for (size_t i = 0; i < rows; ++i)
        __builtin_memset(c + i * p.N, 0, (end.n + end.columns - start) * sizeof(S));
      return;
    }
    for (size_t k = 0; k < p.K; k += plan.block) {
      const size_t length = min(plan.block, p.K - k);
      const Operand a = read_a(p, plan, m, rows, k, length, held);
      const size_t group = kMaxPacked / (length * kNr);
      for (size_t q = first, next; q < last; q = next) {
        next = plan.streams ? last : min(q + group, last);
        const auto is_in_place = [&](const Panel& panel) {
          return plan.streams && panel.columns == panel.vecs * kLanes;
        };
        T* to = packed;
        for (size_t j = q; j < next; ++j) {
          const Panel panel = panel_of(plan, p, j);
          if (is_in_place(panel)) continue;
          pack(b + k * p.N + panel.n, p.N, panel, length, to);
          to += length * panel.vecs * kLanes;
        }
        const EvenCut passes(rows, kMr);
        for (size_t pass = 0; pass < passes.pieces; ++pass) {
          const size_t i = passes.start(pass), count = passes.start(pass + 1) - i;
          const T* from = packed;
          for (size_t j = q; j < next; ++j) {
            const Panel panel = panel_of(plan, p, j);
            Block block{};
            block.a = a.data + i * a.row;
            block.a_row = a.row;
            block.a_step = a.step;
            block.length = length;
            block.adds = k > 0;
            if constexpr (kConverts) {
              block.c = sums + i * kSummed + panel.n - start;
              block.c_row = kSummed;
            }
            if (is_in_place(panel)) {
              if constexpr (!kConverts) block.b = b + k * p.N + panel.n;
              block.b_step = p.N;
            } else {
              block.b = from;
              block.b_step = panel.vecs * kLanes;
              from += length * block.b_step;
            }
            block.ahead = block.b;
            block.ahead_step = block.b_step;
            multiply(p, panel, m + i, count, block);
          }
        }
      }
    }
    if constexpr (kConverts) {
      const size_t columns = panel_of(plan, p, last - 1).n + panel_of(plan, p, last - 1).columns - start;
      S* c = static_cast<S*>(p.c) + m * p.N + start;
      for (size_t i = 0; i < rows; ++i) round_row(sums + i * kSummed, columns, c + i * p.N);
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
      run_range(p, plan, m, min(plan.row_tile, p.M - m), column * kTilePanels,
                min((column + count) * kTilePanels, plan.panels.pieces));
      first += count;
    }
  }

  static constexpr MatmulKernel row(const char* isa, ElementType type) {
    return {isa, type, kMr, static_cast<int>(kLanes), num_tiles, run};
  }
};

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_MATMUL_MATMUL_TILES_H_
