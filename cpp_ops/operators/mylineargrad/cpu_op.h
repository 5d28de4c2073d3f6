// Layer: operator MYLINEARGRAD. Its kernel for the CPU: reads inputs, checks shapes, allocates what the node
// asks for, and hands the numbers to kernels/.
#ifndef MYLINEAR_OPERATORS_MYLINEARGRAD_CPU_OP_H_
#define MYLINEAR_OPERATORS_MYLINEARGRAD_CPU_OP_H_

#include "kernels/matmul/matmul.h"
#include "operators/mylineargrad/contract.h"
#include "ort/call.h"
#include "ort/chunks.h"

namespace mylinear::my_linear_grad {

// The tables for an ISA, each by element type.
struct CpuKernels {
  const kernels::MatmulKernel* matmul;
  const kernels::RowSumKernel* row_sum;
};

// One node of one session. `compute` may run on any number of threads at once: it changes no member.
class CpuKernel {
 public:
  CpuKernel(const ort::KernelInfo& info, const CpuKernels& kernels);
  void compute(const ort::Call& call) const;

 private:
  const kernels::MatmulKernel& matmul_;
  const kernels::RowSumKernel& row_sum_;
  ort::Chunks chunks_;
};

struct CpuOp : Contract {
  using Kernel = CpuKernel;
  using Resources = CpuKernels;
  template <class Machine>
  static Resources resources(const Machine& machine) {
    return {kernels::matmul_kernels(*machine.isa), kernels::row_sum_kernels(*machine.isa)};
  }
};

}  // namespace mylinear::my_linear_grad

#endif  // MYLINEAR_OPERATORS_MYLINEARGRAD_CPU_OP_H_
