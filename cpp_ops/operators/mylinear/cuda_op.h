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
  ort::CudaNode<cuda::Backend, cuda::Failure, cuda::kOutOfMemory> node_;
};

// Without weights in 16 bits under float32: onnxruntime gives nodes with such to the CPU's kernel.
struct CudaOp : ort::CudaSpec<Contract, CudaKernel, cuda::Backend> {
  static constexpr ort::ElementType kOverloads[][2] = {{ort::kFloat64, ort::kFloat64},
                                                       {ort::kFloat32, ort::kFloat32},
                                                       {ort::kFloat16, ort::kFloat16},
                                                       {ort::kBfloat16, ort::kBfloat16}};
};

}  // namespace mylinear::my_linear

#endif  // MYLINEAR_OPERATORS_MYLINEAR_CUDA_OP_H_
