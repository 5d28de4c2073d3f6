// Layer: ORT, any operator. What the author of a .cu file writes against, beside the headers of a CPU kernel:
// a Spec for onnxruntime's CUDA provider, the stream of a call, launches, and the registration.
//
// nvcc compiles the file for a GPU. Another compiler gets an emulation (on_cpu.h), and a library whose CUDA
// kernels are registered for the CPU's provider: so onnxruntime runs them, and tests compare them, without a
// GPU.
#ifndef MYLINEAR_ORT_CUDA_KERNEL_H_
#define MYLINEAR_ORT_CUDA_KERNEL_H_

#include <stdexcept>
#include <string>
#include <tuple>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "ort/cuda/on_cpu.h"
#endif

#include "ort/cuda_call.h"
#include "ort/registration.h"

#pragma GCC visibility push(hidden)
namespace mylinear::ort {

// Throws if a call of CUDA failed; `name` is the operator's, `what` that of the call.
inline void check_cuda(cudaError_t status, const char* name, const char* what) {
  if (status == cudaSuccess) return;
  const char* kind = status == cudaErrorMemoryAllocation ? ": out of device memory: " : ": CUDA: ";
  throw std::runtime_error(std::string(name) + kind + what + ": " + cudaGetErrorName(status) + ", " +
                           cudaGetErrorString(status));
}

// The stream that onnxruntime gives a call. Its device is the thread's current one as long as this lives.
// Nothing waits for what is queued on it.
class CudaStream {
 public:
  // `output` is one that the call made; `name` starts the messages.
  CudaStream(const Call& call, const Output& output, const char* name) : name_(name) {
#ifdef __CUDACC__
    const abi::OrtApi& api = *call.runtime().api;
    const abi::OrtMemoryInfo* info = nullptr;
    void* stream = nullptr;
    int device = 0;
    ort::check(api.KernelContext_GetGPUComputeStream(call.handle(), &stream));
    ort::check(api.GetTensorMemoryInfo(output.value, &info));
    ort::check(api.MemoryInfoGetId(info, &device));
    stream_ = static_cast<cudaStream_t>(stream);
    check_cuda(cudaGetDevice(&before_), name, "cudaGetDevice");
    if (device == before_) return;
    check_cuda(cudaSetDevice(device), name, "cudaSetDevice");
    has_changed_ = true;
#else
    static_cast<void>(call);
    static_cast<void>(output);
#endif
  }
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
#ifdef __CUDACC__
  ~CudaStream() {
    if (has_changed_) static_cast<void>(cudaSetDevice(before_));
  }
#endif

  cudaStream_t get() const { return stream_; }

  // Queues kernel(arguments...) in this many blocks of this many threads; a multiple of 32.
  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), dim3 blocks, int num_threads, Arguments... arguments) const {
    std::tuple<Parameters...> values(static_cast<Parameters>(arguments)...);
    std::apply([&](auto&... each) { queue(kernel, blocks, num_threads, each...); }, values);
  }

  // Queues a kernel that walks over `count` items in steps of the whole grid; none for no items.
  template <class... Parameters, class... Arguments>
  void launch_over(size_t count, void (*kernel)(Parameters...), Arguments... arguments) const {
#ifdef __CUDACC__
    constexpr size_t kThreads = 256, kMostBlocks = 4096;
#else
    constexpr size_t kThreads = 32, kMostBlocks = 2;  // so that small tests take more than one step
#endif
    const size_t blocks = (count + kThreads - 1) / kThreads;
    if (count == 0) return;
    launch(kernel, dim3(static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks)), kThreads,
           arguments...);
  }

 private:
  template <class... Parameters>
  void queue(void (*kernel)(Parameters...), dim3 blocks, int num_threads, Parameters&... values) const {
#ifdef __CUDACC__
    void* pointers[] = {&values...};
    check_cuda(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), blocks,
                                dim3(static_cast<unsigned>(num_threads)), pointers, 0, stream_),
               name_, "launch of a kernel");
#else
    check_cuda(cuda_on_cpu::launch(kernel, blocks, num_threads, values...), name_, "launch of a kernel");
