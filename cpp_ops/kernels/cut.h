// Layer: kernels. A cut of the rows or columns of Y into tiles.
#ifndef MYLINEAR_KERNELS_CUT_H_
#define MYLINEAR_KERNELS_CUT_H_

#include "kernels/simd.h"

namespace mylinear::kernels {
namespace {

// The most even cut of `size` into the fewest pieces, of a multiple of `unit`, and of `largest` at most. A
// tiny product takes less time than a few divisions, so what is one piece takes none.
struct Cut {
  size_t pieces;
  size_t length;  // of each but the last
  Cut(size_t size, size_t largest, size_t unit)
      : pieces(size <= largest ? size > 0 : divide_up(size, largest)),
        length(divide_up(pieces <= 1 ? size : divide_up(size, pieces), unit) * unit) {}
};

}  // namespace
}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_CUT_H_
