// Layer: ORT op. Reads what a call has, checks shapes, and hands device pointers and onnxruntime's stream to
// the backend. Knows no CUDA.
#include "cuda/cuda_op.h"

#include <stdexcept>
#include <string>

#include "contract.h"
#include "ort_tensor.h"
#include "shape_check.h"

namespace mylinear {
namespace {

using abi::OrtKernelContext;
using abi::OrtKernelInfo;
using abi::OrtStatus;
using abi::OrtValue;
using kernels::ElementType;

// What the CUDA provider's stream tells of the provider's own options. A runtime that does not know the
// number answers null or an error.
constexpr int kResourceVersion = 1;
constexpr int kUseTf32 = 10011;

// One node of one session. `compute` may run on any number of threads at once: it changes no member.
class CudaKernel {
 public:
  CudaKernel(const CudaOp& op, const OrtKernelInfo* info) : op_(op) {
    const Runtime& runtime = op.runtime;
    const abi::OrtApi* api = runtime.api;
    check_attributes(api, info);
    size_t num_inputs = 0;
    check(api->KernelInfo_GetInputCount(info, &num_inputs));
    has_bias_input_ = num_inputs > kBias;
    TensorView weight, bias;
    const bool has_weight = read_constant(op, info, kWeight, contract::kWeight, &weight);
    const bool has_bias = has_bias_input_ && read_constant(op, info, kBias, contract::kBias, &bias);
    check_shapes(nullptr, has_weight ? &weight.shape : nullptr, has_bias ? &bias.shape : nullptr);
    // Before API 18 there is no memory for a call to work in, and kernels without it serve.
    if (runtime.version >= 18) check(api->KernelInfoGetAllocator(info, abi::OrtMemTypeDefault, &allocator_));
  }
  CudaKernel(const CudaKernel&) = delete;
  ~CudaKernel() {
    if (allocator_) op_.runtime.api->ReleaseAllocator(allocator_);
  }

  const abi::OrtApi* api() const { return op_.runtime.api; }

  void compute(OrtKernelContext* context) const {
    const abi::OrtApi* api = op_.runtime.api;
    TensorView x, weight, bias;
    read_input(op_, context, kX, contract::kX, &x);
    read_input(op_, context, kWeight, contract::kWeight, &weight);
    const bool has_bias = has_bias_input_ && read_input(op_, context, kBias, contract::kBias, &bias);
    check_shapes(&x.shape, &weight.shape, has_bias ? &bias.shape : nullptr);
    const auto type = static_cast<int>(op_.kernel->type);
    const GemmSizes sizes = gemm_sizes(x.shape, weight.shape, kernels::kElementSizes[type]);

    OrtValue* y = make_output(api, context, x, weight);
    if (sizes.M == 0 || sizes.N == 0) return;

    cuda::Call call{};
    call.element_type = type;
    call.M = sizes.M;
    call.N = sizes.N;
    call.K = sizes.K;
    call.x = x.data;
    call.w = weight.data;
    call.bias = has_bias ? bias.data : nullptr;
    check(api->GetTensorMutableData(y, &call.y));
    check(api->KernelContext_GetGPUComputeStream(context, &call.stream));
    Scratch scratch{op_.runtime, allocator_, context, nullptr, nullptr};
    check(api->GetTensorMemoryInfo(y, &scratch.info));
    check(api->MemoryInfoGetId(scratch.info, &call.device));
    call.allows_tf32 = op_.kernel->type == ElementType::kFloat32 && allows_tf32(context);
    // onnxruntime frees such memory in the order of a stream, which the default stream is not.
    if (allocator_ && call.stream) {
      call.allocate = Scratch::allocate;
      call.owner = &scratch;
    }
    cuda::Failure failure{};
    const int32_t code = op_.backend->compute(&call, &failure);
    scratch.give_back();
    if (code == cuda::kOk) return;
    failure.text[sizeof failure.text - 1] = 0;
    const char* what = code == cuda::kOutOfMemory ? ": out of device memory: " : ": CUDA: ";
    throw std::runtime_error(std::string(contract::kName) + what + failure.text);
  }

 private:
  // Memory of onnxruntime's arena for the work that a call queues. It belongs to the stream: given back at
  // once, it is not handed to another stream before that work is done.
  struct Scratch {
    const Runtime& runtime;
    abi::OrtAllocator* allocator;
    const OrtKernelContext* context;
    const abi::OrtMemoryInfo* info;
    void* memory;

    static void* allocate(void* owner, uint64_t nbytes) {
      auto* self = static_cast<Scratch*>(owner);
      const Runtime& runtime = self->runtime;
      if (self->memory) return nullptr;
      OrtStatus* status = nullptr;
      if (runtime.version >= 18) {
        status =
            runtime.api->KernelContext_GetScratchBuffer(self->context, self->info, nbytes, &self->memory);
      }
      if (!status) return self->memory;
      runtime.api->ReleaseStatus(status);  // a full arena: the backend does without
      return self->memory = nullptr;
    }

    void give_back() {
      if (memory) check(runtime.api->AllocatorFree(allocator, memory));
      memory = nullptr;
    }
  };

  bool allows_tf32(const OrtKernelContext* context) const {
    void* value = nullptr;
    OrtStatus* status = api()->KernelContext_GetResource(context, kResourceVersion, kUseTf32, &value);
    if (status) api()->ReleaseStatus(status);
    return !status && value;
  }

  const CudaOp& op_;
  bool has_bias_input_ = false;
  abi::OrtAllocator* allocator_ = nullptr;
};

OrtStatus* create_kernel(const abi::OrtCustomOp* op, const abi::OrtApi*, const OrtKernelInfo* info,
                         void** out) {
  const auto& self = *static_cast<const CudaOp*>(op);
  return guarded(self.runtime.api, contract::kName, [&] { *out = new CudaKernel(self, info); });
}

OrtStatus* compute(void* kernel, OrtKernelContext* context) {
  const auto& self = *static_cast<const CudaKernel*>(kernel);
  return guarded(self.api(), contract::kName, [&] { self.compute(context); });
}

}  // namespace

void init_cuda_op(CudaOp* op, const Runtime& runtime, const kernels::Isa& isa, ElementType type,
                  const cuda::Backend& backend) {
  init_op(op, runtime, isa, type);
  op->backend = &backend;
  op->GetExecutionProviderType = [](const abi::OrtCustomOp*) { return "CUDAExecutionProvider"; };
  op->CreateKernelV2 = create_kernel;
  op->KernelComputeV2 = compute;
  op->KernelDestroy = [](void* kernel) { delete static_cast<CudaKernel*>(kernel); };
}

}  // namespace mylinear
