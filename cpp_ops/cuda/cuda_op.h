// Layer: ORT op. MYLINEAR for the nodes that onnxruntime gives to its CUDA provider.
#ifndef MYLINEAR_CUDA_CUDA_OP_H_
#define MYLINEAR_CUDA_CUDA_OP_H_

#include "cuda/backend.h"
#include "mylinear_op.h"

namespace mylinear {

// The CPU's op with another provider and other kernels: name, types and shape inference are the same.
struct CudaOp : MyLinearOp {
  const cuda::Backend* backend;
};

// Fills in `op`, like init_op; the kernels of sessions made from it call `backend`.
void init_cuda_op(CudaOp* op, const Runtime& runtime, const kernels::Isa& isa, kernels::ElementType type,
                  const cuda::Backend& backend);

}  // namespace mylinear

#endif  // MYLINEAR_CUDA_CUDA_OP_H_
