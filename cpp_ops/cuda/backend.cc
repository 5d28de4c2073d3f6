// Layer: CUDA kernels, entry. The only file that exports a symbol of libmylinear_cuda.so: chooses between the
// kernels, keeps the state of each device, and turns every failure into a Code and a message.
#include "cuda/backend.h"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <string>

#include "cuda/columns.h"
#include "cuda/cublas_lt.h"
#include "cuda/error.h"
#include "cuda/gemv.h"
#include "kernels/gemm.h"
#include "ort/json_text.h"

namespace mylinear::cuda {
namespace {

using kernels::ElementType;

constexpr char kGemvVariable[] = "MYLINEAR_CUDA_GEMV_ROWS";
// cuBLAS's own workspace on Hopper; an algorithm that needs less gets less.
constexpr uint64_t kMaxWorkspace = 32 << 20;
// cuBLASLt's kernels count in 32 bits; more rows take more calls.
constexpr uint64_t kMaxRows = uint64_t{1} << 30;
constexpr uint64_t kMaxDimension = 0x7fffffff;

// A product with at most so many rows of X (or of W: the product is symmetric) is bound by reading the other
// matrix, and gemv.cu computes it; by ElementType. To be tuned on hardware; MYLINEAR_CUDA_GEMV_ROWS replaces
// them all.
constexpr uint64_t kMaxGemvRows[kernels::kNumElementTypes] = {4, 4, 4, 4};

uint64_t max_gemv_rows(ElementType type) {
  static const long forced = [] {
    const char* text = std::getenv(kGemvVariable);
    return text && *text ? std::strtol(text, nullptr, 10) : -1;
  }();
  return forced >= 0 ? static_cast<uint64_t>(forced) : kMaxGemvRows[static_cast<int>(type)];
}

// The state of a device, made at its first call and kept.
struct Device {
  int num_multiprocessors = 0;
  std::once_flag products_once;
  std::unique_ptr<Products> products;
};

constexpr int kMaxDevices = 64;

// Returns the state of a device, which must be current.
Device& device_state(int device) {
  static std::mutex mutex;
  static Device* devices[kMaxDevices] = {};
  if (device < 0 || device >= kMaxDevices)
    throw Error(kFailed, "device " + std::to_string(device) + " is not among 0 to 63");
  const std::lock_guard<std::mutex> lock(mutex);
  if (!devices[device]) {
    auto made = std::make_unique<Device>();
    check(cudaDeviceGetAttribute(&made->num_multiprocessors, cudaDevAttrMultiProcessorCount, device),
          "cudaDeviceGetAttribute");
    devices[device] = made.release();
  }
  return *devices[device];
}

Products& products_of(Device& device) {
  std::call_once(device.products_once, [&] { device.products = std::make_unique<Products>(cublas_lt()); });
  return *device.products;
}

// Makes a device current, and at the end the one before again. Does nothing if it is current already, as
// under onnxruntime.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ == device) return;
    check(cudaSetDevice(device), "cudaSetDevice");
    has_changed_ = true;
  }
  CurrentDevice(const CurrentDevice&) = delete;
  ~CurrentDevice() {
    if (has_changed_) static_cast<void>(cudaSetDevice(before_));
  }

 private:
  int before_ = 0;
  bool has_changed_ = false;
};

// Computes a kLinear by our own kernel, at any size. Reads the larger matrix once if the smaller has few
// rows.
void run_gemv(const Call& call, const Device& device) {
  GemvParams p{};
  p.type = static_cast<ElementType>(call.element_type);
  p.K = call.K;
  p.bias = call.bias;
  p.y = call.y;
  p.num_multiprocessors = device.num_multiprocessors;
  p.stream = static_cast<cudaStream_t>(call.stream);
  if (call.M <= call.N) {
    p.rows = call.w;
    p.num_rows = call.N;
    p.row_stride = 1;
    p.vectors = call.x;
    p.num_vectors = call.M;
    p.vector_stride = call.N;
  } else {
    p.rows = call.x;
    p.num_rows = call.M;
    p.row_stride = call.N;
    p.vectors = call.w;
    p.num_vectors = call.N;
    p.vector_stride = 1;
    p.has_bias_of_vectors = true;
  }
  check(launch_gemv(p), "launch of gemv_kernel");
}

// Computes any other work by our own kernel, at any size. Products are slow.
void run_columns(const Call& call) {
  ColumnParams p{};
  p.type = static_cast<ElementType>(call.element_type);
  p.M = call.M;
  p.N = call.N;
  p.K = call.K;
  p.x = call.x;
  p.x_row = call.work == kTransposedProduct ? 1 : call.K;
  p.x_step = call.work == kTransposedProduct ? call.M : 1;
  p.w = call.w;
  p.y = call.y;
  p.stream = static_cast<cudaStream_t>(call.stream);
  check(launch_columns(p), "launch of column_kernel");
}

