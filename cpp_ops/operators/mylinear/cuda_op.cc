// Layer: operator MYLINEAR. See cuda_op.h.
#include "operators/mylinear/cuda_op.h"

#include <stdexcept>
#include <string>

#include "operators/mylinear/shapes.h"

namespace mylinear::my_linear {
namespace {

using abi::OrtStatus;
using kernels::ElementType;
using ort::Runtime;
using ort::TensorView;

// How the CUDA provider's stream tells the provider's own options. A runtime that does not know the number
// answers null or an error.
constexpr int kResourceVersion = 1;
constexpr int kUseTf32 = 10011;

bool allows_tf32(const ort::Call& call) {
  const abi::OrtApi* api = call.runtime().api;
  void* value = nullptr;
  OrtStatus* status = api->KernelContext_GetResource(call.handle(), kResourceVersion, kUseTf32, &value);
  return ort::succeeded(api, status) && value;
}

// Memory of onnxruntime's arena for the work that a call queues. It belongs to the stream: given back at
// once, it is not handed to another stream before that work is done.
struct Scratch {
  const Runtime& runtime;
  abi::OrtAllocator* allocator;
  const abi::OrtKernelContext* context;
  const abi::OrtMemoryInfo* info;
  void* memory;

  static void* allocate(void* owner, uint64_t nbytes) {
    auto* self = static_cast<Scratch*>(owner);
    const Runtime& runtime = self->runtime;
    if (self->memory) return nullptr;
    OrtStatus* status = nullptr;
    if (runtime.version >= 18) {
      status = runtime.api->KernelContext_GetScratchBuffer(self->context, self->info, nbytes, &self->memory);
    }
    if (!status) return self->memory;
    runtime.api->ReleaseStatus(status);  // a full arena: the backend does without
    return self->memory = nullptr;
  }

  void give_back() {
    if (memory) ort::check(runtime.api->AllocatorFree(allocator, memory));
    memory = nullptr;
  }
};

}  // namespace

CudaKernel::CudaKernel(const ort::KernelInfo& info, const cuda::Backend* backend)
    : api_(info.runtime().api), backend_(*backend), type_(kernel_type(info.input_type(kX))) {
  check_attributes(info);
  TensorView weight, bias;
  const bool has_weight = info.read_constant(kWeight, &weight);
  const bool has_bias = info.read_constant(kBias, &bias);
  check_shapes(nullptr, has_weight ? &weight.shape : nullptr, has_bias ? &bias.shape : nullptr);
  // Before API 18 a call gets no memory to work in, and the backend takes kernels that need none.
  const Runtime& runtime = info.runtime();
  if (runtime.version >= 18) {
    ort::check(runtime.api->KernelInfoGetAllocator(info.handle(), abi::OrtMemTypeDefault, &allocator_));
  }
}

CudaKernel::~CudaKernel() {
  if (allocator_) api_->ReleaseAllocator(allocator_);
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
  work.element_type = static_cast<int>(type_);
  work.M = sizes.M;
  work.N = sizes.N;
  work.K = sizes.K;
  work.x = x.data;
  work.w = weight.data;
  work.bias = has_bias ? bias.data : nullptr;
  work.y = y.data;
  ort::check(api_->KernelContext_GetGPUComputeStream(call.handle(), &work.stream));
  Scratch scratch{call.runtime(), allocator_, call.handle(), nullptr, nullptr};
  ort::check(api_->GetTensorMemoryInfo(y.value, &scratch.info));
  ort::check(api_->MemoryInfoGetId(scratch.info, &work.device));
  work.allows_tf32 = type_ == ElementType::kFloat32 && allows_tf32(call);
  // onnxruntime frees such memory in the order of a stream, which the default stream is not.
  if (allocator_ && work.stream) {
    work.allocate = Scratch::allocate;
    work.owner = &scratch;
  }
  cuda::Failure failure{};
  const int32_t code = backend_.compute(&work, &failure);
  scratch.give_back();
  if (code == cuda::kOk) return;
  failure.text[sizeof failure.text - 1] = 0;
  const char* what = code == cuda::kOutOfMemory ? ": out of device memory: " : ": CUDA: ";
  throw std::runtime_error(std::string(Contract::kName) + what + failure.text);
}

}  // namespace mylinear::my_linear
