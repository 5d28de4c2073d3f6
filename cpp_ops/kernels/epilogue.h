// Layer: kernels. What surrounds the sums of a tile: the bias in their type, their activation, and the one
// rounding.
#ifndef MYLINEAR_KERNELS_EPILOGUE_H_
#define MYLINEAR_KERNELS_EPILOGUE_H_

#include "kernels/activation/rows.h"
#include "kernels/simd.h"

namespace mylinear::kernels {

// S is the storage type of Y.
template <class Tag, class S>
struct Epilogue : Elements<Tag, S> {
  using Base = Elements<Tag, S>;
  using Base::kLanes;
  using typename Base::Simd;
  using typename Base::T;
  using typename Base::Vec;

  // Writes the bias of `columns` columns in the type of the sums, in whole vectors. `is_one`: all of them
  // have the first one's.
  template <size_t kMostColumns>
  static void widen(const S* bias, size_t columns, bool is_one, T (&to)[kMostColumns]) {
    static_assert(kMostColumns % kLanes == 0);
    S same[kLanes];
    if (is_one) {
      for (size_t j = 0; j < kLanes; ++j) __builtin_memcpy(same + j, bias, sizeof(S));
    }
    for (size_t j = 0; j < columns; j += kLanes) {
      const size_t count = is_one ? kLanes : columns - j;
      const S* from = is_one ? same : bias + j;
      const Vec value = count < kLanes ? Simd::load_partial(from, count) : Simd::load(from);
      __builtin_memcpy(to + j, &value, sizeof value);
    }
  }

  // Replaces sums by their activations, in rows `stride` apart.
  static void activate(Activation activation, T* sums, size_t stride, size_t rows, size_t columns) {
    if (stride == columns) {  // one long row, whose vectors overlap
      columns *= rows;
      rows = 1;
    }
    for (size_t i = 0; i < rows; ++i, sums += stride)
      ActivationRows<Tag, T>::run(activation, sums, sums, columns);
  }

  // Rounds the activations of a row of sums, which they replace, once each.
  static void round_row(Activation activation, T* sums, size_t columns, S* y) {
    if (activation != Activation::kNone) ActivationRows<Tag, T>::run(activation, sums, sums, columns);
    size_t j = 0;
    for (; j + kLanes <= columns; j += kLanes) Simd::store(y + j, Simd::load(sums + j));
    if (j < columns) store_partial<Simd>(y + j, Simd::load_partial(sums + j, columns - j), columns - j);
  }
  static void round_rows(Activation activation, T* sums, size_t stride, size_t rows, size_t columns, S* y,
                         size_t y_stride) {
    for (size_t i = 0; i < rows; ++i) round_row(activation, sums + i * stride, columns, y + i * y_stride);
  }

  // Turns sums into Y, rounded where they are converted; where not, they are in their place.
  static void finish(Activation activation, T* sums, size_t stride, size_t rows, size_t columns, S* y,
                     size_t y_stride) {
    if constexpr (Base::kConverts) {
      round_rows(activation, sums, stride, rows, columns, y, y_stride);
    } else if (activation != Activation::kNone) {
      activate(activation, sums, stride, rows, columns);
    }
  }
};

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_EPILOGUE_H_
