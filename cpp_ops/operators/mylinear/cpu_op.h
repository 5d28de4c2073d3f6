// Layer: operator MYLINEAR. Its kernel for the CPU: reads inputs, checks shapes, allocates Y, and hands the
// numbers to kernels/.
#ifndef MYLINEAR_OPERATORS_MYLINEAR_CPU_OP_H_
#define MYLINEAR_OPERATORS_MYLINEAR_CPU_OP_H_

#include <atomic>

#include "kernels/gemm.h"
#include "operators/mylinear/contract.h"
#include "operators/mylinear/prefetch_trial.h"
#include "ort/call.h"
#include "ort/chunks.h"

namespace mylinear::my_linear {

// One node of one session. `compute` may run on any number of threads at once: it changes nothing but
// trials_ and weight_can_dot_.
class CpuKernel {
 public:
  // `kernels`: kernels::kNumGemmKernels of them, as in kernels/gemm.h.
  CpuKernel(const ort::KernelInfo& info, const kernels::GemmKernel* kernels);
  void compute(const ort::Call& call) const;

 private:
  // Calls of at most this many rows are bound by how fast the weight comes, those of more by multiplying.
  static constexpr size_t kMaxTrialRows = 4;
  enum class Answer { kUnknown, kNo, kYes };

  bool weight_can_dot(size_t size) const;
  void run_on_trial(const ort::Call& call, kernels::GemmParams params) const;
  void run(const ort::Call& call, const kernels::GemmParams& params) const;

  const kernels::GemmKernel& kernel_;
  kernels::Activation activation_;
  bool has_constant_weight_ = false;
  bool has_constant_bias_ = false;
  ort::TensorView weight_;
  ort::TensorView bias_;
  ort::Chunks chunks_;
  mutable std::atomic<Answer> weight_can_dot_{Answer::kUnknown};
  mutable PrefetchTrial trials_[kMaxTrialRows];  // by the number of rows, since a time depends on it
};

struct CpuOp : Contract {
  using Kernel = CpuKernel;
  using Resources = const kernels::GemmKernel*;
  template <class Machine>
  static Resources resources(const Machine& machine) {
    return kernels::gemm_kernels(*machine.isa);
  }
};

}  // namespace mylinear::my_linear

#endif  // MYLINEAR_OPERATORS_MYLINEAR_CPU_OP_H_
