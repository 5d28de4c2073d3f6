// Layer: operator MYLINEARGRAD. Its kernel for the nodes that onnxruntime gives to its CUDA provider: reads
// inputs, checks shapes, and hands device pointers and onnxruntime's stream to the CUDA backend. Includes no
// CUDA.
#ifndef MYLINEAR_OPERATORS_MYLINEARGRAD_CUDA_OP_H_
#define MYLINEAR_OPERATORS_MYLINEARGRAD_CUDA_OP_H_

#include "cuda/backend.h"
#include "operators/mylineargrad/contract.h"
#include "ort/cuda_call.h"

namespace mylinear::my_linear_grad {

// One node of one session. `compute` may run on any number of threads at once: it changes no member.
class CudaKernel {
 public:
  CudaKernel(const ort::KernelInfo& info, const cuda::Backend* backend);
  void compute(const ort::Call& call) const;

 private:
  // Queues one piece of `work`, whose Y is `output`.
  void run(const ort::Call& call, const ort::Output& output, cuda::Call work) const;

  const cuda::Backend& backend_;
  kernels::ElementType type_;
  ort::CudaAllocator allocator_;
};

struct CudaOp : Contract {
  static constexpr const char* kProvider = ort::kCudaProvider;
  using Kernel = CudaKernel;
  using Resources = const cuda::Backend*;
  template <class Machine>
  static bool is_offered(const Machine& machine) {
    return machine.backend != nullptr;
  }
  template <class Machine>
  static Resources resources(const Machine& machine) {
    return machine.backend;
  }
};

}  // namespace mylinear::my_linear_grad

#endif  // MYLINEAR_OPERATORS_MYLINEARGRAD_CUDA_OP_H_
