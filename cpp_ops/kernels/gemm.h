// Layer: kernel API. The product that the ORT-facing code and the tests call; nothing in this room includes
// onnxruntime.
//
//   Y = X W^T + B      X [M, K], W [N, K], B [N] or absent, Y [M, N]; all row-major and dense
//
// Float16 and Bfloat16 are summed in float and rounded once, to nearest even. Any of M, N, K may be 0.
#ifndef MYLINEAR_KERNELS_GEMM_H_
#define MYLINEAR_KERNELS_GEMM_H_

#include <cstddef>

#include "kernels/half.h"
#include "kernels/isa/isa.h"

namespace mylinear::kernels {

// In the order of every table of kernels, and of the operators that call it.
enum class ElementType : int { kFloat64, kFloat32, kFloat16, kBfloat16 };
inline constexpr int kNumElementTypes = 4;
inline constexpr const char* kElementTypeNames[kNumElementTypes] = {"float64", "float32", "float16",
                                                                    "bfloat16"};
inline constexpr size_t kElementSizes[kNumElementTypes] = {8, 4, 2, 2};

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
};

// One row of the kernel table. All functions are thread-safe, allocate nothing and throw nothing.
//
// The work is cut into `num_tiles(p)` tiles of the output. Tiles may run in any order and on any threads: an
// element of Y belongs to one tile, and its sum runs over K in an order that depends on K alone. So the
// bits are the same for every number of threads, and for a row of X whatever the other rows are.
struct GemmKernel {
  const char* isa;
  ElementType type;
  int mr;     // rows of X that the micro-kernel takes at a time
  int lanes;  // elements of K that it takes at a time
  size_t (*num_tiles)(const GemmParams& params);
  // Computes the tiles in [first, last).
  void (*run)(const GemmParams& params, size_t first, size_t last);
  // Whether an instruction for dot products gives the same results as FMAs for these `count` weights. Null
  // for a kernel that has no such instruction.
  bool (*can_dot)(const void* w, size_t count);
};

// The kernels for an ISA: kNumElementTypes of them, by ElementType.
const GemmKernel* gemm_kernels(const Isa& isa);

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_GEMM_H_
