// Layer: operator MYLINEARGRAD. See cuda_op.h.
#include "operators/mylineargrad/cuda_op.h"

#include <stdexcept>
#include <string>
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
    : backend_(*backend), type_(kernel_type(info.input_type(kX))), allocator_(info) {
  check_node(info);
}

void CudaKernel::compute(const ort::Call& call) const {
  Inputs inputs;
  read_inputs(call, &inputs);
  const Outputs outputs = make_outputs(call, inputs);
  const auto [M, N, K] = std::tuple(inputs.M, inputs.N, inputs.K);
  const void* grad = inputs.grad.data;
  if (outputs.grad_x && M > 0 && K > 0) {  // G W
    run(call, outputs.grad_x, make_work(cuda::kProduct, M, K, N, grad, inputs.weight.data));
  }
  if (outputs.grad_weight && N > 0 && K > 0) {  // G^T X
    run(call, outputs.grad_weight, make_work(cuda::kTransposedProduct, N, K, M, grad, inputs.x.data));
  }
  if (outputs.grad_bias && N > 0) {
    run(call, outputs.grad_bias, make_work(cuda::kSumOfRows, 1, N, M, nullptr, grad));
  }
}

void CudaKernel::run(const ort::Call& call, const ort::Output& output, cuda::Call work) const {
  work.element_type = static_cast<int>(type_);
  work.y = output.data;
  ort::CudaCall provider(call, allocator_, output);
  work.stream = provider.stream();
  work.device = provider.device();
  work.allows_tf32 = type_ == kernels::ElementType::kFloat32 && provider.allows_tf32();
  if (provider.can_allocate()) {
    work.allocate = ort::CudaCall::allocate;
    work.owner = &provider;
  }
  cuda::Failure failure{};
  const int32_t code = backend_.compute(&work, &failure);
  provider.give_back();
  if (code == cuda::kOk) return;
  failure.text[sizeof failure.text - 1] = 0;
  const char* what = code == cuda::kOutOfMemory ? ": out of device memory: " : ": CUDA: ";
  throw std::runtime_error(std::string(Contract::kName) + what + failure.text);
}

}  // namespace mylinear::my_linear_grad
