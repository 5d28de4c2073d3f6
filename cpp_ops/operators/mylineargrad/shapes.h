// Layer: operator MYLINEARGRAD. The shape rule of the Python contract on numbers, with the same messages, and
// what the kernels for all providers do with inputs and outputs.
#ifndef MYLINEAR_OPERATORS_MYLINEARGRAD_SHAPES_H_
#define MYLINEAR_OPERATORS_MYLINEARGRAD_SHAPES_H_

#include "operators/mylineargrad/contract.h"
#include "ort/call.h"

namespace mylinear::my_linear_grad {

// The inputs of one call: G [M, N], X [M, K], W [N, K], where M stands for all leading dimensions.
struct Inputs {
  ort::TensorView grad;
  ort::TensorView x;
  ort::TensorView weight;
  size_t M = 0;
  size_t N = 0;
  size_t K = 0;
};

// What a node asks for; null where it does not.
struct Outputs {
  ort::Output grad_x;
  ort::Output grad_weight;
  ort::Output grad_bias;
};

// Throws ContractError if the node has an attribute that would change the result, or a constant weight of
// another rank than 2.
void check_node(const ort::KernelInfo& info);

// Reads the inputs. Throws ContractError if they break the contract.
void read_inputs(const ort::Call& call, Inputs* inputs);

// Allocates the outputs that the node has. Throws ContractError if one would have 2^63 bytes or more.
Outputs make_outputs(const ort::Call& call, const Inputs& inputs);

}  // namespace mylinear::my_linear_grad

#endif  // MYLINEAR_OPERATORS_MYLINEARGRAD_SHAPES_H_
