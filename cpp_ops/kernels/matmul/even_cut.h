// Layer: kernels. A cut of many into pieces as equal as possible.
#ifndef MYLINEAR_KERNELS_MATMUL_EVEN_CUT_H_
#define MYLINEAR_KERNELS_MATMUL_EVEN_CUT_H_

#include "kernels/simd.h"

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

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_MATMUL_EVEN_CUT_H_
