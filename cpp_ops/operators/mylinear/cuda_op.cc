// Layer: operator MYLINEAR. See cuda_op.h.
#include "operators/mylinear/cuda_op.h"

#include <stdexcept>
#include <string>

#include "operators/mylinear/shapes.h"

namespace mylinear::my_linear {
namespace {

using kernels::ElementType;
using ort::TensorView;

}  // namespace

CudaKernel::CudaKernel(const ort::KernelInfo& info, const cuda::Backend* backend)
    : backend_(*backend), type_(kernel_type(info.input_type(kX))), allocator_(info) {
  check_attributes(info);
  TensorView weight, bias;
  const bool has_weight = info.read_constant(kWeight, &weight);
  const bool has_bias = info.read_constant(kBias, &bias);
  check_shapes(nullptr, has_weight ? &weight.shape : nullptr, has_bias ? &bias.shape : nullptr);
}

void CudaKernel::compute(const ort::Call& call) const {
  TensorView x, weight, bias;
  call.read_input(kX, &x);
  call.read_input(kWeight, &weight);
  const bool has_bias = call.read_input(kBias, &bias);
  check_shapes(&x.shape, &weight.shape, has_bias ? &bias.shape : nullptr);
  const GemmSizes sizes = gemm_sizes(x.shape, weight.shape, kernels::kElementSizes[static_cast<int>(type_)]);

  const ort::Output y = make_y(call, x.shape, weight.shape);
  if (sizes.M == 0 || sizes.N == 0) return;

  cuda::Call work{};
  work.work = cuda::kLinear;
  work.element_type = static_cast<int>(type_);
  work.M = sizes.M;
  work.N = sizes.N;
  work.K = sizes.K;
  work.x = x.data;
  work.w = weight.data;
  work.bias = has_bias ? bias.data : nullptr;
  work.y = y.data;
  ort::CudaCall provider(call, allocator_, y);
  work.stream = provider.stream();
  work.device = provider.device();
  work.allows_tf32 = type_ == ElementType::kFloat32 && provider.allows_tf32();
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

}  // namespace mylinear::my_linear
