// Calls of a kernel for CUDA, against a fake backend: what reaches it, and what becomes of each failure.
#include "cuda_node.h"

#include <atomic>
#include <thread>

#include "count_allocations.h"
#include "operators/mylinear/cuda_op.h"

namespace mylinear {
namespace {

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

// Version 2 of the operator: what becomes of its attribute, and of W in 16 bits.
void test_activations_and_weights_of_another_type() {
  const Release release("1.24.4", 24);
  const OrtSessionOptions options = registered(release);
  const auto half = [](float value) { return kernels::to_float16(value).bits; };
  const uint16_t narrow[] = {half(1), half(0), half(-2), half(3)};
  OrtValue weight = make_value(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, {2, 2});
  std::memcpy(weight.data.data(), narrow, sizeof narrow);
  const OrtValue x = make_floats({1, 2}, {3, 1}), bias = make_floats({2}, {1, 0});
  const OrtCustomOp& op =
      mixed_cuda_op(options, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16);
  const OrtCustomOp& same = cuda_op(options, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
  const OrtValue wide = make_floats({2, 2}, {1, 0, -2, 3});
  for (int a = 0; a < kernels::kNumActivations; ++a) {
    for (const bool is_mixed : {true, false}) {
      const OrtCustomOp& used = is_mixed ? op : same;
      OrtKernelInfo info{3, {nullptr, nullptr, nullptr}, {}, {}};
      info.texts["activation"] = kernels::kActivationNames[a];
      void* kernel = nullptr;
      CHECK(take_message(used.CreateKernelV2(&used, release.api(), &info, &kernel)).empty());
      OrtValue y = make_floats({1, 2}, {0, 0});
      OrtKernelContext context{{&x, is_mixed ? &weight : &wide, &bias}, &y};
      CHECK(take_message(used.KernelComputeV2(kernel, &context)).empty());
      cuda::Call call;
      last_call_function()(&call, nullptr);
      CHECK(call.activation == a && call.element_type == 1 && call.weight_type == (is_mixed ? 2 : 1));
      if (a == static_cast<int>(kernels::Activation::kRelu)) {
        CHECK((floats(y) == std::vector<float>{4, 0}));
      }
      used.KernelDestroy(kernel);
    }
  }
  OrtKernelInfo info{3, {nullptr, nullptr, nullptr}, {}, {}};
  info.texts["activation"] = "swish";
  void* kernel = nullptr;
  CHECK(take_message(op.CreateKernelV2(&op, release.api(), &info, &kernel)) ==
        "MYLINEAR: attribute activation must be none, relu, gelu, gelu_tanh, silu, sigmoid or tanh, got "
        "swish");
  Node node(op, release.api(), 3);
  OrtValue y = make_floats({1, 2}, {0, 0});
  OrtKernelContext context{{&x, &wide, &bias}, &y};
  CHECK(node.compute(&context) ==
        "MYLINEAR: weight must be float16 (the kernel that ORT chose), got ONNX element type 1");
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
        "MYLINEAR: the attributes must be among activation, got alpha");

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
  if (!mylinear::set_up()) return 1;
  // Argument 0 may be relative, and so what dladdr says of this program.
  setenv("MYLINEAR_CUDA_LIBRARY", (mylinear::directory + "libmylinear_cuda.so").c_str(), 1);
  mylinear::test_what_reaches_the_backend();
  mylinear::test_every_type_and_an_absent_bias();
  mylinear::test_activations_and_weights_of_another_type();
  mylinear::test_empty_outputs_call_nothing_and_empty_sums_do();
  mylinear::test_large_sizes();
  mylinear::test_failures_become_statuses();
  mylinear::test_streams_and_threads();
  return report();
}
