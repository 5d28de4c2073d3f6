// Layer: CUDA kernels. Translates a row-major product for cuBLASLt, whose matrices are column-major.
//
// cuBLASLt computes D = op(A) op(B) + bias, with D [m, n], all matrices column-major: element (i, j) of a
// matrix with leading dimension ld lies at i + j * ld, and bias[i] goes to the whole row i of D.
//
// The memory of a row-major [r, c] matrix is that of its transpose [c, r], column-major with ld = c. So
//
//   Y [M, N]  is Y^T [N, M] with ld N        Y^T = (X W^T)^T = W X^T, hence m = N, n = M, k = K;
//   W [N, K]  is W^T [K, N] with ld K        op(A) must be W [N, K]: A is W's memory, transposed;
//   X [M, K]  is X^T [K, M] with ld K        op(B) must be X^T [K, M]: B is X's memory, as it is;
//   B [N]     is added along the rows of Y^T, which are the columns of Y: cuBLASLt's own bias.
//
// The products of a backward have operands that lie the other way round:
//
//   W [K, N]  is W^T [N, K] with ld N        op(A) must be W^T [N, K]: A is W's memory, as it is;
//   X [K, M]  is X^T [M, K] with ld M        op(B) must be X [K, M]: B is X's memory, transposed.
#ifndef MYLINEAR_CUDA_COLUMN_MAJOR_H_
#define MYLINEAR_CUDA_COLUMN_MAJOR_H_

#include <cstdint>

namespace mylinear::cuda {

// One operand in memory, before op().
struct ColumnMajor {
  uint64_t rows;
  uint64_t columns;
  int64_t leading;
  bool is_transposed;  // whether op() transposes
};

struct ColumnMajorProduct {
  ColumnMajor a;  // reads the memory of W
  ColumnMajor b;  // reads the memory of X
  ColumnMajor d;  // writes the memory of Y
};

// `x_is_turned`: X is [K, M] in memory; `w_is_turned`: W is [K, N].
constexpr ColumnMajorProduct column_major(uint64_t M, uint64_t N, uint64_t K, bool x_is_turned = false,
                                          bool w_is_turned = false) {
  const ColumnMajor straight_w{K, N, static_cast<int64_t>(K), true};
  const ColumnMajor turned_w{N, K, static_cast<int64_t>(N), false};
  const ColumnMajor straight_x{K, M, static_cast<int64_t>(K), false};
  const ColumnMajor turned_x{M, K, static_cast<int64_t>(M), true};
  return {w_is_turned ? turned_w : straight_w,
          x_is_turned ? turned_x : straight_x,
          {N, M, static_cast<int64_t>(N), false}};
}

}  // namespace mylinear::cuda

#endif  // MYLINEAR_CUDA_COLUMN_MAJOR_H_
