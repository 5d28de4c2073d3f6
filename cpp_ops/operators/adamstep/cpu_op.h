// Layer: operator ADAMSTEP. Its kernel for the CPU: reads inputs, checks shapes, computes what is made of
// scalars alone, and hands the elements to kernels/.
#ifndef MYLINEAR_OPERATORS_ADAMSTEP_CPU_OP_H_
#define MYLINEAR_OPERATORS_ADAMSTEP_CPU_OP_H_

#include "kernels/adam/adam.h"
#include "operators/adamstep/contract.h"
#include "ort/call.h"
#include "ort/chunks.h"

namespace mylinear::adam_step {

// One node of one session. `compute` may run on any number of threads at once: it changes no member.
class CpuKernel {
 public:
  CpuKernel(const ort::KernelInfo& info, const kernels::AdamKernel* kernels);
  void compute(const ort::Call& call) const;

 private:
  const kernels::AdamKernel& kernel_;
  ort::Chunks chunks_;
};

struct CpuOp : Contract {
  using Kernel = CpuKernel;
  using Resources = const kernels::AdamKernel*;
  template <class Machine>
  static Resources resources(const Machine& machine) {
    return kernels::adam_kernels(*machine.isa);
  }
};

}  // namespace mylinear::adam_step

#endif  // MYLINEAR_OPERATORS_ADAMSTEP_CPU_OP_H_
