// Layer: operator ADAMSTEP. Its definition in ort_ops, for C++; a test fails if the two differ.
#ifndef MYLINEAR_OPERATORS_ADAMSTEP_CONTRACT_H_
#define MYLINEAR_OPERATORS_ADAMSTEP_CONTRACT_H_

#include "ort/operator.h"
#include "ort/shape_inference.h"

namespace mylinear::adam_step {

// The inputs and the outputs of a node, in order. The first four have one shape, the others are scalars.
enum : size_t { kP, kG, kM, kV, kStep, kLr, kBeta1, kBeta2, kEps, kDecay, kNumInputs };
enum : size_t { kNextP, kNextM, kNextV, kNumOutputs };

struct Contract {
  static constexpr char kDomain[] = "mylinear";
  static constexpr char kName[] = "ADAMSTEP";
  static constexpr int kSinceVersion = 1;

  static constexpr ort::TypeVariable kTypes[] = {
      {"T", {ort::kFloat64, ort::kFloat32}}, {"I", {ort::kInt64}}, {"D", {ort::kFloat64}}};
  static constexpr ort::Parameter kInputs[] = {
      {"P", "T", false, "parameter"},       {"G", "T", false, "grad"},      {"M", "T", false, "exp_avg"},
      {"V", "T", false, "exp_avg_sq"},      {"STEP", "I", false, "step"},   {"LR", "D", false, "lr"},
      {"BETA1", "D", false, "beta1"},       {"BETA2", "D", false, "beta2"}, {"EPS", "D", false, "eps"},
      {"DECAY", "D", false, "weight_decay"}};
  static constexpr ort::Parameter kOutputs[] = {{"PN", "T", false, "next_parameter"},
                                                {"MN", "T", false, "next_exp_avg"},
                                                {"VN", "T", false, "next_exp_avg_sq"}};

  // The shapes that are known when a model is loaded.
  static void infer_shapes(const ort::ShapeInference& shapes) {
    ort::InferredShape shape;
    shapes.read_input(kP, &shape);
    for (size_t output = 0; output < kNumOutputs; ++output) shapes.set_output(output, shape);
  }
};

}  // namespace mylinear::adam_step

#endif  // MYLINEAR_OPERATORS_ADAMSTEP_CONTRACT_H_
