// Layer: operator MYLINEAR. See cuda_op.h.
#include "operators/mylinear/cuda_op.h"

#include "operators/mylinear/shapes.h"

namespace mylinear::my_linear {
namespace {

using kernels::ElementType;
using ort::TensorView;

}  // namespace

CudaKernel::CudaKernel(const ort::KernelInfo& info, const cuda::Backend* backend)
    : type_(kernel_type(info.input_type(kX))),
      weight_type_(kernel_type(info.input_type(kWeight))),
      activation_(read_attributes(info)),
      node_(Contract::kName, info, backend, static_cast<int32_t>(type_), type_ == ElementType::kFloat32) {
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
  work.weight_type = static_cast<int32_t>(weight_type_);
  work.activation = static_cast<int32_t>(activation_);
  work.M = sizes.M;
  work.N = sizes.N;
  work.K = sizes.K;
  work.x = x.data;
  work.w = weight.data;
  work.bias = has_bias ? bias.data : nullptr;
  node_.run(call, y, work);
}

}  // namespace mylinear::my_linear
