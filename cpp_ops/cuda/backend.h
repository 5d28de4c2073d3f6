// Layer: ABI between the two libraries. libmylinear_ort.so, which knows onnxruntime and no CUDA, opens
// libmylinear_cuda.so, which knows CUDA and no onnxruntime; this is their whole interface.
//
// Plain C: fixed-width numbers, pointers, and no exception across. Any change here needs a new
// kBackendVersion. The two libraries are built together, and refuse a partner of another build.
#ifndef MYLINEAR_CUDA_BACKEND_H_
#define MYLINEAR_CUDA_BACKEND_H_

#include <cstddef>
#include <cstdint>

namespace mylinear::cuda {

inline constexpr uint32_t kBackendVersion = 3;
inline constexpr char kBackendEntry[] = "mylinear_cuda_backend";

enum Code : int32_t {
  kOk = 0,
  kMissing = 1,      // a driver, a device or a library is not there
  kOutOfMemory = 2,  // of the device
  kFailed = 3,       // a call of CUDA or cuBLASLt failed
};

// The reason of a failure, without a prefix; `text` ends with 0.
struct Failure {
  char text[1024];
};

// What a call computes. All matrices are row-major and dense; Y is [M, N].
enum Work : int32_t {
  kLinear = 0,             // Y = f(X W^T + B), as in kernels/gemm.h: X [M, K], W [N, K], B [N]
  kProduct = 1,            // Y = X W: X [M, K], W [K, N]
  kTransposedProduct = 2,  // Y = X^T W: X [K, M], W [K, N]
  kSumOfRows = 3,          // Y = the sum of the rows of W [K, N]; M is 1
};

// In device memory of any alignment that the element type allows. M and N are at least 1; K may be 0. The
// work is queued on `stream`, and nothing waits for it.
struct Call {
  int32_t element_type;  // kernels::ElementType
  int32_t weight_type;   // of W in kLinear: the same, or a type of 16 bits under float32; others ignore it
  int32_t activation;    // kernels::Activation, the f of kLinear; others ignore it
  int32_t work;
  int32_t device;
  // Whether float32 may be rounded to TF32. The other types, and float32 with W in 16 bits, ignore it.
  int32_t allows_tf32;
  uint64_t M;
  uint64_t N;
  uint64_t K;
  const void* x;  // null for kSumOfRows
  const void* w;
  const void* bias;  // null if absent; kLinear alone may have one
  void* y;
  void* stream;  // a cudaStream_t of the device
  // Returns device memory, aligned to 256, for work queued on `stream` until `compute` returns; null if there
  // is none. Called at most once per Call. A null function: the caller cannot give memory.
  void* (*allocate)(void* owner, uint64_t nbytes);
  void* owner;
};

// All functions are thread-safe. Those with a Failure return a Code and fill it in unless that is kOk.
struct Backend {
  uint32_t version;
  uint32_t nbytes;              // sizeof(Backend)
  const char* package_version;  // as in pyproject.toml
  // Whether there are a driver and a device; makes no CUDA context.
  int32_t (*probe)(Failure* failure);
  // Writes JSON, as mylinear_describe does.
  size_t (*describe)(char* buffer, size_t size);
  int32_t (*compute)(const Call* call, Failure* failure);
};

// The one symbol of the backend: its functions, or null if it does not speak `version`. They are never freed.
using BackendEntry = const Backend* (*)(uint32_t version);

}  // namespace mylinear::cuda

#endif  // MYLINEAR_CUDA_BACKEND_H_
