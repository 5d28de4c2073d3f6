// Layer: kernels. The step of adam.h as a template over an ISA and an element type. The compiler makes
// vectors of it: there is nothing in it but loops over blocks that overlap nothing.
#ifndef MYLINEAR_KERNELS_ADAM_ADAM_LOOP_H_
#define MYLINEAR_KERNELS_ADAM_ADAM_LOOP_H_

#include "kernels/adam/adam_list.h"

namespace mylinear::kernels {

template <class Tag, class T>
struct AdamLoop {
  static constexpr size_t kBlock = 256;  // elements: seven blocks stay in the L1 cache

  static T root_of(T x) {
    if constexpr (sizeof(T) == sizeof(float)) {
      return __builtin_sqrtf(x);
    } else {
      return __builtin_sqrt(x);
    }
  }

  static void run(const AdamParams& params, size_t first, size_t last) {
    const AdamScalars& given = params.scalars;
    const T keep = static_cast<T>(given.keep), weight1 = static_cast<T>(given.weight1),
            keep2 = static_cast<T>(given.keep2), weight2 = static_cast<T>(given.weight2),
            root = static_cast<T>(given.root), eps = static_cast<T>(given.eps),
            step_size = static_cast<T>(given.step_size);
    // Copies, because the outputs may be the inputs' own memory, which would keep the compiler from vectors.
    T p[kBlock], g[kBlock], m[kBlock], v[kBlock];
    for (size_t begin = first; begin < last; begin += kBlock) {
      const size_t count = last - begin < kBlock ? last - begin : kBlock;
      const size_t nbytes = count * sizeof(T);
      __builtin_memcpy(p, static_cast<const T*>(params.p) + begin, nbytes);
      __builtin_memcpy(g, static_cast<const T*>(params.g) + begin, nbytes);
      __builtin_memcpy(m, static_cast<const T*>(params.m) + begin, nbytes);
      __builtin_memcpy(v, static_cast<const T*>(params.v) + begin, nbytes);
      for (size_t i = 0; i < count; ++i) {
        const T next_m = m[i] + weight1 * (g[i] - m[i]);
        const T next_v = v[i] * keep2 + weight2 * g[i] * g[i];
        const T denominator = root_of(next_v) / root + eps;
        p[i] = p[i] * keep + step_size * next_m / denominator;
        m[i] = next_m;
        v[i] = next_v;
      }
      __builtin_memcpy(static_cast<T*>(params.next_p) + begin, p, nbytes);
      __builtin_memcpy(static_cast<T*>(params.next_m) + begin, m, nbytes);
      __builtin_memcpy(static_cast<T*>(params.next_v) + begin, v, nbytes);
    }
  }
};

// Defines the table of adam_list.h for the tag of a unit.
#define MYLINEAR_DEFINE_ADAM_KERNELS(isa, Tag)                \
  const AdamKernel isa##_adam_kernels[kNumAdamTypes] = {      \
      {#isa, AdamType::kFloat64, AdamLoop<Tag, double>::run}, \
      {#isa, AdamType::kFloat32, AdamLoop<Tag, float>::run},  \
  };

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_ADAM_ADAM_LOOP_H_
