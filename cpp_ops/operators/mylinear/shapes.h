// Layer: operator MYLINEAR. The shape rule of the Python contract on numbers, with the same messages, and
// what the kernels for all providers do with inputs and output.
#ifndef MYLINEAR_OPERATORS_MYLINEAR_SHAPES_H_
#define MYLINEAR_OPERATORS_MYLINEAR_SHAPES_H_

#include "operators/mylinear/contract.h"
#include "ort/call.h"

namespace mylinear::my_linear {

// The sizes of one call: Y [M, N], a sum of K terms each.
struct GemmSizes {
  size_t M = 0;
  size_t N = 0;
  size_t K = 0;
};

// Throws ContractError if the known shapes break the contract; null for an unknown or absent one.
void check_shapes(const ort::Shape* x, const ort::Shape* weight, const ort::Shape* bias);

// M, N and K of checked shapes. Throws ContractError if Y would have 2^63 bytes or more.
GemmSizes gemm_sizes(const ort::Shape& x, const ort::Shape& weight, size_t element_size);

// Allocates Y: the shape of `x`, with out_features of `weight` for the last dimension.
ort::Output make_y(const ort::Call& call, const ort::Shape& x, const ort::Shape& weight);

// Reads the activation of a node. Throws ContractError if it is unknown, or if the node has another attribute
// that would change the result.
kernels::Activation read_attributes(const ort::KernelInfo& info);

}  // namespace mylinear::my_linear

#endif  // MYLINEAR_OPERATORS_MYLINEAR_SHAPES_H_
