// Layer: operator MYLINEARGRAD. See cuda_op.h.
#include "operators/mylineargrad/cuda_op.h"

#include <tuple>

#include "operators/mylineargrad/shapes.h"

namespace mylinear::my_linear_grad {
namespace {

// A call of the backend, in its own letters: Y [M, N] with sums of K terms.
cuda::Call make_work(cuda::Work work, size_t M, size_t N, size_t K, const void* x, const void* w) {
  cuda::Call made{};
  made.work = work;
  made.M = M;
  made.N = N;
  made.K = K;
  made.x = x;
  made.w = w;
  return made;
}

}  // namespace

CudaKernel::CudaKernel(const ort::KernelInfo& info, const cuda::Backend* backend)
    : node_(Contract::kName, info, backend, static_cast<int32_t>(kernel_type(info.input_type(kX))),
            kernel_type(info.input_type(kX)) == kernels::ElementType::kFloat32) {
  check_node(info);
}

void CudaKernel::compute(const ort::Call& call) const {
  Inputs inputs;
  read_inputs(call, &inputs);
  const Outputs outputs = make_outputs(call, inputs);
  const auto [M, N, K] = std::tuple(inputs.M, inputs.N, inputs.K);
  const void* grad = inputs.grad.data;
  if (outputs.grad_x && M > 0 && K > 0) {  // G W
    node_.run(call, outputs.grad_x, make_work(cuda::kProduct, M, K, N, grad, inputs.weight.data));
  }
  if (outputs.grad_weight && N > 0 && K > 0) {  // G^T X
    node_.run(call, outputs.grad_weight, make_work(cuda::kTransposedProduct, N, K, M, grad, inputs.x.data));
  }
  if (outputs.grad_bias && N > 0) {
    node_.run(call, outputs.grad_bias, make_work(cuda::kSumOfRows, 1, N, M, nullptr, grad));
  }
}

}  // namespace mylinear::my_linear_grad
