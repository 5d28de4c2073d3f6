// Layer: operator MYLINEAR. See cpu_op.h.
#include "operators/mylinear/cpu_op.h"

#include <chrono>

#include "operators/mylinear/shapes.h"

namespace mylinear::my_linear {
namespace {

using kernels::GemmParams;
using ort::TensorView;

// Below this many multiplications the call itself does all the work: handing work to the pool and waiting for
// it takes 0.3 to 1 microsecond, in which one core does about this many.
constexpr double kMinParallelWork = 32768;
// Up to so many rows, chunks have several tiles each: a tile calls in the weight of the next one.
constexpr size_t kMaxFewRows = 16;

// A weight below this size counts as near without a trial: the call is over before a prefetch tells.
constexpr size_t kMinTrialBytes = 128 * 1024;

}  // namespace

CpuKernel::CpuKernel(const ort::KernelInfo& info, const kernels::GemmKernel* kernels)
    : kernel_(kernels[kernels::gemm_kernel_index(kernel_type(info.input_type(kX)),
                                                 kernel_type(info.input_type(kWeight)))]),
      activation_(read_attributes(info)) {
  has_constant_weight_ = info.read_constant(kWeight, &weight_);
  has_constant_bias_ = info.read_constant(kBias, &bias_);
  check_shapes(nullptr, has_constant_weight_ ? &weight_.shape : nullptr,
               has_constant_bias_ ? &bias_.shape : nullptr);
}

void CpuKernel::compute(const ort::Call& call) const {
  TensorView x, own_weight, own_bias;
  call.read_input(kX, &x);
  if (!has_constant_weight_) call.read_input(kWeight, &own_weight);
  const TensorView& weight = has_constant_weight_ ? weight_ : own_weight;
  const TensorView* bias = has_constant_bias_ ? &bias_ : nullptr;
  if (!has_constant_bias_ && call.read_input(kBias, &own_bias)) bias = &own_bias;
  check_shapes(&x.shape, &weight.shape, bias ? &bias->shape : nullptr);
  const size_t y_size = kernels::kElementSizes[static_cast<int>(kernel_.type)];
  const size_t weight_size = kernels::kElementSizes[static_cast<int>(kernel_.weight_type)];
  const GemmSizes sizes = gemm_sizes(x.shape, weight.shape, y_size);

  const ort::Output y = make_y(call, x.shape, weight.shape);
  if (sizes.M == 0 || sizes.N == 0) return;

  GemmParams params{sizes.M, sizes.N, sizes.K, x.data, weight.data, bias ? bias->data : nullptr, y.data};
  params.activation = activation_;
  if (has_constant_weight_ && kernel_.can_dot) params.w_can_dot = weight_can_dot(sizes.N * sizes.K);
  if (sizes.N * sizes.K * weight_size < kMinTrialBytes) {
    params.is_near = true;
  } else if (sizes.M <= kMaxTrialRows) {
    return run_on_trial(call, params);
  }
  run(call, params);
}

// Asked in the first call and not when the session is made, which should not read all of the weights.
bool CpuKernel::weight_can_dot(size_t size) const {
  Answer answer = weight_can_dot_.load(std::memory_order_relaxed);
  if (answer == Answer::kUnknown) {
    answer = kernel_.can_dot(weight_.data, size) ? Answer::kYes : Answer::kNo;
    weight_can_dot_.store(answer, std::memory_order_relaxed);
  }
  return answer == Answer::kYes;
}

void CpuKernel::run_on_trial(const ort::Call& call, GemmParams params) const {
  using Clock = std::chrono::steady_clock;
  PrefetchTrial& trial = trials_[params.M - 1];
  const PrefetchTrial::Choice choice = trial.choose();
  params.is_near = choice.is_near;
  if (!choice.is_timed) return run(call, params);
  const Clock::time_point start = Clock::now();
  run(call, params);
  const auto duration = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start);
  trial.record(choice.is_near, static_cast<uint64_t>(duration.count()));
}

void CpuKernel::run(const ort::Call& call, const GemmParams& params) const {
  const size_t tiles = kernel_.num_tiles(params);
  const double work =
      static_cast<double>(params.M) * static_cast<double>(params.N) * static_cast<double>(params.K);
  const size_t chunks = chunks_.of(tiles, params.M > kMaxFewRows ? work : 0);
  if (chunks <= 1 || work < kMinParallelWork) return kernel_.run(params, 0, tiles);
  static std::atomic<uint64_t> num_calls{0};
  GemmParams numbered = params;
  numbered.call = num_calls.fetch_add(1, std::memory_order_relaxed) + 1;
  call.parallel_for(tiles, chunks, [&](size_t first, size_t last) { kernel_.run(numbered, first, last); });
}

}  // namespace mylinear::my_linear
