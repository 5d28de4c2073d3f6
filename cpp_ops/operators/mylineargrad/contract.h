// Layer: operator MYLINEARGRAD. Its definition in ort_ops, for C++; a test fails if the two differ.
#ifndef MYLINEAR_OPERATORS_MYLINEARGRAD_CONTRACT_H_
#define MYLINEAR_OPERATORS_MYLINEARGRAD_CONTRACT_H_

#include "kernels/gemm.h"
#include "ort/operator.h"

namespace mylinear::my_linear_grad {

// What the ops for all providers have in common. There is no shape rule: onnxruntime does not tell which of
// the optional outputs a node has; see ShapeInference::set_output.
struct Contract {
  static constexpr char kDomain[] = "mylinear";
  static constexpr char kName[] = "MYLINEARGRAD";
  static constexpr int kSinceVersion = 1;

  // In the order of kernels::ElementType.
  static constexpr ort::TypeVariable kTypes[] = {
      {"T", {ort::kFloat64, ort::kFloat32, ort::kFloat16, ort::kBfloat16}}};
  static constexpr ort::Parameter kInputs[] = {
      {"G", "T", false, "grad"}, {"X", "T", false, "x"}, {"W", "T", false, "weight"}};
  static constexpr ort::Parameter kOutputs[] = {{"GX", "T", ort::kOptional, "grad_x"},
                                                {"GW", "T", ort::kOptional, "grad_weight"},
                                                {"GB", "T", ort::kOptional, "grad_bias"}};
};

// The inputs and the outputs of a node, in order.
inline constexpr size_t kGrad = 0;
inline constexpr size_t kX = 1;
inline constexpr size_t kWeight = 2;
inline constexpr size_t kGradX = 0;
inline constexpr size_t kGradWeight = 1;
inline constexpr size_t kGradBias = 2;

// The kernels' name for the element type of an op.
constexpr kernels::ElementType kernel_type(ort::ElementType type) {
  int index = 0;
  while (Contract::kTypes[0].types[index] != type) ++index;
  return static_cast<kernels::ElementType>(index);
}

}  // namespace mylinear::my_linear_grad

#endif  // MYLINEAR_OPERATORS_MYLINEARGRAD_CONTRACT_H_
