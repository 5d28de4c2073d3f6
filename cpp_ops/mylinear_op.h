// Layer: ORT op. What register.cc needs of the operator.
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

// Fills in `op`; the kernels of sessions made from it will run on `isa`.
void init_op(MyLinearOp* op, const Runtime& runtime, const kernels::Isa& isa, kernels::ElementType type);

}  // namespace mylinear

#endif  // MYLINEAR_MYLINEAR_OP_H_
