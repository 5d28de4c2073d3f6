// Layer: kernel API. The product that the ORT-facing code and the tests call; nothing in this room includes
// onnxruntime.
//
//   Y = activation(X W^T + B)      X [M, K], W [N, K], B [N] or absent, Y [M, N]; all row-major and dense
//
// Float16 and Bfloat16 are summed in float, and the activation takes the sum as it is; both are rounded once,
// to nearest even. Where X, B and Y are float, W may be Float16 or Bfloat16: the sums are those of W widened
// to float, to the bit. Any of M, N, K may be 0.
#ifndef MYLINEAR_KERNELS_GEMM_H_
#define MYLINEAR_KERNELS_GEMM_H_

#include <cstddef>
#include <cstdint>

#include "kernels/activation/activation.h"
#include "kernels/half.h"
#include "kernels/isa/isa.h"

namespace mylinear::kernels {

// In the order of every table of kernels, and of the operators that call it.
enum class ElementType : int { kFloat64, kFloat32, kFloat16, kBfloat16 };
inline constexpr int kNumElementTypes = 4;
inline constexpr const char* kElementTypeNames[kNumElementTypes] = {"float64", "float32", "float16",
                                                                    "bfloat16"};
inline constexpr size_t kElementSizes[kNumElementTypes] = {8, 4, 2, 2};

// Always; where has_large_l1(); never.
enum class Turning : int { kAlways, kLargeL1, kNever };

// One call. Nothing need be aligned: external data may lie at any offset of a file. y overlaps no input. The
// kernel keeps nothing after the call.
struct GemmParams {
  size_t M;
  size_t N;
  size_t K;
  const void* x;
  const void* w;
  const void* bias;  // null if absent
  void* y;
  // Whether w is more likely in a cache than in memory: a hint for prefetching, which changes no bit of y.
  bool is_near = false;
  // Whether the kernel's can_dot is true for w, which saves a check: another hint that changes no bit of y.
  bool w_can_dot = false;
  Activation activation = Activation::kNone;
  // When to turn X or W round where rows are many (turned/panels.h), or to widen W first where they are fewer
  // (wide_panels.h): one more hint that changes no bit of y.
  Turning turning = Turning::kLargeL1;
  // A number that no other call in this process has, or 0: tiles of one call that run on one thread share
  // what they make of X and W, and what they find out about X (dots.h).
  uint64_t call = 0;

  bool turns() const {
    return turning == Turning::kAlways || (turning == Turning::kLargeL1 && has_large_l1());
  }
};

// One row of the kernel table. All functions are thread-safe and throw nothing; they allocate nothing but a
// thread's own memory, once (turned/scratch.h).
//
// The work is cut into `num_tiles(p)` tiles of the output. Tiles may run in any order and on any threads: an
// element of Y belongs to one tile, and its sum runs over K in an order that depends on K alone. So the
// bits are the same for every number of threads, and for a row of X whatever the other rows are.
struct GemmKernel {
  const char* isa;
  ElementType type;         // of x, bias and y
  ElementType weight_type;  // of w
  int mr;                   // rows of X that the micro-kernel takes at a time
  int lanes;                // elements of K that it takes at a time
  size_t (*num_tiles)(const GemmParams& params);
  // Computes the tiles in [first, last).
  void (*run)(const GemmParams& params, size_t first, size_t last);
  // Whether an instruction for dot products gives the same results as FMAs for these `count` weights. Null
  // for a kernel that has no such instruction.
  bool (*can_dot)(const void* w, size_t count);
};

// The kernels for an ISA: one by ElementType where all is of one type, then those of float with W in 16 bits.
inline constexpr int kNumGemmKernels = kNumElementTypes + 2;
const GemmKernel* gemm_kernels(const Isa& isa);

// The place of a kernel in that table, or -1 if there is none for these types.
constexpr int gemm_kernel_index(ElementType type, ElementType weight_type) {
  if (type == weight_type) return static_cast<int>(type);
  if (type != ElementType::kFloat32 || weight_type == ElementType::kFloat64) return -1;
  return kNumElementTypes + (weight_type == ElementType::kBfloat16);
}

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_GEMM_H_
