// Layer: kernels. The ISA that is always there: 16-byte vectors in the compiler's own notation, which are
// SSE2 on x86-64 and NEON on arm64, with float16 and bfloat16 converted in software.
#include "kernels/activation/rows.h"
#include "kernels/adam/adam_loop.h"
#include "kernels/gemm_list.h"
#include "kernels/gemm_tiles.h"
#include "kernels/half.h"
#include "kernels/matmul/matmul_list.h"
#include "kernels/matmul/tables.h"

namespace mylinear::kernels {
namespace {

template <class T>
struct Vector : NoDot {
  using Scalar = T;
  typedef T Vec __attribute__((vector_size(16)));
  static constexpr size_t kLanes = 16 / sizeof(T);

  static Vec zero() { return Vec{}; }
  static Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
  static Vec add(Vec a, Vec b) { return a + b; }
  static void keep(Vec*) {}
  static void sum4(const Vec* v, T* out) {
    for (int j = 0; j < 4; ++j) {
      out[j] = v[j][0] + v[j][1];
      if constexpr (kLanes == 4) out[j] += v[j][2] + v[j][3];
    }
  }
  static Vec load(const T* from) {
    Vec value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
  }
  template <class S>
  static Vec load_partial(const S* from, size_t count) {
    return load_copied<Vector>(from, count);
  }
  static Vec broadcast(const T* from) {
    T value;
    __builtin_memcpy(&value, from, sizeof value);
    Vec all{};
    for (size_t i = 0; i < kLanes; ++i) all[i] = value;
    return all;
  }
  static void store(T* to, Vec value) { __builtin_memcpy(to, &value, sizeof value); }
  static void store_first(T* to, Vec value, size_t count) { store_partial<Vector>(to, value, count); }
};

struct Baseline {
  static constexpr bool kDefersSums = false;

  using Double = Vector<double>;

  struct Float : Vector<float> {
    using Vector::load;
    using Vector::store;
    template <class S>
    static Vec load(const S* from) {
      S elements[kLanes];
      __builtin_memcpy(elements, from, sizeof elements);
      Vec value{};
      for (size_t i = 0; i < kLanes; ++i) value[i] = to_float(elements[i]);
      return value;
    }
    template <class S>
    static Vec load_partial(const S* from, size_t count) {
      return load_copied<Float>(from, count);
    }
    static void store(Float16* to, Vec value) {
      Float16 elements[kLanes];
      for (size_t i = 0; i < kLanes; ++i) elements[i] = to_float16(value[i]);
      __builtin_memcpy(to, elements, sizeof elements);
    }
    static void store(Bfloat16* to, Vec value) {
      Bfloat16 elements[kLanes];
      for (size_t i = 0; i < kLanes; ++i) elements[i] = to_bfloat16(value[i]);
      __builtin_memcpy(to, elements, sizeof elements);
    }
  };
  using Bfloat = Float;
};

}  // namespace

MYLINEAR_DEFINE_KERNELS(baseline, Baseline)

MYLINEAR_DEFINE_MATMUL_KERNELS(baseline, Baseline)

MYLINEAR_DEFINE_ADAM_KERNELS(baseline, Baseline)

MYLINEAR_DEFINE_ACTIVATION_KERNELS(baseline, Baseline)

}  // namespace mylinear::kernels
