// Layer: contract. See shape_check.h.
#include "shape_check.h"

#include "contract.h"

namespace mylinear {
namespace {

std::string to_text(int64_t value) { return std::to_string(value); }

// The product, or -1 where it is 2^63 or more. No factor is negative.
int64_t checked_product(int64_t a, int64_t b) {
  int64_t product;
  return __builtin_mul_overflow(a, b, &product) ? -1 : product;
}

}  // namespace

std::string message(const char* argument, const std::string& rule, const std::string& got, const char* hint) {
  std::string text = std::string(contract::kName) + ": " + argument + " must be " + rule + ", got " + got;
  if (*hint) text = text + "; " + hint;
  return text;
}

std::string format_shape(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.rank; ++i) {
    if (i) text += ", ";
    text += to_text(shape.data[i]);
  }
  return text + "]";
}

void check_shapes(const Shape* x, const Shape* weight, const Shape* bias) {
  if (x && x->rank == 0) {
    throw ContractError(message(contract::kX, "[..., in_features] with rank 1 or more", "[]"));
  }
  if (weight && weight->rank != 2) {
    throw ContractError(message(contract::kWeight, "[out_features, in_features]", format_shape(*weight)));
  }
  if (x && weight) {
    const int64_t in_features = x->data[x->rank - 1];
    if (in_features != weight->data[1]) {
      const std::string size = to_text(in_features);
      const std::string rule = "[out_features, " + size + "] (x has in_features " + size + ")";
      const char* hint = weight->data[0] == in_features ? "is it transposed?" : "";
      throw ContractError(message(contract::kWeight, rule, format_shape(*weight), hint));
    }
  }
  if (bias && (bias->rank != 1 || (weight && bias->data[0] != weight->data[0]))) {
    std::string rule = "[out_features]";
    if (weight) {
      const std::string size = to_text(weight->data[0]);
      rule = "[" + size + "] (weight has out_features " + size + ")";
    }
    throw ContractError(message(contract::kBias, rule, format_shape(*bias)));
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
    throw ContractError(message(contract::kY, "smaller than 2^63 bytes", got + to_text(N) + "]"));
  }
  return {static_cast<size_t>(M), static_cast<size_t>(N), static_cast<size_t>(K)};
}

}  // namespace mylinear
