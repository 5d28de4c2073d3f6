// Layer: operator MYLINEAR. Its kernel for the nodes that onnxruntime gives to its CUDA provider: reads
// inputs, checks shapes, and hands device pointers and onnxruntime's stream to the CUDA backend. Includes no
// CUDA.
#ifndef MYLINEAR_OPERATORS_MYLINEAR_CUDA_OP_H_
#define MYLINEAR_OPERATORS_MYLINEAR_CUDA_OP_H_

#include "cuda/backend.h"
#include "operators/mylinear/contract.h"
#include "ort/cuda_call.h"

namespace mylinear::my_linear {

// One node of one session. `compute` may run on any number of threads at once: it changes no member.
class CudaKernel {
 public:
  CudaKernel(const ort::KernelInfo& info, const cuda::Backend* backend);
  void compute(const ort::Call& call) const;

 private:
  kernels::ElementType type_;
  kernels::ElementType weight_type_;
  kernels::Activation activation_;
  ort::CudaNode<cuda::Backend, cuda::Failure, cuda::kOutOfMemory> node_;
};

using CudaOp = ort::CudaSpec<Contract, CudaKernel, cuda::Backend>;

}  // namespace mylinear::my_linear

#endif  // MYLINEAR_OPERATORS_MYLINEAR_CUDA_OP_H_
