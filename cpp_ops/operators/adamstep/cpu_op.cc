// Layer: operator ADAMSTEP. See cpu_op.h.
#include "operators/adamstep/cpu_op.h"

#include <cmath>
#include <string>

namespace mylinear::adam_step {
namespace {

// Below this many elements the call itself does all the work. More threads than a few only share the memory.
constexpr size_t kMinParallelElements = 16384;

ort::ContractError refusal(size_t input, const std::string& rule, const ort::Shape& got) {
  return ort::ContractError(
      ort::message(Contract::kName, Contract::kInputs[input].argument, rule, ort::format_shape(got)));
}

bool are_equal(const ort::Shape& a, const ort::Shape& b) {
  if (a.rank != b.rank) return false;
  for (size_t i = 0; i < a.rank; ++i) {
    if (a.data[i] != b.data[i]) return false;
  }
  return true;
}

void read_scalar(const ort::Call& call, size_t input, ort::TensorView* view) {
  call.read_input(input, view);
  if (view->shape.rank != 0) throw refusal(input, "a scalar", view->shape);
}

double read_number(const ort::Call& call, size_t input) {
  ort::TensorView view;
  read_scalar(call, input, &view);
  return *view.as<double>();
}

}  // namespace

CpuKernel::CpuKernel(const ort::KernelInfo& info, const kernels::AdamKernel* kernels)
    : kernel_(kernels[static_cast<int>(info.input_type(kP) == ort::kFloat64 ? kernels::AdamType::kFloat64
                                                                            : kernels::AdamType::kFloat32)]) {
}

void CpuKernel::compute(const ort::Call& call) const {
  ort::TensorView tensors[kStep];
  for (size_t input = 0; input < kStep; ++input) {
    call.read_input(input, &tensors[input]);
    if (!are_equal(tensors[input].shape, tensors[kP].shape)) {
      const std::string rule = ort::format_shape(tensors[kP].shape) + ", the shape of parameter";
      throw refusal(input, rule, tensors[input].shape);
    }
  }
  ort::TensorView step;
  read_scalar(call, kStep, &step);
  const double steps = static_cast<double>(*step.as<int64_t>());
  const double lr = read_number(call, kLr);
  const double beta1 = read_number(call, kBeta1), beta2 = read_number(call, kBeta2);
  const double eps = read_number(call, kEps), decay = read_number(call, kDecay);

  kernels::AdamParams params{};
  params.scalars = {1.0 - lr * decay,
                    1.0 - beta1,
                    beta2,
                    1.0 - beta2,
                    std::sqrt(1.0 - std::pow(beta2, steps)),
                    eps,
                    -(lr / (1.0 - std::pow(beta1, steps)))};
  params.p = tensors[kP].data;
  params.g = tensors[kG].data;
  params.m = tensors[kM].data;
  params.v = tensors[kV].data;
  params.next_p = call.make_output(kNextP, tensors[kP].shape).data;
  params.next_m = call.make_output(kNextM, tensors[kP].shape).data;
  params.next_v = call.make_output(kNextV, tensors[kP].shape).data;

  const size_t count = tensors[kP].count();
  if (count < kMinParallelElements) return kernel_.run(params, 0, count);
  call.parallel_for(count, chunks_.of(count, 0),
                    [&](size_t first, size_t last) { kernel_.run(params, first, last); });
}

}  // namespace mylinear::adam_step