// Computes a product by cuBLASLt; returns false if it has no algorithm.
bool run_product(const Call& call, Device& device) {
  if (call.N > kMaxDimension || call.K > kMaxDimension) return false;
  Products& products = products_of(device);
  std::shared_ptr<Plan> plan = products.plan(make_key(call, call.allocate ? kMaxWorkspace : 0));
  void* workspace = nullptr;
  if (plan->is_supported() && plan->workspace_nbytes()) {
    workspace = call.allocate(call.owner, plan->workspace_nbytes());
    if (!workspace) plan = products.plan(make_key(call, 0));
  }
  if (!plan->is_supported()) return false;
  if (call.bias && !plan->has_epilogue()) {
    check(launch_fill(static_cast<ElementType>(call.element_type), call.M, call.N, call.bias, call.y,
                      static_cast<cudaStream_t>(call.stream)),
          "launch of fill_kernel");
  }
  return plan->run(call, workspace);
}

void compute_call(const Call& call) {
  if (call.element_type < 0 || call.element_type >= kernels::kNumElementTypes) {
    throw Error(kFailed, "unknown element type " + std::to_string(call.element_type));
  }
  if (call.work < kLinear || call.work > kSumOfRows) {
    throw Error(kFailed, "unknown work " + std::to_string(call.work));
  }
  const CurrentDevice current(call.device);
  Device& device = device_state(call.device);
  const auto type = static_cast<ElementType>(call.element_type);
  const auto stream = static_cast<cudaStream_t>(call.stream);
  if (call.K == 0)
    return check(launch_fill(type, call.M, call.N, call.bias, call.y, stream), "launch of fill_kernel");
  const uint64_t few = call.work == kLinear ? max_gemv_rows(type) : 0;
  if (call.M <= few || call.N <= few) return run_gemv(call, device);
  // Rows of a transposed X do not lie together, and a layer has fewer of them than one call takes.
  if (call.work == kSumOfRows || (call.work == kTransposedProduct && call.M > kMaxRows)) {
    return run_columns(call);
  }
  Call part = call;
  const size_t element_size = kernels::kElementSizes[call.element_type];
  for (uint64_t first = 0; first < call.M; first += kMaxRows) {
    part.M = call.M - first < kMaxRows ? call.M - first : kMaxRows;
    part.x = static_cast<const char*>(call.x) + first * call.K * element_size;
    part.y = static_cast<char*>(call.y) + first * call.N * element_size;
    if (call.M > kMaxRows) part.allocate = nullptr;  // which a call may ask for once
    if (run_product(part, device)) continue;
    call.work == kLinear ? run_gemv(part, device) : run_columns(part);
  }
}

// ---- the table

template <class Body>
int32_t guarded(Failure* failure, Body&& body) {
  const auto fail = [&](Code code, const char* text) {
    std::snprintf(failure->text, sizeof failure->text, "%s", text);
    return static_cast<int32_t>(code);
  };
  try {
    body();
    return kOk;
  } catch (const Error& error) {
    return fail(error.code, error.what());
  } catch (const std::bad_alloc&) {
    return fail(kFailed, "out of memory");
  } catch (const std::exception& error) {
    return fail(kFailed, error.what());
  } catch (...) {
    return fail(kFailed, "unknown C++ exception");
  }
}

int32_t compute(const Call* call, Failure* failure) {
  return guarded(failure, [&] { compute_call(*call); });
}

int num_devices() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) {
    throw Error(kMissing, "the driver finds no CUDA device");
  }
  if (status == cudaErrorInsufficientDriver) {
    int version = 0;
    if (cudaDriverGetVersion(&version) == cudaSuccess && version == 0)
      throw Error(kMissing, "there is no CUDA driver");
    throw Error(kMissing, "the CUDA driver is for CUDA " + std::to_string(version / 1000) +
                              ", and this library was built for CUDA " +
                              std::to_string(CUDART_VERSION / 1000));
  }
  check(status, "cudaGetDeviceCount");
  return count;
}

int32_t probe(Failure* failure) {
  return guarded(failure, [] { num_devices(); });
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string describe_text() {
  std::string cublas = "null", cublas_error = "null", devices;
  try {
    cublas = std::to_string(cublas_lt().cublasLtGetVersion());
  } catch (const std::exception& error) {
    cublas_error = quoted(error.what());
  }
  try {
    const int count = num_devices();
    for (int i = 0; i < count; ++i) {
      int major = 0, minor = 0;
      check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, i), "cudaDeviceGetAttribute");
      check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, i), "cudaDeviceGetAttribute");
      devices += (i ? ", " : "") + quoted("sm_" + std::to_string(major) + std::to_string(minor));
    }
  } catch (const std::exception&) {  // `probe` says what is missing
  }
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
  return "{\"toolkit\": " + quoted(version_text(CUDART_VERSION)) +
         ", \"architectures\": " + quoted(MYLINEAR_CUDA_ARCHITECTURES) +
         ", \"driver\": " + (driver ? quoted(version_text(driver)) : "null") + ", \"cublaslt\": " + cublas +
         ", \"cublaslt_error\": " + cublas_error + ", \"devices\": [" + devices + "]}";
}

size_t describe(char* buffer, size_t size) { return write_text(buffer, size, describe_text); }

constexpr Backend kBackend = {kBackendVersion, sizeof(Backend), MYLINEAR_VERSION, probe, describe, compute};

}  // namespace
}  // namespace mylinear::cuda

extern "C" __attribute__((visibility("default"))) const mylinear::cuda::Backend* mylinear_cuda_backend(
    uint32_t version) {
  return version == mylinear::cuda::kBackendVersion ? &mylinear::cuda::kBackend : nullptr;
}
