// Layer: operator MYLINEARGRAD. See shapes.h.
#include "operators/mylineargrad/shapes.h"

#include <string>

namespace mylinear::my_linear_grad {
namespace {

using ort::ContractError;
using ort::format_shape;
using ort::Shape;

ContractError refusal(const char* argument, const std::string& rule, const std::string& got,
                      const char* hint = "") {
  return ContractError(ort::message(Contract::kName, argument, rule, got, hint));
}

constexpr const char* kGradArgument = Contract::kInputs[kGrad].argument;
constexpr const char* kXArgument = Contract::kInputs[kX].argument;
constexpr const char* kWeightArgument = Contract::kInputs[kWeight].argument;
constexpr const char* kGradBiasArgument = Contract::kOutputs[kGradBias].argument;

void check_weight_rank(const Shape& weight) {
  if (weight.rank != 2) throw refusal(kWeightArgument, "[out_features, in_features]", format_shape(weight));
}

bool have_same_leading(const Shape& a, const Shape& b) {
  if (a.rank != b.rank) return false;
  for (size_t i = 0; i + 1 < a.rank; ++i) {
    if (a.data[i] != b.data[i]) return false;
  }
  return true;
}

// In the order of the Python contract, so that of several faults all report the same one.
void check_shapes(const Shape& grad, const Shape& x, const Shape& weight) {
  if (x.rank == 0) throw refusal(kXArgument, "[..., in_features] with rank 1 or more", "[]");
  if (grad.rank == 0) throw refusal(kGradArgument, "[..., out_features] with rank 1 or more", "[]");
  check_weight_rank(weight);
  const int64_t in_features = x.data[x.rank - 1], out_features = weight.data[0];
  if (in_features != weight.data[1]) {
    const std::string size = std::to_string(in_features);
    const char* hint = out_features == in_features ? "is it transposed?" : "";
    throw refusal(kWeightArgument, "[out_features, " + size + "] (x has in_features " + size + ")",
                  format_shape(weight), hint);
  }
  if (grad.data[grad.rank - 1] != out_features) {
    const std::string size = std::to_string(out_features);
    throw refusal(kGradArgument, "[..., " + size + "] (weight has out_features " + size + ")",
                  format_shape(grad));
  }
  if (!have_same_leading(grad, x)) {
    std::string rule = "[";
    for (size_t i = 0; i + 1 < x.rank; ++i) rule += std::to_string(x.data[i]) + ", ";
    rule += std::to_string(out_features) + "] (x is " + format_shape(x) + ")";
    throw refusal(kGradArgument, rule, format_shape(grad));
  }
}

}  // namespace

// Version 1 has no attribute. The ABI cannot list those of a node; these are the ones that a node made from a
// Gemm could carry over, and that would change the result.
void check_node(const ort::KernelInfo& info) {
  std::string present;
  for (const char* name : {"alpha", "beta", "transA", "transB"}) {
    if (info.attributes().kind_of(name) == ort::AttributeKind::kAbsent) continue;
    present += (present.empty() ? "" : ", ") + std::string(name);
  }
  if (!present.empty()) throw refusal("the attributes", "none", present);
  ort::TensorView weight;
  if (info.read_constant(kWeight, &weight)) check_weight_rank(weight.shape);
}

void read_inputs(const ort::Call& call, Inputs* inputs) {
  call.read_input(kGrad, &inputs->grad);
  call.read_input(kX, &inputs->x);
  call.read_input(kWeight, &inputs->weight);
  const Shape &x = inputs->x.shape, &weight = inputs->weight.shape;
  check_shapes(inputs->grad.shape, x, weight);
  inputs->N = static_cast<size_t>(weight.data[0]);
  inputs->K = static_cast<size_t>(weight.data[1]);
  // It can overflow only where G and X have no columns, and then M stands for nothing.
  size_t M = 1;
  for (size_t i = 0; i + 1 < x.rank; ++i) {
    if (__builtin_mul_overflow(M, static_cast<size_t>(x.data[i]), &M)) M = SIZE_MAX;
  }
  inputs->M = M;
}

Outputs make_outputs(const ort::Call& call, const Inputs& inputs) {
  Outputs outputs;
  outputs.grad_x = call.make_output(kGradX, inputs.x.shape);
  outputs.grad_weight = call.make_output(kGradWeight, inputs.weight.shape);
  // Only GB has the size of no input, where G and W are empty.
  const int64_t out_features = inputs.weight.shape.data[0];
  const auto element_size = static_cast<int64_t>(ort::find_element_type(inputs.grad.type)->nbytes);
  const Shape shape{&out_features, 1};
  int64_t nbytes;
  if (__builtin_mul_overflow(out_features, element_size, &nbytes)) {
    throw refusal(kGradBiasArgument, "smaller than 2^63 bytes", format_shape(shape));
  }
  outputs.grad_bias = call.make_output(kGradBias, shape);
  return outputs;
}

}  // namespace mylinear::my_linear_grad
