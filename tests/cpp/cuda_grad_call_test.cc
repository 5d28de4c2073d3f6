// Calls of MYLINEARGRAD's kernel for CUDA, against a fake backend: what reaches it, and what becomes of each
// failure.
#include "count_allocations.h"
#include "cuda_node.h"
#include "operators/mylineargrad/cuda_op.h"

namespace mylinear {
namespace {

constexpr char kName[] = "MYLINEARGRAD";
constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;

// G [2, 2], X [2, 3] and W [2, 3] with leading dimensions, and the outputs whose bit is set.
struct Tensors {
  OrtValue grad = make_floats({1, 2, 2}, {1, 2, 3, 4}, 5);
  OrtValue x = make_floats({1, 2, 3}, {1, 0, 2, 0, 1, 1}, 5);
  OrtValue weight = make_floats({2, 3}, {1, 2, 3, 4, 5, 6}, 5);
  OrtValue grad_x = make_floats({1, 2, 3}, {-1, -1, -1, -1, -1, -1}, 5);
  OrtValue grad_weight = make_floats({2, 3}, {-1, -1, -1, -1, -1, -1}, 5);
  OrtValue grad_bias = make_floats({2}, {-1, -1}, 5);
  int stream = 0;

  OrtKernelContext context(unsigned outputs = 7) {
    OrtKernelContext made{{&grad, &x, &weight}, outputs & 1 ? &grad_x : nullptr, &stream, {{10011, &stream}}};
    made.more_outputs = {outputs & 2 ? &grad_weight : nullptr, outputs & 4 ? &grad_bias : nullptr};
    return made;
  }
  bool is_right(unsigned outputs = 7) const {
    const std::vector<float> none{-1, -1, -1, -1, -1, -1};
    return floats(grad_x) == (outputs & 1 ? std::vector<float>{9, 12, 15, 19, 26, 33} : none) &&
           floats(grad_weight) == (outputs & 2 ? std::vector<float>{1, 3, 5, 2, 4, 8} : none) &&
           floats(grad_bias) == (outputs & 4 ? std::vector<float>{4, 6} : std::vector<float>{-1, -1});
  }
};

void test_both_kernels_have_one_signature() {
  const Release release("1.24.4", 24);
  const OrtSessionOptions options = registered(release);
  CHECK(ops_of(options, kCpu, kName).size() == kernels::kNumElementTypes);
  CHECK(ops_of(options, kCuda, kName).size() == kernels::kNumElementTypes);
  const OrtCustomOp& cpu = *ops_of(options, kCpu, kName)[0];
  for (const OrtCustomOp* op : ops_of(options, kCuda, kName)) {
    CHECK(op->version == cpu.version && op->InferOutputShapeFn == cpu.InferOutputShapeFn);
    CHECK(op->GetInputTypeCount(op) == 3 && op->GetOutputTypeCount(op) == 3);
    for (size_t i = 0; i < 3; ++i) {
      CHECK(op->GetOutputCharacteristic(op, i) == cpu.GetOutputCharacteristic(&cpu, i));
      CHECK(op->GetInputMemoryType(op, i) == OrtMemTypeDefault);
      CHECK(op->GetOutputType(op, i) == op->GetInputType(op, i));
    }
  }
}

void test_every_choice_of_outputs_and_what_reaches_the_backend() {
  for (const auto& [text, version] : {std::pair{"1.17.3", 17u}, {"1.24.4", 24u}}) {
    const Release release(text, version);
    const OrtSessionOptions options = registered(release);
    const OrtCustomOp& op = cuda_op(options, kFloat, kName);
    Node node(op, release.api(), 3);
    CHECK_MESSAGE(node.creation.empty(), node.creation);
    for (unsigned outputs = 0; outputs < 8; ++outputs) {
      Tensors tensors;
      OrtKernelContext context = tensors.context(outputs);
      const int before = last_call_function()(nullptr, nullptr);
      num_allocations = 0;
      is_counting = version < 18;  // the fake's arena is on the heap
      OrtStatus* status = op.KernelComputeV2(node.kernel, &context);
      is_counting = false;
      CHECK(!status && num_allocations == 0);
      CHECK_MESSAGE(tensors.is_right(outputs), "outputs " + std::to_string(outputs));
      const int num_calls = last_call_function()(nullptr, nullptr) - before;
      CHECK(num_calls == static_cast<int>((outputs & 1) + (outputs >> 1 & 1) + (outputs >> 2)));
      CHECK(fake_ort::live_scratch.empty());
    }
    // One output at a time, for what the last call was.
    Tensors tensors;
    struct Row {
      unsigned output;
      cuda::Work work;
      uint64_t M, N, K;
      const OrtValue *x, *w, *y;
    };
    const Row rows[] = {
        {1, cuda::kProduct, 2, 3, 2, &tensors.grad, &tensors.weight, &tensors.grad_x},
        {2, cuda::kTransposedProduct, 2, 3, 2, &tensors.grad, &tensors.x, &tensors.grad_weight},
        {4, cuda::kSumOfRows, 1, 2, 2, nullptr, &tensors.grad, &tensors.grad_bias}};
    for (const Row& row : rows) {
      OrtKernelContext context = tensors.context(row.output);
      CHECK(node.compute(&context).empty());
      cuda::Call call;
      void* workspace = nullptr;
      last_call_function()(&call, &workspace);
      CHECK(call.work == row.work && call.M == row.M && call.N == row.N && call.K == row.K && !call.bias);
      CHECK(call.x == (row.x ? row.x->data.data() : nullptr) && call.w == row.w->data.data());
      CHECK(call.y == row.y->data.data() && call.stream == &tensors.stream && call.device == 5);
      CHECK(call.allows_tf32 == 1 && (workspace != nullptr) == (version >= 18));
      context.resources.clear();
      context.stream = nullptr;
      CHECK(node.compute(&context).empty());
      last_call_function()(&call, &workspace);
      CHECK(!call.allows_tf32 && !call.stream && !call.allocate);
    }
  }
}

void test_every_type() {
  const Release release("1.24.4", 24);
  const OrtSessionOptions options = registered(release);
  for (const auto type : {ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, kFloat, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
                          ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16}) {
    Node node(cuda_op(options, type, kName), release.api(), 3);
    const OrtValue grad = make_value(type, {4, 5}), x = make_value(type, {4, 3}),
                   weight = make_value(type, {5, 3});
    OrtValue grad_x = make_value(type, {4, 3});
    int resource = 0;
    OrtKernelContext context{{&grad, &x, &weight}, &grad_x, nullptr, {{10011, &resource}}};
    CHECK(node.compute(&context).empty());
    cuda::Call call;
    last_call_function()(&call, nullptr);
    CHECK(call.element_type == static_cast<int>(my_linear_grad::kernel_type(type)));
    CHECK(call.allows_tf32 == (type == kFloat));
  }
}

// Sums of no terms are zeros, and of an output without elements nothing is asked.
void test_empty_sizes() {
  const Release release("1.24.4", 24);
  const OrtSessionOptions options = registered(release);
  Node node(cuda_op(options, kFloat, kName), release.api(), 3);
  struct Row {
    int64_t M, N, K;
    int num_calls;
  };
  for (const Row& row : {Row{0, 2, 3, 2}, Row{2, 0, 3, 1}, Row{2, 3, 0, 1}, Row{0, 0, 3, 0}, Row{0, 2, 0, 1},
                         Row{2, 0, 0, 0}}) {
    const OrtValue grad = make_value(kFloat, {row.M, row.N}), x = make_value(kFloat, {row.M, row.K}),
                   weight = make_value(kFloat, {row.N, row.K});
    OrtValue grad_x = make_value(kFloat, {row.M, row.K}), grad_weight = make_value(kFloat, {row.N, row.K}),
             grad_bias = make_value(kFloat, {row.N});
    for (OrtValue* value : {&grad_x, &grad_weight, &grad_bias}) {
      if (!value->data.empty()) std::memset(value->data.data(), 0xff, value->data.size());
    }
    OrtKernelContext context{{&grad, &x, &weight}, &grad_x};
    context.more_outputs = {&grad_weight, &grad_bias};
    const int before = last_call_function()(nullptr, nullptr);
    CHECK(node.compute(&context).empty());
    CHECK(last_call_function()(nullptr, nullptr) == before + row.num_calls);
    CHECK((grad_x.dims == std::vector<int64_t>{row.M, row.K} && grad_bias.dims[0] == row.N));
    for (const OrtValue* value : {&grad_x, &grad_weight, &grad_bias}) {
      for (const float element : floats(*value)) CHECK(element == 0);
    }
  }
}

void test_failures_become_statuses() {
  const Release release("1.24.4", 24);
  const OrtSessionOptions options = registered(release);
  const OrtCustomOp& op = cuda_op(options, kFloat, kName);
  Node node(op, release.api(), 3);
  Tensors tensors;
  OrtKernelContext context = tensors.context();
  const std::pair<const char*, const char*> rows[] = {
      {"run out of memory", "MYLINEARGRAD: out of device memory: cublasLtMatmul: no memory"},
      {"fail", "MYLINEARGRAD: CUDA: cudaLaunchKernel: cudaErrorLaunchFailure"}};
  for (const auto& [behaviour, expected] : rows) {
    setenv("FAKE_BACKEND", behaviour, 1);
    const std::string message = node.compute(&context);
    CHECK_MESSAGE(message == expected, message);
  }
  unsetenv("FAKE_BACKEND");
  CHECK(node.compute(&context).empty() && tensors.is_right());  // and the node is still usable
  OrtValue wrong = make_floats({3, 2}, {1, 2, 3, 4, 5, 6});
  context.inputs[2] = &wrong;
  CHECK(
      node.compute(&context) ==
      "MYLINEARGRAD: weight must be [out_features, 3] (x has in_features 3), got [3, 2]; is it transposed?");
  context.inputs[2] = nullptr;
  CHECK(node.compute(&context) == "MYLINEARGRAD: weight must be given, got nothing");
  OrtKernelInfo info{3, {nullptr, nullptr, nullptr}, {{"alpha", 0.5f}}, {}};
  void* kernel = nullptr;
  CHECK(take_message(op.CreateKernelV2(&op, release.api(), &info, &kernel)) ==
        "MYLINEARGRAD: the attributes must be none, got alpha");

  int num_failures_seen = 0;
  for (const uint32_t version : {17u, 24u}) {
    const Release injecting(version == 17 ? "1.17.3" : "1.24.4", version);
    const OrtSessionOptions own = registered(injecting);
    for (int n = 0;; ++n) {
      Tensors fresh;
      OrtKernelContext one = fresh.context();
      fake_ort::calls_until_failure = n;
      Node failing(cuda_op(own, kFloat, kName), injecting.api(), 3);
      std::string message = failing.creation;
      if (message.empty()) message = failing.compute(&one);
      const bool was_reached = fake_ort::calls_until_failure < 0;
      fake_ort::calls_until_failure = -1;
      if (!was_reached) break;
      ++num_failures_seen;
      // Only memory to work in may be refused without the call failing.
      CHECK_MESSAGE(message == "injected" || (message.empty() && fresh.is_right()), message);
      CHECK(fake_ort::live_scratch.empty());
    }
  }
  CHECK(num_failures_seen > 20);
  CHECK(fake_ort::live_statuses == 0 && fake_ort::live_infos == 0);
}

}  // namespace
}  // namespace mylinear

int main() {
  if (!mylinear::set_up()) return 1;
  // Argument 0 may be relative, and so what dladdr says of this program.
  setenv("MYLINEAR_CUDA_LIBRARY", (mylinear::directory + "libmylinear_cuda.so").c_str(), 1);
  mylinear::test_both_kernels_have_one_signature();
  mylinear::test_every_choice_of_outputs_and_what_reaches_the_backend();
  mylinear::test_every_type();
  mylinear::test_empty_sizes();
  mylinear::test_failures_become_statuses();
  return report();
}
