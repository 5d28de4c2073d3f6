// Layer: contract. The shape rule of ort_ops/contract.py on numbers, with the same messages.
#ifndef MYLINEAR_SHAPE_CHECK_H_
#define MYLINEAR_SHAPE_CHECK_H_

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace mylinear {

// A shape or type breaks the contract; the message is the contract's.
class ContractError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A view of dimensions that somebody else owns; null `data` with rank 0 is the shape of a scalar.
struct Shape {
  const int64_t* data = nullptr;
  size_t rank = 0;
};

// The sizes of one call: Y [M, N], a sum of K terms each.
struct GemmSizes {
  size_t M = 0;
  size_t N = 0;
  size_t K = 0;
};

// `NAME: <argument> must be <rule>, got <value>[; hint]`.
std::string message(const char* argument, const std::string& rule, const std::string& got,
                    const char* hint = "");

// `[2, 3]`.
std::string format_shape(const Shape& shape);

// Throws ContractError if what is known of the shapes breaks the contract; null for an unknown or absent one.
void check_shapes(const Shape* x, const Shape* weight, const Shape* bias);

// M, N and K of checked shapes. Throws ContractError if Y would have 2^63 bytes or more.
GemmSizes gemm_sizes(const Shape& x, const Shape& weight, size_t element_size);

}  // namespace mylinear

#endif  // MYLINEAR_SHAPE_CHECK_H_
