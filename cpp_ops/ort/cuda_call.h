// Layer: ORT, any operator. What a kernel asks of onnxruntime's CUDA provider beside its tensors: the stream,
// the device, memory to work in, and TF32. Includes no CUDA.
#ifndef MYLINEAR_ORT_CUDA_CALL_H_
#define MYLINEAR_ORT_CUDA_CALL_H_

#include <stdexcept>
#include <string>

#include "ort/call.h"

#pragma GCC visibility push(hidden)
namespace mylinear::ort {

// The provider's allocator of device memory, kept by the kernel of a node. Before API 18 a call gets no
// memory to work in, and there is none.
class CudaAllocator {
 public:
  explicit CudaAllocator(const KernelInfo& info) : api_(info.runtime().api) {
    const Runtime& runtime = info.runtime();
    if (runtime.version >= 18) {
      check(runtime.api->KernelInfoGetAllocator(info.handle(), abi::OrtMemTypeDefault, &allocator_));
    }
  }
  CudaAllocator(const CudaAllocator&) = delete;
  CudaAllocator& operator=(const CudaAllocator&) = delete;
  ~CudaAllocator() {
    if (allocator_) api_->ReleaseAllocator(allocator_);
  }
  abi::OrtAllocator* get() const { return allocator_; }

 private:
  const abi::OrtApi* api_;
  abi::OrtAllocator* allocator_ = nullptr;
};

// One piece of work that a call queues, which writes one of its outputs.
class CudaCall {
 public:
  CudaCall(const Call& call, const CudaAllocator& allocator, const Output& output)
      : runtime_(call.runtime()), context_(call.handle()), allocator_(allocator.get()) {
    check(runtime_.api->KernelContext_GetGPUComputeStream(context_, &stream_));
    check(runtime_.api->GetTensorMemoryInfo(output.value, &info_));
    check(runtime_.api->MemoryInfoGetId(info_, &device_));
  }
  CudaCall(const CudaCall&) = delete;
  CudaCall& operator=(const CudaCall&) = delete;

  void* stream() const { return stream_; }
  int device() const { return device_; }

  // Whether the session lets float32 be rounded to TF32. A runtime that does not know the option answers null
  // or an error.
  bool allows_tf32() const {
    constexpr int kResourceVersion = 1, kUseTf32 = 10011;
    void* value = nullptr;
    abi::OrtStatus* status =
        runtime_.api->KernelContext_GetResource(context_, kResourceVersion, kUseTf32, &value);
    return succeeded(runtime_.api, status) && value;
  }

  // onnxruntime frees such memory in the order of a stream, which the default stream is not.
  bool can_allocate() const { return allocator_ && stream_; }

  // Returns memory of onnxruntime's arena, once; null if there is none. `self` is a CudaCall. The memory
  // belongs to the stream: given back at once, it is not handed to another stream before the queued work is
  // done.
  static void* allocate(void* self, uint64_t nbytes) {
    auto* call = static_cast<CudaCall*>(self);
    const Runtime& runtime = call->runtime_;
    if (call->memory_) return nullptr;
    abi::OrtStatus* status = nullptr;
    if (runtime.version >= 18) {
      status =
          runtime.api->KernelContext_GetScratchBuffer(call->context_, call->info_, nbytes, &call->memory_);
    }
    if (!status) return call->memory_;
    runtime.api->ReleaseStatus(status);  // a full arena: the work is done without
    return call->memory_ = nullptr;
  }

  void give_back() {
    if (memory_) check(runtime_.api->AllocatorFree(allocator_, memory_));
    memory_ = nullptr;
  }

 private:
  const Runtime& runtime_;
  const abi::OrtKernelContext* context_;
  abi::OrtAllocator* allocator_;
  const abi::OrtMemoryInfo* info_ = nullptr;
  void* stream_ = nullptr;
  void* memory_ = nullptr;
  int device_ = 0;
};

// What an operator's kernel on the CUDA provider keeps of its node, and how it has a backend compute: a
// library that knows CUDA, whose `Backend` has `compute(const Work*, Failure*)`, which returns 0, or a code
// and a text.
template <class Backend, class Failure, int32_t kOutOfMemory>
class CudaNode {
 public:
  CudaNode(const char* name, const KernelInfo& info, const Backend* backend, int32_t element_type,
           bool is_float32)
      : name_(name),
        backend_(*backend),
        element_type_(element_type),
        is_float32_(is_float32),
        allocator_(info) {}

  // Queues one piece of `work`, whose Y is `output`.
  template <class Work>
  void run(const Call& call, const Output& output, Work work) const {
    work.element_type = element_type_;
    work.y = output.data;
    CudaCall provider(call, allocator_, output);
    work.stream = provider.stream();
    work.device = provider.device();
    work.allows_tf32 = is_float32_ && provider.allows_tf32();
    if (provider.can_allocate()) {
      work.allocate = CudaCall::allocate;
      work.owner = &provider;
    }
    Failure failure{};
    const int32_t code = backend_.compute(&work, &failure);
    provider.give_back();
    if (code == 0) return;
    failure.text[sizeof failure.text - 1] = 0;
    const char* what = code == kOutOfMemory ? ": out of device memory: " : ": CUDA: ";
    throw std::runtime_error(std::string(name_) + what + failure.text);
  }

 private:
  const char* name_;
  const Backend& backend_;
  int32_t element_type_;
  bool is_float32_;
  CudaAllocator allocator_;
};

// The Spec of an operator on the CUDA provider, offered where this machine has a backend. Without a Backend
// it is for a kernel in a .cu file (cuda/kernel.h).
template <class Contract, class CudaKernel, class Backend = void>
struct CudaSpec : Contract {
  static constexpr const char* kProvider = kCudaProvider;
  using Kernel = CudaKernel;
  using Resources = const Backend*;
  template <class Machine>
  static bool is_offered(const Machine& machine) {
    return machine.backend != nullptr;
  }
  template <class Machine>
  static Resources resources(const Machine& machine) {
    return machine.backend;
  }
};

}  // namespace mylinear::ort
#pragma GCC visibility pop

#endif  // MYLINEAR_ORT_CUDA_CALL_H_
