// Layer: ORT op. What register.cc needs of the operator, and what the CUDA op shares with it.
#ifndef MYLINEAR_MYLINEAR_OP_H_
#define MYLINEAR_MYLINEAR_OP_H_

#include "kernels/gemm.h"
#include "ort_abi.h"
#include "ort_tensor.h"

namespace mylinear {

// MYLINEAR for one element type. ORT holds a pointer to it for as long as a session lives, so it is never
// freed.
struct MyLinearOp : abi::OrtCustomOp {
  Runtime runtime;
  const kernels::GemmKernel* kernel;
};

// Throws ContractError if the node has an attribute that would change what is computed.
void check_attributes(const abi::OrtApi* api, const abi::OrtKernelInfo* info);

// The inputs of a node, in order.
inline constexpr size_t kX = 0;
inline constexpr size_t kWeight = 1;
inline constexpr size_t kBias = 2;

// Reads input `index` if it is a constant, whose memory then lives as long as the session.
bool read_constant(const MyLinearOp& op, const abi::OrtKernelInfo* info, size_t index, const char* argument,
                   TensorView* out);

// Reads an input of this call; false if it is an absent optional one.
bool read_input(const MyLinearOp& op, const abi::OrtKernelContext* context, size_t index,
                const char* argument, TensorView* out);

// Asks for Y: the shape of `x`, with out_features of `weight` for the last dimension.
abi::OrtValue* make_output(const abi::OrtApi* api, abi::OrtKernelContext* context, const TensorView& x,
                           const TensorView& weight);

// Fills in `op`; the kernels of sessions made from it will run on `isa`.
void init_op(MyLinearOp* op, const Runtime& runtime, const kernels::Isa& isa, kernels::ElementType type);

}  // namespace mylinear

#endif  // MYLINEAR_MYLINEAR_OP_H_
