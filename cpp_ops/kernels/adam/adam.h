// Layer: kernel API. One step of Adam with decoupled weight decay, element by element; no onnxruntime here.
//
//   m' = m + weight1 (g - m)
//   v' = v keep2 + weight2 g g
//   p' = p keep + step_size m' / (sqrt(v') / root + eps)
//
// Each operation is rounded once, in this order, without fused multiply-add: the bits are those of torch's
// kernels, on every ISA.
#ifndef MYLINEAR_KERNELS_ADAM_ADAM_H_
#define MYLINEAR_KERNELS_ADAM_ADAM_H_

#include <cstddef>

#include "kernels/isa/isa.h"

namespace mylinear::kernels {

// What all elements share; computed in double, and rounded to their type by the kernel.
struct AdamScalars {
  double keep;
  double weight1;
  double keep2;
  double weight2;
  double root;
  double eps;
  double step_size;
};

// Nothing need be aligned. An output may be the memory of the input of the same letter, or else overlaps
// none.
struct AdamParams {
  AdamScalars scalars;
  const void* p;
  const void* g;
  const void* m;
  const void* v;
  void* next_p;
  void* next_m;
  void* next_v;
};

enum class AdamType { kFloat64, kFloat32 };
inline constexpr int kNumAdamTypes = 2;

// One row of the table for an ISA. Thread-safe; allocates nothing and throws nothing.
struct AdamKernel {
  const char* isa;
  AdamType type;
  // Computes the elements in [first, last).
  void (*run)(const AdamParams& params, size_t first, size_t last);
};

// The kernels for an ISA: kNumAdamTypes of them, by AdamType.
const AdamKernel* adam_kernels(const Isa& isa);

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_ADAM_ADAM_H_
