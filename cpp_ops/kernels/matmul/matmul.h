// Layer: kernel API. The products that a backward needs; like gemm.h, it knows no onnxruntime.
//
//   C = A B             A [M, K] through two strides, so that it may be transposed; B [K, N], C [M, N]
//   row-major s = sum of rows     A [M, N] row-major, s [N]
//
// Float16 and Bfloat16 are summed in float and rounded once, to nearest even. Any of M, N, K may be 0; an
// empty sum is 0.
#ifndef MYLINEAR_KERNELS_MATMUL_MATMUL_H_
#define MYLINEAR_KERNELS_MATMUL_MATMUL_H_

#include <cstddef>

#include "kernels/gemm.h"

namespace mylinear::kernels {

// One product. Nothing need be aligned. c overlaps no input.
struct MatmulParams {
  size_t M;
  size_t N;
  size_t K;
  const void* a;
  size_t a_row;   // elements from row to row: K where A is row-major, 1 where it is the transpose of such a
                  // matrix
  size_t a_step;  // elements from column to column: 1, or M
  const void* b;
  void* c;
};

// One row of the kernel table. All functions are thread-safe, allocate nothing and throw nothing.
//
// The work is cut into `num_tiles(p)` tiles of the output, as in gemm.h: they may run in any order and on any
// threads, and the bits do not depend on it. The order of a sum depends on M, N and K alone.
struct MatmulKernel {
  const char* isa;
  ElementType type;
  int mr;     // rows of A that the micro-kernel takes at a time
  int lanes;  // columns of B in a vector
  size_t (*num_tiles)(const MatmulParams& params);
  // Computes the tiles in [first, last).
  void (*run)(const MatmulParams& params, size_t first, size_t last);
};

// One sum of rows.
struct RowSumParams {
  size_t M;
  size_t N;
  const void* a;
  void* s;
};

// As MatmulKernel.
struct RowSumKernel {
  const char* isa;
  ElementType type;
  int lanes;  // columns of A in a vector
  size_t (*num_tiles)(const RowSumParams& params);
  void (*run)(const RowSumParams& params, size_t first, size_t last);
};

// The kernels for an ISA: kNumElementTypes of them, by ElementType.
const MatmulKernel* matmul_kernels(const Isa& isa);
const RowSumKernel* row_sum_kernels(const Isa& isa);

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_MATMUL_MATMUL_H_
