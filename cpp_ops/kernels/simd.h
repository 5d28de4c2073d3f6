// Layer: kernels. Vectors of one ISA, as the templates of this room see them; no STL inside.
//
// An ISA says whether it has 32 registers (kDefersSums) and gives two structs, Float and Double, each with:
// Scalar, Vec, kLanes, zero(), load(const S*) and load_partial(const S*, count) for every storage type S that
// it sums (missing elements are zero), store(S*, Vec) with one rounding, fma(a, b, c) = a * b + c, add(a, b),
// sum4(const Vec[4], Scalar[4]), and keep(Vec*), which keeps the compiler from loading a value anew for each
// use. Loads and stores need no alignment. Where kHasPanels is true there are also kSumOrder, the lanes in
// the order of sum4's tree of sums, broadcast(const Held*) and transpose(Operand[kLanes]). Where kHasTurned
// is true there is store_turned too (turned/panels.h), beside these. Where kHasScale is true, scale(v, n) is
// v 2^n, rounded once. Where kFoldsLanes is true there are fold, sum_folded, and what loads and stores four
// rows of four sums (isa/avx512_bf16.cc). A third struct, Bfloat, is Float again where there is no
// instruction for dot products of bfloat16; see isa/avx512_bf16.cc.
#ifndef MYLINEAR_KERNELS_SIMD_H_
#define MYLINEAR_KERNELS_SIMD_H_

#include <cstddef>

#include "kernels/half.h"

namespace mylinear::kernels {

// How rows of X are held and elements multiplied: as the type of the sums, kLanes a vector. An ISA's Bfloat
// may have an instruction for dot products; then both are multiplied as they are stored, kStep a vector.
struct NoDot {
  static constexpr bool kHasDot = false;
  static constexpr bool kHasPanels = false;
  static constexpr bool kHasTurned = false;
  static constexpr bool kHasScale = false;
  static constexpr bool kFoldsLanes = false;
};
template <class Simd, bool kHasDot = Simd::kHasDot>
struct Operands {
  using Held = typename Simd::Scalar;
  using Operand = typename Simd::Vec;
  static constexpr size_t kStep = Simd::kLanes;
};
template <class Simd>
struct Operands<Simd, true> : Simd {};

static constexpr size_t min(size_t a, size_t b) { return a < b ? a : b; }
static constexpr size_t divide_up(size_t a, size_t b) { return a / b + (a % b != 0); }

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

// load_partial for an ISA or a type without such a load: the usual load, from a copy.
template <class Vector, class S>
static typename Vector::Vec load_copied(const S* from, size_t count) {
  S full[Vector::kLanes] = {};
  for (size_t i = 0; i < count; ++i) __builtin_memcpy(full + i, from + i, sizeof(S));
  return Vector::load(full);
}

// Stores the first `count` lanes, rounded once each.
template <class Simd, class S>
static inline void store_partial(S* to, const typename Simd::Vec& value, size_t count) {
  S full[Simd::kLanes];
  Simd::store(full, value);
  __builtin_memcpy(to, full, count * sizeof(S));
}

// The types and loads for rows of X and W, by the vectors that multiply them: the same for all storage types
// whose sums have these vectors.
template <class Vectors>
struct Products {
  using Simd = Vectors;
  using T = typename Simd::Scalar;  // of the sums
  using Vec = typename Simd::Vec;
  using Held = typename Operands<Simd>::Held;
  using Operand = typename Operands<Simd>::Operand;

  static constexpr size_t kLanes = Simd::kLanes;
  static constexpr size_t kStep = Operands<Simd>::kStep;
  static constexpr size_t kNr = 4;  // rows of W that the micro-kernel takes at a time

  // x + kAbsent is x for every x, -0.0 included.
  static constexpr T kAbsent[kNr] = {-T{0}, -T{0}, -T{0}, -T{0}};

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

  static size_t round_up(size_t a) { return divide_up(a, kStep) * kStep; }
};

// The same for elements stored as S, which are held as they are multiplied.
template <class Tag, class S>
struct Elements : Products<typename SimdOf<Tag, S>::type> {
  using Base = Products<typename SimdOf<Tag, S>::type>;
  using Base::kLanes;
  using Base::kStep;
  using Base::load;
  using Base::load_partial;
  using typename Base::Held;
  using typename Base::Operand;
  using typename Base::Simd;
  using typename Base::T;

  static constexpr bool kConverts = sizeof(S) != sizeof(T);

  // Writes `count` elements in the type that they are multiplied in, then zeros up to a whole vector.
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
};

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_SIMD_H_
