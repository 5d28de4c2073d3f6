// The CUDA side of the registering library against a fake onnxruntime and a fake backend (fake_backend.cc):
// what is loaded and when, what reaches the backend, and what becomes of each failure. No GPU.
#include "operators/mylinear/cuda_op.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "check.h"
#include "count_allocations.h"
#include "cuda/backend.h"
#include "cuda/find_backend.h"
#include "fake_ort.h"
#include "operators/mylinear/cpu_op.h"

extern "C" mylinear::abi::OrtStatus* RegisterCustomOps(mylinear::abi::OrtSessionOptions* options,
                                                       const mylinear::abi::OrtApiBase* base);
extern "C" size_t mylinear_cuda_describe(char* buffer, size_t size);

namespace mylinear {
namespace {

using namespace abi;
using fake_ort::Release;

constexpr char kCuda[] = "CUDAExecutionProvider";
using LastCall = int (*)(cuda::Call*, void**);

std::string directory;  // of this program and of the fake backend, with its last slash

LastCall last_call_function() {
  void* library = dlopen((directory + "libmylinear_cuda.so").c_str(), RTLD_NOW | RTLD_NOLOAD);
  if (!library) return nullptr;
  return reinterpret_cast<LastCall>(dlsym(library, "fake_backend_last_call"));
}

std::string take_message(OrtStatus* status) {
  if (!status) return "";
  const std::string message = status->message;
  fake_ort::Functions::ReleaseStatus(status);
  return message;
}

size_t element_size(ONNXTensorElementDataType type) {
  return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE  ? 8
         : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? 4
                                                       : 2;
}

OrtValue make_value(ONNXTensorElementDataType type, std::vector<int64_t> dims, int device = 0) {
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

OrtValue make_floats(std::vector<int64_t> dims, std::initializer_list<float> values, int device = 0) {
  OrtValue value = make_value(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, std::move(dims), device);
  if (value.data.size() != values.size() * sizeof(float)) std::abort();  // no CHECK: threads call this too
  if (values.size()) std::memcpy(value.data.data(), values.begin(), value.data.size());
  return value;
}

std::vector<float> floats(const OrtValue& value) {
  size_t count = 1;
  for (const int64_t dim : value.dims) count *= static_cast<size_t>(dim);
  std::vector<float> result(count);
  if (count) std::memcpy(result.data(), value.data.data(), count * sizeof(float));
  return result;
}

std::vector<const OrtCustomOp*> ops_of(const OrtSessionOptions& options, const std::string& provider) {
  std::vector<const OrtCustomOp*> found;
  for (const OrtCustomOp* op : options.domains.at(0)->ops) {
    if (op->GetExecutionProviderType(op) == provider) found.push_back(op);
  }
  return found;
}

const OrtCustomOp& cuda_op(const OrtSessionOptions& options, ONNXTensorElementDataType type) {
  for (const OrtCustomOp* op : ops_of(options, kCuda)) {
    if (op->GetInputType(op, 0) == type) return *op;
  }
  std::abort();
}

OrtSessionOptions registered(const Release& release, const char* entry = "require") {
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

void test_nothing_is_loaded_unless_a_session_asks() {
  const Release release("1.32.0", 32);
  OrtSessionOptions plain;
  CHECK(take_message(RegisterCustomOps(&plain, release.base())).empty());
  CHECK(plain.domains.at(0)->ops.size() == kernels::kNumElementTypes && ops_of(plain, kCuda).empty());
  registered(release, "0");
  setenv("MYLINEAR_CUDA", "1", 1);
  const OrtSessionOptions off = registered(release, "0");  // the session's word goes before the environment's
  CHECK(ops_of(off, kCuda).empty());
  CHECK(!last_call_function());
  OrtSessionOptions asked;
  CHECK(take_message(RegisterCustomOps(&asked, release.base())).empty());
  CHECK(ops_of(asked, kCuda).size() == kernels::kNumElementTypes);
  CHECK(last_call_function());
  unsetenv("MYLINEAR_CUDA");
}

void test_both_kernels_are_in_one_domain_with_one_signature() {
  for (const auto& [text, version] :
       {std::pair{"1.17.3", 17u}, {"1.18.1", 18u}, {"1.24.4", 24u}, {"1.32.0", 32u}}) {
    const Release release(text, version);
    const OrtSessionOptions options = registered(release);
    CHECK(options.domains.size() == 1 && options.domains[0]->ops.size() == 2 * kernels::kNumElementTypes);
    CHECK(ops_of(options, "CPUExecutionProvider").size() == kernels::kNumElementTypes);
    const OrtCustomOp& cpu = *options.domains[0]->ops[0];
    CHECK(cpu.GetExecutionProviderType(&cpu) ==
          std::string("CPUExecutionProvider"));  // whose inference ORT takes
    std::set<int> types;
    for (const OrtCustomOp* op : ops_of(options, kCuda)) {
      types.insert(op->GetInputType(op, 0));
      CHECK(op->GetInputType(op, 2) == op->GetInputType(op, 0) &&
            op->GetOutputType(op, 0) == op->GetInputType(op, 0));
      CHECK(op->version == cpu.version && op->GetName(op) == std::string("MYLINEAR"));
      CHECK(op->InferOutputShapeFn == cpu.InferOutputShapeFn);
      CHECK(&my_linear::CpuOp::infer_shapes == &my_linear::CudaOp::infer_shapes);
      CHECK(op->GetInputTypeCount(op) == 3 && op->GetOutputTypeCount(op) == 1);
      for (size_t i = 0; i < 3; ++i) {
        CHECK(op->GetInputCharacteristic(op, i) == cpu.GetInputCharacteristic(&cpu, i));
        CHECK(op->GetInputMemoryType(op, i) == OrtMemTypeDefault);
      }
    }
    CHECK(types.size() == kernels::kNumElementTypes);
    OrtSessionOptions plain;
    CHECK(take_message(RegisterCustomOps(&plain, release.base())).empty());
    CHECK(plain.domains.at(0) != options.domains[0] && ops_of(plain, kCuda).empty());
    CHECK(registered(release).domains == options.domains);
  }
}

void test_what_is_missing_is_said_and_the_cpu_serves() {
  const Release release("1.32.0", 32);
  const std::string fake = directory + "libmylinear_cuda.so";
  const std::string damaged = directory + "damaged.so";
  FILE* file = std::fopen(damaged.c_str(), "w");
  CHECK(file && std::fputs("not a library", file) >= 0 && std::fclose(file) == 0);
  struct Row {
    std::string library;
    const char* behaviour;
    std::string reason;
  };
  const Row rows[] = {
      {directory + "nothing.so", "", "is not there: this installation was built without the CUDA backend"},
      {damaged, "", "damaged.so cannot be loaded: "},
      {"libc.so.6", "", "is not there"},  // a bare name is not looked for in the loader's path
      {fake, "speak another version", "is of another build than this library"},
      {fake, "have another size", "is of another build than this library"},
      {fake, "be of another release", "is of version 0.0.9, and this library of test"},
      {fake, "have no device", "the driver finds no CUDA device"},
      {fake, "say nothing", "the CUDA backend fails, and does not say why"},
  };
  for (const Row& row : rows) {
    setenv("MYLINEAR_CUDA_LIBRARY", row.library.c_str(), 1);
    setenv("FAKE_BACKEND", row.behaviour, 1);
    const OrtSessionOptions served = registered(release, "1");
    CHECK(ops_of(served, kCuda).empty() && served.domains.at(0)->ops.size() == kernels::kNumElementTypes);
    OrtSessionOptions required;
    required.entries["mylinear.cuda"] = "require";
    const std::string message = take_message(RegisterCustomOps(&required, release.base()));
    CHECK_MESSAGE(message.find("MYLINEAR: the CUDA kernel is not available: ") == 0, message);
    CHECK_MESSAGE(message.find(row.reason) != std::string::npos, message);
    char text[2048];
    CHECK(mylinear_cuda_describe(text, sizeof text) == std::strlen(text));
    CHECK_MESSAGE(std::strstr(text, "\"reason\": \"") != nullptr, text);
  }
  std::remove(damaged.c_str());
  unsetenv("FAKE_BACKEND");
  unsetenv("MYLINEAR_CUDA_LIBRARY");
  // A library that is no backend: one that is here for certain is that of this function.
  Dl_info info;
  CHECK(dladdr(reinterpret_cast<const void*>(&std::fopen), &info));
  setenv("MYLINEAR_CUDA_LIBRARY", info.dli_fname, 1);
  const std::string reason = cuda::find_backend("test").reason;
  CHECK_MESSAGE(
      reason.find("is no backend of this library: ") != std::string::npos || access(info.dli_fname, F_OK),
      reason);
  unsetenv("MYLINEAR_CUDA_LIBRARY");

  OrtSessionOptions wrong;
  wrong.entries["mylinear.cuda"] = "yes";
  CHECK(take_message(RegisterCustomOps(&wrong, release.base())) ==
        "MYLINEAR: session config entry mylinear.cuda must be 0, 1 or require, got yes");
  wrong.entries["mylinear.cuda"] = std::string(100, 'y');
  CHECK(take_message(RegisterCustomOps(&wrong, release.base())).find("got yyyyyyyyyyyyyyyyyyyyyyyy") !=
        std::string::npos);
  setenv("MYLINEAR_CUDA", "on", 1);
  OrtSessionOptions from_environment;
  CHECK(take_message(RegisterCustomOps(&from_environment, release.base())) ==
        "MYLINEAR: MYLINEAR_CUDA must be 0, 1 or require, got on");
  unsetenv("MYLINEAR_CUDA");
  char text[2048];
  CHECK(mylinear_cuda_describe(text, sizeof text) == std::strlen(text));
  CHECK(std::strstr(text, "\"reason\": null, \"backend\": {\"toolkit\": \"none\""));
}

void test_what_reaches_the_backend() {
  for (const auto& [text, version] : {std::pair{"1.17.3", 17u}, {"1.18.1", 18u}, {"1.24.4", 24u}}) {
    const Release release(text, version);
    const OrtSessionOptions options = registered(release);
    const OrtCustomOp& op = cuda_op(options, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    Node node(op, release.api(), 3);
    CHECK_MESSAGE(node.creation.empty(), node.creation);
    const OrtValue x = make_floats({1, 2, 3}, {1, 2, 3, 4, 5, 6}, 5);
    const OrtValue weight = make_floats({2, 3}, {1, 0, 1, 0, 1, 0}, 5);
    const OrtValue bias = make_floats({2}, {10, 20}, 5);
    OrtValue y = make_floats({1, 2, 2}, {0, 0, 0, 0}, 5);
    int stream = 0;
    OrtKernelContext context{{&x, &weight, &bias}, &y, &stream, {{10011, &stream}}};
    num_allocations = 0;
    is_counting = version < 18;  // the fake's arena is on the heap
    OrtStatus* status = op.KernelComputeV2(node.kernel, &context);
    is_counting = false;
    CHECK(!status && num_allocations == 0);
    CHECK((floats(y) == std::vector<float>{14, 22, 20, 25}));
    cuda::Call call;
    void* workspace = nullptr;
    last_call_function()(&call, &workspace);
    CHECK(call.element_type == static_cast<int>(kernels::ElementType::kFloat32) && call.device == 5);
    CHECK(call.M == 2 && call.N == 2 && call.K == 3 && call.stream == &stream && call.allows_tf32 == 1);
    CHECK(call.x == x.data.data() && call.w == weight.data.data() && call.bias == bias.data.data());
    CHECK(call.y == y.data.data());
    CHECK((workspace != nullptr) == (version >= 18));
    CHECK(fake_ort::live_scratch.empty());

    context.resources[10011] = nullptr;
    setenv("FAKE_BACKEND", "ask twice", 1);  // memory is given once
    CHECK(node.compute(&context).empty());
    unsetenv("FAKE_BACKEND");
    last_call_function()(&call, nullptr);
    CHECK(call.allows_tf32 == 0);
    context.resources.clear();  // a runtime that does not know the option
    context.has_scratch = false;
    context.stream = nullptr;
    CHECK(node.compute(&context).empty());
    last_call_function()(&call, &workspace);
    CHECK(call.allows_tf32 == 0 && !call.stream && !call.allocate && !workspace);
    context.stream = &stream;
    CHECK(node.compute(&context).empty());  // with a full arena
    last_call_function()(&call, &workspace);
    CHECK((call.allocate != nullptr) == (version >= 18) && !workspace && fake_ort::live_statuses == 0);
  }
}

void test_every_type_and_an_absent_bias() {
  const Release release("1.24.4", 24);
  const OrtSessionOptions options = registered(release);
  for (const auto type : {ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                          ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16}) {
    const OrtCustomOp& op = cuda_op(options, type);
    const OrtValue x = make_value(type, {4, 3}), weight = make_value(type, {5, 3});
    OrtValue y = make_value(type, {4, 5});
    for (const size_t num_inputs : {2u, 3u}) {  // two inputs, and three of which the last is empty
      Node node(op, release.api(), num_inputs);
      std::vector<const OrtValue*> inputs{&x, &weight};
      inputs.resize(num_inputs);
      int resource = 0;
      OrtKernelContext context{inputs, &y, nullptr, {{10011, &resource}}};
      CHECK(node.compute(&context).empty());
      cuda::Call call;
      last_call_function()(&call, nullptr);
      CHECK(!call.bias && call.element_type == static_cast<int>(my_linear::kernel_type(type)));
      CHECK(call.allows_tf32 == (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
    }
  }
}

void test_empty_outputs_call_nothing_and_empty_sums_do() {
  const Release release("1.24.4", 24);
  const OrtSessionOptions options = registered(release);
  Node node(cuda_op(options, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT), release.api(), 3);
  const int before = last_call_function()(nullptr, nullptr);
  const OrtValue none = make_floats({0, 3}, {}), weight = make_floats({2, 3}, {1, 2, 3, 4, 5, 6});
  const OrtValue bias = make_floats({2}, {7, 8});
  OrtValue y = make_floats({1}, {0});
  OrtKernelContext context{{&none, &weight, &bias}, &y};
  CHECK(node.compute(&context).empty());
  CHECK((y.dims == std::vector<int64_t>{0, 2}));
  const OrtValue row = make_floats({1, 3}, {1, 1, 1}), no_rows = make_floats({0, 3}, {}),
                 no_bias = make_floats({0}, {});
  context.inputs = {&row, &no_rows, &no_bias};
  CHECK(node.compute(&context).empty());
  CHECK((y.dims == std::vector<int64_t>{1, 0}));
  CHECK(last_call_function()(nullptr, nullptr) == before);
  const OrtValue empty = make_floats({2, 0}, {}), empty_weight = make_floats({2, 0}, {});
  OrtValue filled = make_floats({2, 2}, {0, 0, 0, 0});
  context.inputs = {&empty, &empty_weight, &bias};
  context.output = &filled;
  CHECK(node.compute(&context).empty());
  CHECK((floats(filled) == std::vector<float>{7, 8, 7, 8}));
  CHECK(last_call_function()(nullptr, nullptr) == before + 1);
}

// Sizes beyond 32 bits reach the backend whole; beyond 63 bits of bytes they are refused.
void test_large_sizes() {
  const Release release("1.24.4", 24);
  const OrtSessionOptions options = registered(release);
  Node node(cuda_op(options, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT), release.api(), 2);
  OrtValue x = make_value(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, {0}), weight = x, y = x;
  const int64_t large = (int64_t{1} << 33) + 6;
  OrtKernelContext context{{&x, &weight}, &y};
  for (const auto& [M, N] : {std::pair{large, int64_t{5}}, {int64_t{4}, large}}) {
    x.dims = {2, M / 2, 0};
    weight.dims = {N, 0};
    const std::string message = node.compute(&context);  // the fake has no room for it
    CHECK_MESSAGE(message == "MYLINEAR: CUDA: cudaLaunchKernel: cudaErrorLaunchFailure", message);
    cuda::Call call;
    last_call_function()(&call, nullptr);
    CHECK(call.M == static_cast<uint64_t>(M) && call.N == static_cast<uint64_t>(N) && call.K == 0);
  }
  x.dims = {large, large, 0};
  CHECK(node.compute(&context).find("MYLINEAR: y must be smaller than 2^63 bytes, got [") == 0);
}

void test_failures_become_statuses() {
  const Release release("1.24.4", 24);
  const OrtSessionOptions options = registered(release);
  const OrtCustomOp& op = cuda_op(options, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
  const OrtValue x = make_floats({1, 2}, {1, 2}), weight = make_floats({1, 2}, {1, 2}),
                 bias = make_floats({1}, {5});
  const OrtValue wrong = make_floats({2, 1}, {1, 2});
  const OrtValue half = make_value(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, {1, 2});
  OrtValue y = make_floats({1, 1}, {0});
  int stream = 0;
  OrtKernelContext context{{&x, &weight, &bias}, &y, &stream};
  Node node(op, release.api(), 3);
  const std::pair<const char*, std::string> rows[] = {
      {"run out of memory", "MYLINEAR: out of device memory: cublasLtMatmul: no memory"},
      {"fail", "MYLINEAR: CUDA: cudaLaunchKernel: cudaErrorLaunchFailure"},
      {"fill the message", "MYLINEAR: CUDA: " + std::string(sizeof(cuda::Failure) - 1, 'x')}};
  for (const auto& [behaviour, expected] : rows) {
    setenv("FAKE_BACKEND", behaviour, 1);
    const std::string message = node.compute(&context);
    CHECK_MESSAGE(message == expected, message);
  }
  unsetenv("FAKE_BACKEND");
  CHECK(node.compute(&context).empty() && floats(y)[0] == 10);  // and the node is still usable
  context.inputs[1] = &wrong;
  CHECK(node.compute(&context).find("MYLINEAR: weight must be [out_features, 2] (x has in_features 2)") == 0);
  context.inputs[1] = &half;
  CHECK(node.compute(&context) ==
        "MYLINEAR: weight must be float32 (the kernel that ORT chose), got ONNX element type 10");
  context.inputs[1] = nullptr;
  CHECK(node.compute(&context) == "MYLINEAR: weight must be given, got nothing");
  context.inputs[1] = &weight;
  const OrtValue long_bias = make_floats({2}, {1, 2});
  Node early(op, release.api(), 3, {nullptr, &weight, &long_bias});
  CHECK(early.creation.find("MYLINEAR: bias must be [1] (weight has out_features 1)") == 0 && !early.kernel);
  OrtKernelInfo info{3, {nullptr, nullptr, nullptr}, {{"alpha", 0.5f}}, {}};
  void* kernel = nullptr;
  CHECK(take_message(op.CreateKernelV2(&op, release.api(), &info, &kernel)) ==
        "MYLINEAR: the attributes must be none, got alpha");

  int num_failures_seen = 0;
  for (const uint32_t version : {17u, 24u}) {
    const Release injecting(version == 17 ? "1.17.3" : "1.24.4", version);
    const OrtSessionOptions own = registered(injecting);
    for (int n = 0;; ++n) {
      fake_ort::calls_until_failure = n;
      Node one(cuda_op(own, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT), injecting.api(), 3,
               {nullptr, &weight, nullptr});
      std::string message = one.creation;
      if (message.empty()) message = one.compute(&context);
      const bool was_reached = fake_ort::calls_until_failure < 0;
      fake_ort::calls_until_failure = -1;
      if (!was_reached) break;
      ++num_failures_seen;
      // Only memory to work in may be refused without the call failing.
      CHECK_MESSAGE(message == "injected" || (message.empty() && floats(y)[0] == 10), message);
      CHECK(fake_ort::live_scratch.empty());
    }
    for (int n = 0;; ++n) {
      OrtSessionOptions failing;
      failing.entries["mylinear.cuda"] = "1";
      fake_ort::calls_until_failure = n;
      const std::string message = take_message(RegisterCustomOps(&failing, injecting.base()));
      const bool was_reached = fake_ort::calls_until_failure < 0;
      fake_ort::calls_until_failure = -1;
      if (!was_reached) break;
      CHECK_MESSAGE(message == "injected" && failing.domains.empty(), message);
    }
  }
  CHECK(num_failures_seen > 20);
  CHECK(fake_ort::live_statuses == 0 && fake_ort::live_infos == 0);
}

void test_streams_and_threads() {
  const Release release("1.17.3", 17);
  const OrtSessionOptions options = registered(release);
  const OrtCustomOp& op = cuda_op(options, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
  Node node(op, release.api(), 2);
  std::atomic<int> num_right{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      const float value = static_cast<float>(t);
      const OrtValue x = make_floats({1, 2}, {value, 1}), weight = make_floats({1, 2}, {2, 3});
      OrtValue y = make_floats({1, 1}, {0});
      OrtKernelContext context{{&x, &weight}, &y};
      for (int i = 0; i < 200; ++i) {
        if (!op.KernelComputeV2(node.kernel, &context) && floats(y)[0] == 2 * value + 3) ++num_right;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(num_right == 8 * 200);
}

}  // namespace
}  // namespace mylinear

int main() {
  for (const char* name : {"MYLINEAR_CUDA", "MYLINEAR_CUDA_LIBRARY", "FAKE_BACKEND", "MYLINEAR_ISA"})
    unsetenv(name);
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  if (length <= 0) {
    std::puts("0 checks: needs /proc");
    return 1;
  }
  mylinear::directory = std::string(path, static_cast<size_t>(length));
  mylinear::directory.resize(mylinear::directory.rfind('/') + 1);
  // Argument 0 may be relative, and so what dladdr says of this program; the library says it whole.
  setenv("MYLINEAR_CUDA_LIBRARY", (mylinear::directory + "libmylinear_cuda.so").c_str(), 1);
  mylinear::test_nothing_is_loaded_unless_a_session_asks();
  unsetenv("MYLINEAR_CUDA_LIBRARY");
  mylinear::test_both_kernels_are_in_one_domain_with_one_signature();
  mylinear::test_what_is_missing_is_said_and_the_cpu_serves();
  mylinear::test_what_reaches_the_backend();
  mylinear::test_every_type_and_an_absent_bias();
  mylinear::test_empty_outputs_call_nothing_and_empty_sums_do();
  mylinear::test_large_sizes();
  mylinear::test_failures_become_statuses();
  mylinear::test_streams_and_threads();
  return report();
}
