// Layer: CUDA kernels, entry. The only file that exports a symbol of libmylinear_cuda.so: turns every failure
// into a Code and a message, and says what this machine has.
#include "cuda/backend.h"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "cuda/compute.h"
#include "cuda/cublas_lt.h"
#include "cuda/error.h"
#include "ort/json_text.h"

namespace mylinear::cuda {
namespace {

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
