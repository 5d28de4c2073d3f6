// Layer: operator MYLINEAR. Its definition in ort_ops, for C++; a test fails if the two differ.
//
// onnxruntime keeps one schema for a name in a custom domain, and of two versions it takes the one that was
// added first for both. Version 2 has all that version 1 has, so one op serves models of either.
#ifndef MYLINEAR_OPERATORS_MYLINEAR_CONTRACT_H_
#define MYLINEAR_OPERATORS_MYLINEAR_CONTRACT_H_

#include "kernels/gemm.h"
#include "ort/shape_inference.h"

namespace mylinear::my_linear {

// What the ops for all providers have in common.
struct Contract {
  static constexpr char kDomain[] = "mylinear";
  static constexpr char kName[] = "MYLINEAR";
  static constexpr int kSinceVersion = 1;
  static constexpr int kEndVersion = 1000;

  // In the order of kernels::ElementType.
  static constexpr ort::TypeVariable kTypes[] = {
      {"T", {ort::kFloat64, ort::kFloat32, ort::kFloat16, ort::kBfloat16}},
      {"TW", {ort::kFloat64, ort::kFloat32, ort::kFloat16, ort::kBfloat16}}};
  static constexpr ort::ElementType kOverloads[][2] = {
      {ort::kFloat64, ort::kFloat64},  {ort::kFloat32, ort::kFloat32}, {ort::kFloat32, ort::kFloat16},
      {ort::kFloat32, ort::kBfloat16}, {ort::kFloat16, ort::kFloat16}, {ort::kBfloat16, ort::kBfloat16}};
  static constexpr ort::Parameter kInputs[] = {
      {"X", "T", false, "x"}, {"W", "TW", false, "weight"}, {"B", "T", ort::kOptional, "bias"}};
  static constexpr ort::Parameter kOutputs[] = {{"Y", "T", false, "y"}};
  static constexpr ort::Attribute kAttributes[] = {
      ort::string_attribute("activation", kernels::kActivationNames[0])};

  static void infer_shapes(const ort::ShapeInference& shapes);
};

// The inputs of a node, in order.
inline constexpr size_t kX = 0;
inline constexpr size_t kWeight = 1;
inline constexpr size_t kBias = 2;

// The kernels' name for the element type of an op.
constexpr kernels::ElementType kernel_type(ort::ElementType type) {
  int index = 0;
  while (Contract::kTypes[0].types[index] != type) ++index;
  return static_cast<kernels::ElementType>(index);
}

}  // namespace mylinear::my_linear

#endif  // MYLINEAR_OPERATORS_MYLINEAR_CONTRACT_H_