#endif
  }

  const char* name_;
  cudaStream_t stream_{};
#ifdef __CUDACC__
  int before_ = 0;
  bool has_changed_ = false;
#endif
};

// An operator on the CUDA provider: a Spec, such as that of the CPU's kernel, with a class that computes by
// CUDA. Tensors are in device memory.
template <class Contract, class CudaKernel>
struct CudaSpec<Contract, CudaKernel, void> : Contract {
#ifdef __CUDACC__
  static constexpr const char* kProvider = kCudaProvider;
#else
  static constexpr const char* kProvider = kCpuProvider;
#endif
  static constexpr bool kIsCuda = true;
  using Kernel = CudaKernel;
};

template <class Spec, class = void>
struct IsCuda : std::false_type {};
template <class Spec>
struct IsCuda<Spec, std::void_t<decltype(Spec::kIsCuda)>> : std::true_type {};

// What a .cu file registers of its Specs: all of them, or those of CUDA where they take the CPU's place.
template <class Kept, class... Specs>
struct CudaList {
  using Type = Kept;
};
template <class... Kept, class First, class... Others>
struct CudaList<TypeList<Kept...>, First, Others...>
#ifdef __CUDACC__
    : CudaList<TypeList<Kept..., First>, Others...> {
};
#else
    : CudaList<std::conditional_t<IsCuda<First>::value, TypeList<Kept..., First>, TypeList<Kept...>>,
               Others...> {
};
#endif

template <class... Specs>
abi::OrtStatus* register_list(abi::OrtSessionOptions* options, const abi::OrtApiBase* base,
                              TypeList<Specs...>) {
  return register_library<Specs...>(options, base);
}

// Why a session cannot use CUDA here; empty if it can. Makes no CUDA context.
inline std::string missing_cuda() {
#ifdef __CUDACC__
  int count = 0, version = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return "";
  if (status == cudaErrorNoDevice || status == cudaSuccess) return "the driver finds no CUDA device";
  if (status != cudaErrorInsufficientDriver) return cudaGetErrorString(status);
  if (cudaDriverGetVersion(&version) == cudaSuccess && version == 0) return "there is no CUDA driver";
  return "the CUDA driver is for CUDA " + std::to_string(version / 1000) +
         ", and the library was built by CUDA " + std::to_string(CUDART_VERSION / 1000);
#else
  return "the library is a test on the CPU, without CUDA";
#endif
}

}  // namespace mylinear::ort
#pragma GCC visibility pop

// Ends a .cu file, outside of all namespaces: the Specs of the CPU, which a session needs in the same library
// since onnxruntime takes a domain from one, and those of CUDA. Exports also mylinear_cuda_missing, which
// says in JSON why there is no CUDA, or null.
#define MYLINEAR_REGISTER_WITH_CUDA(...)                                                                 \
  MYLINEAR_EXPORT mylinear::abi::OrtStatus* RegisterCustomOps(mylinear::abi::OrtSessionOptions* options, \
                                                              const mylinear::abi::OrtApiBase* base) {   \
    using namespace mylinear::ort;                                                                       \
    return register_list(options, base, CudaList<TypeList<>, __VA_ARGS__>::Type{});                      \
  }                                                                                                      \
  MYLINEAR_EXPORT size_t mylinear_operators(char* buffer, size_t size) {                                 \
    using namespace mylinear::ort;                                                                       \
    return mylinear::write_text(buffer, size,                                                            \
                                [] { return describe(CudaList<TypeList<>, __VA_ARGS__>::Type{}); });     \
  }                                                                                                      \
  MYLINEAR_EXPORT size_t mylinear_cuda_missing(char* buffer, size_t size) {                              \
    return mylinear::write_text(buffer, size, [] {                                                       \
      const std::string reason = mylinear::ort::missing_cuda();                                          \
      return reason.empty() ? std::string("null") : mylinear::quoted(reason);                            \
    });                                                                                                  \
  }

#endif  // MYLINEAR_ORT_CUDA_KERNEL_H_
