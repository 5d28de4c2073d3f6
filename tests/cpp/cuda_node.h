// A node for onnxruntime's CUDA provider, on a fake onnxruntime and a fake backend (fake_backend.cc). No GPU.
#ifndef MYLINEAR_TESTS_CUDA_NODE_H_
#define MYLINEAR_TESTS_CUDA_NODE_H_

#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "check.h"
#include "cuda/backend.h"
#include "fake_ort.h"
#include "kernels/gemm.h"

extern "C" mylinear::abi::OrtStatus* RegisterCustomOps(mylinear::abi::OrtSessionOptions* options,
                                                       const mylinear::abi::OrtApiBase* base);
extern "C" size_t mylinear_cuda_describe(char* buffer, size_t size);

namespace mylinear {
using namespace abi;
using fake_ort::Release;

inline constexpr char kCuda[] = "CUDAExecutionProvider";
inline constexpr char kCpu[] = "CPUExecutionProvider";
using LastCall = int (*)(cuda::Call*, void**);

inline std::string directory;  // of this program and of the fake backend, with its last slash

inline LastCall last_call_function() {
  void* library = dlopen((directory + "libmylinear_cuda.so").c_str(), RTLD_NOW | RTLD_NOLOAD);
  if (!library) return nullptr;
  return reinterpret_cast<LastCall>(dlsym(library, "fake_backend_last_call"));
}

inline std::string take_message(OrtStatus* status) {
  if (!status) return "";
  const std::string message = status->message;
  fake_ort::Functions::ReleaseStatus(status);
  return message;
}

inline size_t element_size(ONNXTensorElementDataType type) {
  return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE  ? 8
         : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? 4
                                                       : 2;
}

inline OrtValue make_value(ONNXTensorElementDataType type, std::vector<int64_t> dims, int device = 0) {
  size_t count = 1;
  for (const int64_t dim : dims) count *= static_cast<size_t>(dim);
  OrtValue value{type,
                 dims,
                 std::vector<unsigned char>(count * element_size(type)),
                 {type, dims, {"owned by its value"}},
                 {device}};
  value.dims.reserve(8);
  return value;
}

inline OrtValue make_floats(std::vector<int64_t> dims, std::initializer_list<float> values, int device = 0) {
  OrtValue value = make_value(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, std::move(dims), device);
  if (value.data.size() != values.size() * sizeof(float)) std::abort();  // no CHECK: threads call this too
  if (values.size()) std::memcpy(value.data.data(), values.begin(), value.data.size());
  return value;
}

inline std::vector<float> floats(const OrtValue& value) {
  size_t count = 1;
  for (const int64_t dim : value.dims) count *= static_cast<size_t>(dim);
  std::vector<float> result(count);
  if (count) std::memcpy(result.data(), value.data.data(), count * sizeof(float));
  return result;
}

// Those of one operator.
inline std::vector<const OrtCustomOp*> ops_of(const OrtSessionOptions& options, const std::string& provider,
                                              const std::string& name = "MYLINEAR") {
  std::vector<const OrtCustomOp*> found;
  for (const OrtCustomOp* op : options.domains.at(0)->ops) {
    if (op->GetExecutionProviderType(op) == provider && op->GetName(op) == name) found.push_back(op);
  }
  return found;
}

inline const OrtCustomOp& cuda_op(const OrtSessionOptions& options, ONNXTensorElementDataType type,
                                  const std::string& name = "MYLINEAR") {
  for (const OrtCustomOp* op : ops_of(options, kCuda, name)) {
    if (op->GetInputType(op, 0) == type && op->GetInputType(op, 1) == type) return *op;
  }
  std::abort();
}

// One whose W is of another type.
inline const OrtCustomOp& mixed_cuda_op(const OrtSessionOptions& options, ONNXTensorElementDataType type,
                                        ONNXTensorElementDataType weight_type) {
  for (const OrtCustomOp* op : ops_of(options, kCuda)) {
    if (op->GetInputType(op, 0) == type && op->GetInputType(op, 1) == weight_type) return *op;
  }
  std::abort();
}

inline OrtSessionOptions registered(const Release& release, const char* entry = "require") {
  OrtSessionOptions options;
  options.entries["mylinear.cuda"] = entry;
  const std::string message = take_message(RegisterCustomOps(&options, release.base()));
  CHECK_MESSAGE(message.empty(), message);
  return options;
}

// One node, its kernel made and released.
class Node {
 public:
  Node(const OrtCustomOp& op, const OrtApi* api, size_t num_inputs,
       std::vector<const OrtValue*> constants = {})
      : op_(op), info_{num_inputs, std::move(constants), {}, {}} {
    info_.constants.resize(num_inputs);
    creation = take_message(op.CreateKernelV2(&op, api, &info_, &kernel));
  }
  Node(const Node&) = delete;
  ~Node() {
    if (kernel) op_.KernelDestroy(kernel);
  }
  std::string compute(OrtKernelContext* context) {
    return take_message(op_.KernelComputeV2(kernel, context));
  }

  std::string creation;
  void* kernel = nullptr;

 private:
  const OrtCustomOp& op_;
  OrtKernelInfo info_;
};

// Clears the environment, and finds the folder of this program. Returns false without /proc.
inline bool set_up() {
  for (const char* name : {"MYLINEAR_CUDA", "MYLINEAR_CUDA_LIBRARY", "FAKE_BACKEND", "MYLINEAR_ISA"})
    unsetenv(name);
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  if (length <= 0) {
    std::puts("0 checks: needs /proc");
    return false;
  }
  directory = std::string(path, static_cast<size_t>(length));
  directory.resize(directory.rfind('/') + 1);
  return true;
}

}  // namespace mylinear

#endif  // MYLINEAR_TESTS_CUDA_NODE_H_
