// Layer: operator MYLINEAR. See shapes.h.
#include "operators/mylinear/shapes.h"

#include <string>

namespace mylinear::my_linear {
namespace {

using ort::ContractError;
using ort::format_shape;
using ort::Shape;

std::string to_text(int64_t value) { return std::to_string(value); }

ContractError refusal(const char* argument, const std::string& rule, const std::string& got,
                      const char* hint = "") {
  return ContractError(ort::message(Contract::kName, argument, rule, got, hint));
}

constexpr const char* kXArgument = Contract::kInputs[kX].argument;
constexpr const char* kWeightArgument = Contract::kInputs[kWeight].argument;
constexpr const char* kBiasArgument = Contract::kInputs[kBias].argument;
constexpr const char* kYArgument = Contract::kOutputs[0].argument;

// The product, or -1 where it is 2^63 or more. No factor is negative.
int64_t checked_product(int64_t a, int64_t b) {
  int64_t product;
  return __builtin_mul_overflow(a, b, &product) ? -1 : product;
}

}  // namespace

void check_shapes(const Shape* x, const Shape* weight, const Shape* bias) {
  if (x && x->rank == 0) throw refusal(kXArgument, "[..., in_features] with rank 1 or more", "[]");
  if (weight && weight->rank != 2) {
    throw refusal(kWeightArgument, "[out_features, in_features]", format_shape(*weight));
  }
  if (x && weight) {
    const int64_t in_features = x->data[x->rank - 1];
    if (in_features != weight->data[1]) {
      const std::string size = to_text(in_features);
      const std::string rule = "[out_features, " + size + "] (x has in_features " + size + ")";
      const char* hint = weight->data[0] == in_features ? "is it transposed?" : "";
      throw refusal(kWeightArgument, rule, format_shape(*weight), hint);
    }
  }
  if (bias && (bias->rank != 1 || (weight && bias->data[0] != weight->data[0]))) {
    std::string rule = "[out_features]";
    if (weight) {
      const std::string size = to_text(weight->data[0]);
      rule = "[" + size + "] (weight has out_features " + size + ")";
    }
    throw refusal(kBiasArgument, rule, format_shape(*bias));
  }
}

GemmSizes gemm_sizes(const Shape& x, const Shape& weight, size_t element_size) {
  const int64_t N = weight.data[0];
  const int64_t K = weight.data[1];
  int64_t M = 1;
  bool is_empty = N == 0;
  for (size_t i = 0; i + 1 < x.rank; ++i) is_empty = is_empty || x.data[i] == 0;
  // An empty Y is fine whatever its other dimensions are, as it is for any tensor.
  if (is_empty) return {0, 0, static_cast<size_t>(K)};
  for (size_t i = 0; i + 1 < x.rank && M >= 0; ++i) M = checked_product(M, x.data[i]);
  int64_t nbytes = M < 0 ? -1 : checked_product(M, N);
  if (nbytes >= 0) nbytes = checked_product(nbytes, static_cast<int64_t>(element_size));
  if (nbytes < 0) {
    std::string got = "[";
    for (size_t i = 0; i + 1 < x.rank; ++i) got += to_text(x.data[i]) + ", ";
    throw refusal(kYArgument, "smaller than 2^63 bytes", got + to_text(N) + "]");
  }
  return {static_cast<size_t>(M), static_cast<size_t>(N), static_cast<size_t>(K)};
}

ort::Output make_y(const ort::Call& call, const Shape& x, const Shape& weight) {
  ort::DimBuffer y_dims;
  int64_t* dims = y_dims.resize(x.rank);
  for (size_t i = 0; i + 1 < x.rank; ++i) dims[i] = x.data[i];
  dims[x.rank - 1] = weight.data[0];
  return call.make_output(0, {dims, x.rank});
}

// The ABI cannot list the attributes of a node; these are the ones that a node made from a Gemm could carry
// over, and that would change the result.
kernels::Activation read_attributes(const ort::KernelInfo& info) {
  std::string present;
  for (const char* name : {"alpha", "beta", "transA", "transB"}) {
    if (info.attributes().kind_of(name) == ort::AttributeKind::kAbsent) continue;
    present += (present.empty() ? "" : ", ") + std::string(name);
  }
  const char* attribute = Contract::kAttributes[0].name;
  if (!present.empty()) throw refusal("the attributes", std::string("among ") + attribute, present);
  const std::string name = info.attributes().get_string(attribute);
  std::string known;
  for (int i = 0; i < kernels::kNumActivations; ++i) {
    if (name == kernels::kActivationNames[i]) return static_cast<kernels::Activation>(i);
    known += (i == 0                             ? ""
              : i + 1 < kernels::kNumActivations ? ", "
                                                 : " or ") +
             std::string(kernels::kActivationNames[i]);
  }
  throw refusal((std::string("attribute ") + attribute).c_str(), known, name);
}

// Y has the type of X and its shape, with the last dimension replaced by out_features, from W or else from B.
// Contradictions are left to the kernel, because onnxruntime drops an error from here.
void Contract::infer_shapes(const ort::ShapeInference& shapes) {
  ort::InferredShape y;
  shapes.read_input(kX, &y);
  if (y.rank == 0 || shapes.num_inputs() <= kWeight) return;
  const size_t last = y.rank - 1;
  y.dims[last] = -1;
  y.names[last] = "";
  ort::InferredShape input;
  for (size_t index = kWeight; index < shapes.num_inputs(); ++index) {
    shapes.read_input(index, &input);
    if (input.rank != (index == kWeight ? 2u : 1u) || !input.is_known(0)) continue;
    y.dims[last] = input.dims[0];
    y.names[last] = input.names[0];
    break;
  }
  shapes.set_output(0, y);
}

}  // namespace mylinear::my_linear
