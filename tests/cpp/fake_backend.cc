// A CUDA backend without CUDA: "device" memory is host memory, products are made by plain loops, and the last
// call is kept for the tests. FAKE_BACKEND in the environment makes it misbehave. Stands in for
// libmylinear_cuda.so in tests/cpp/cuda_op_test.cc and tests/native/test_cuda_registration.py.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/backend.h"
#include "exact_activations.h"
#include "kernels/half.h"
#include "kernels/reference.h"

#ifndef MYLINEAR_VERSION
#define MYLINEAR_VERSION "0.1.0"
#endif

namespace {

using namespace mylinear;
using cuda::Call;
using cuda::Failure;

bool is_asked_to(const char* what) {
  const char* asked = std::getenv("FAKE_BACKEND");
  return asked && std::strcmp(asked, what) == 0;
}

int32_t fail(Failure* failure, cuda::Code code, const char* text) {
  std::snprintf(failure->text, sizeof failure->text, "%s", text);
  return code;
}

int32_t probe(Failure* failure) {
  if (is_asked_to("have no device")) return fail(failure, cuda::kMissing, "the driver finds no CUDA device");
  if (is_asked_to("say nothing")) return cuda::kFailed;
  return cuda::kOk;
}

size_t describe(char* buffer, size_t size) {
  const std::string text =
      "{\"toolkit\": \"none\", \"architectures\": \"\", \"driver\": null, \"cublaslt\": null, "
      "\"cublaslt_error\": \"a fake\", \"devices\": []}";
  if (buffer && size) std::snprintf(buffer, size, "%s", text.c_str());
  return text.size();
}

std::mutex mutex;
Call last_call;
int num_calls = 0;
void* last_workspace = nullptr;
double y_buffer[1 << 16], magnitude_buffer[1 << 16];  // so that a call allocates nothing itself
float w_buffer[1 << 16];

template <class T, class Convert>
void write(const Call& call, Convert&& convert) {
  for (uint64_t i = 0; i < call.M * call.N; ++i) static_cast<T*>(call.y)[i] = convert(y_buffer[i]);
}

double element(kernels::ElementType type, const void* data, uint64_t index) {
  switch (type) {
    case kernels::ElementType::kFloat64:
      return static_cast<const double*>(data)[index];
    case kernels::ElementType::kFloat32:
      return static_cast<const float*>(data)[index];
    case kernels::ElementType::kFloat16:
      return kernels::to_float(static_cast<const kernels::Float16*>(data)[index]);
    case kernels::ElementType::kBfloat16:
      return kernels::to_float(static_cast<const kernels::Bfloat16*>(data)[index]);
  }
  return 0;
}

// The products of a backward, and the sum of rows.
void compute_other(const Call& call, kernels::ElementType type) {
  const bool is_turned = call.work == cuda::kTransposedProduct;
  for (uint64_t m = 0; m < call.M; ++m) {
    for (uint64_t n = 0; n < call.N; ++n) {
      double sum = 0;
      for (uint64_t k = 0; k < call.K; ++k) {
        const uint64_t at = is_turned ? k * call.M + m : m * call.K + k;
        const double factor = call.work == cuda::kSumOfRows ? 1 : element(type, call.x, at);
        sum += factor * element(type, call.w, k * call.N + n);
      }
      y_buffer[m * call.N + n] = sum;
    }
  }
}

int32_t compute(const Call* call, Failure* failure) {
  const std::lock_guard<std::mutex> lock(mutex);
  last_call = *call;
  ++num_calls;
  last_workspace = nullptr;
  if (is_asked_to("run out of memory")) return fail(failure, cuda::kOutOfMemory, "cublasLtMatmul: no memory");
  if (is_asked_to("fail") || call->M * call->N > sizeof y_buffer / sizeof *y_buffer) {
    return fail(failure, cuda::kFailed, "cudaLaunchKernel: cudaErrorLaunchFailure");
  }
  if (is_asked_to("fill the message")) {
    std::memset(failure->text, 'x', sizeof failure->text);
    return cuda::kFailed;
  }
  if (call->allocate) {
    last_workspace = call->allocate(call->owner, 4096);
    if (last_workspace) std::memset(last_workspace, 0xee, 4096);
    if (last_workspace && is_asked_to("ask twice") && call->allocate(call->owner, 1))
      return fail(failure, cuda::kFailed, "memory was given twice");
  }
  const auto type = static_cast<kernels::ElementType>(call->element_type);
  kernels::GemmParams params{};
  params.M = call->M;
  params.N = call->N;
  params.K = call->K;
  params.x = call->x;
  params.w = call->w;
  params.bias = call->bias;
  if (call->work == cuda::kLinear) {
    const auto weight_type = static_cast<kernels::ElementType>(call->weight_type);
    if (weight_type != type) {  // float16 or bfloat16 under float32
      for (uint64_t i = 0; i < call->N * call->K; ++i)
        w_buffer[i] = static_cast<float>(element(weight_type, call->w, i));
      params.w = w_buffer;
    }
    kernels::reference(type, params, y_buffer, magnitude_buffer);
    for (uint64_t i = 0; i < call->M * call->N; ++i) {
      y_buffer[i] = kernels::exact(static_cast<kernels::Activation>(call->activation), y_buffer[i]);
    }
  } else {
    compute_other(*call, type);
  }
  switch (type) {
    case kernels::ElementType::kFloat64:
      write<double>(*call, [](double value) { return value; });
      break;
    case kernels::ElementType::kFloat32:
      write<float>(*call, [](double value) { return static_cast<float>(value); });
      break;
    case kernels::ElementType::kFloat16:
      write<kernels::Float16>(*call,
                              [](double value) { return kernels::to_float16(static_cast<float>(value)); });
      break;
    case kernels::ElementType::kBfloat16:
      write<kernels::Bfloat16>(*call,
                               [](double value) { return kernels::to_bfloat16(static_cast<float>(value)); });
      break;
  }
  return cuda::kOk;
}

constexpr cuda::Backend kBackend = {
    cuda::kBackendVersion, sizeof(cuda::Backend), MYLINEAR_VERSION, probe, describe, compute};

}  // namespace

#define FAKE_EXPORT extern "C" __attribute__((visibility("default")))

FAKE_EXPORT const cuda::Backend* mylinear_cuda_backend(uint32_t version) {
  static cuda::Backend other = kBackend;
  if (is_asked_to("speak another version")) return nullptr;
  other.nbytes = sizeof(cuda::Backend) - 8;
  if (is_asked_to("have another size")) return &other;
  static cuda::Backend old = kBackend;
  old.package_version = "0.0.9";
  if (is_asked_to("be of another release")) return &old;
  return version == cuda::kBackendVersion ? &kBackend : nullptr;
}

// For the tests: the last call and its workspace; returns how many calls there were.
FAKE_EXPORT int fake_backend_last_call(Call* call, void** workspace) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (call) *call = last_call;
  if (workspace) *workspace = last_workspace;
  return num_calls;
}
