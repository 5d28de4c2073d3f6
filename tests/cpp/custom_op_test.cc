// The headers that an author of a kernel writes against, with operators of this test's own on a fake
// onnxruntime: overloads, attributes, optional inputs and outputs, shape inference, failures.
#include <set>

#include "author_ops.h"
#include "count_allocations.h"

namespace mylinear {
namespace {

void test_what_onnxruntime_is_told() {
  const Release release("1.24.4", 24);
  static_assert(ort::num_overloads<Scale>() == 4 && ort::num_overloads<Other>() == 1);
  std::set<std::pair<int, int>> types;
  for (size_t i = 0; i < 4; ++i) {
    const ort::CustomOp<Scale> op({release.api(), 24}, i);
    types.insert({op.GetInputType(&op, 0), op.GetInputType(&op, 2)});
    CHECK(op.GetInputType(&op, 1) == op.GetInputType(&op, 0) &&
          op.GetOutputType(&op, 0) == op.GetInputType(&op, 0));
    CHECK(op.GetOutputType(&op, 1) == op.GetInputType(&op, 2));
    CHECK(op.GetInputTypeCount(&op) == 3 && op.GetOutputTypeCount(&op) == 2);
    CHECK(op.GetInputCharacteristic(&op, 0) == INPUT_OUTPUT_REQUIRED);
    CHECK(op.GetInputCharacteristic(&op, 1) == INPUT_OUTPUT_OPTIONAL);
    CHECK(op.GetInputCharacteristic(&op, 2) == INPUT_OUTPUT_REQUIRED);
    CHECK(op.GetOutputCharacteristic(&op, 0) == INPUT_OUTPUT_REQUIRED);
    CHECK(op.GetOutputCharacteristic(&op, 1) == INPUT_OUTPUT_OPTIONAL);
    CHECK(op.GetStartVersion(&op) == 3 && op.GetEndVersion(&op) == 3 && op.InferOutputShapeFn);
    CHECK(op.GetName(&op) == std::string("SCALE"));
    CHECK(op.GetExecutionProviderType(&op) == std::string("CPUExecutionProvider"));
  }
  CHECK(types.size() == 4);
  const ort::CustomOp<Other> other({release.api(), 24}, 0, 7);
  CHECK(other.GetExecutionProviderType(&other) == std::string("CUDAExecutionProvider"));
  CHECK(other.GetStartVersion(&other) == 1 && other.GetEndVersion(&other) == 2 && !other.InferOutputShapeFn);
  CHECK(other.GetInputType(&other, 1) == ort::kUint8 && other.GetOutputType(&other, 0) == ort::kFloat16);
}

void test_listed_overloads() {
  const Release release("1.24.4", 24);
  static_assert(ort::num_overloads<Some>() == 3 && ort::num_overloads<WithoutFloat64>() == 1);
  static_assert(ort::has_possible_overloads<Scale>() && ort::has_possible_overloads<Some>());
  static_assert(!ort::has_possible_overloads<WithImpossible>() && !ort::has_possible_overloads<WithTooFew>());
  const int expected[][2] = {
      {ort::kFloat64, ort::kFloat32}, {ort::kFloat32, ort::kInt8}, {ort::kFloat32, ort::kFloat16}};
  for (size_t i = 0; i < 3; ++i) {
    const ort::CustomOp<Some> op({release.api(), 24}, i);
    CHECK(op.GetInputType(&op, 0) == expected[i][0] && op.GetInputType(&op, 1) == expected[i][1]);
    CHECK(op.GetInputType(&op, 2) == ort::kInt64 && op.GetOutputType(&op, 0) == expected[i][1]);
  }
  OrtSessionOptions options;
  ort::add_operators(ort::Runtime{release.api(), 24}, Machine{1}, &options, ort::TypeList<Some>{});
  CHECK(options.domains.size() == 1 && options.domains[0]->ops.size() == 3);
}

void test_attributes() {
  const Release release("1.24.4", 24);
  Node plain(release, 24);
  CHECK(plain.compute().empty() && plain.read<float>(plain.y) == (std::vector<float>{10.5f, 9, 11.5f, 8}));
  Node set(release, 24, {3, {nullptr, nullptr, nullptr}, {{"alpha", 2.0f}}, {{"steps", 3}}});
  CHECK(set.compute().empty() && set.read<float>(set.y) == (std::vector<float>{16, -2, 28, -14}));
  CHECK((set.read<int32_t>(set.signs) == std::vector<int32_t>{9, 0, 9, 0}));
  Node wrong(release, 24, {3, {nullptr, nullptr, nullptr}, {}, {{"alpha", 2}}});
  CHECK(wrong.creation == "SCALE: attribute alpha must be a float, got an int" && !wrong.kernel);

  const ort::CustomOp<Other> other({release.api(), 24}, 0, 7);
  OrtKernelInfo info{2, {nullptr, nullptr}, {}, {}};
  void* kernel = nullptr;
  CHECK(take_message(other.CreateKernelV2(&other, release.api(), &info, &kernel)) ==
        "OTHER: attribute size must be given, got nothing");
  info.integers["size"] = 5;
  CHECK(!other.CreateKernelV2(&other, release.api(), &info, &kernel));
  CHECK(static_cast<const ort::Node<ort::CustomOp<Other>>*>(kernel)->kernel.size == 12);
  other.KernelDestroy(kernel);
  CHECK(fake_ort::live_statuses == 0);
}

void test_what_a_node_leaves_out() {
  for (const uint32_t version : {17u, 24u}) {
    const Release release(version == 17 ? "1.17.3" : "1.24.4", version);
    Node node(release, version);
    node.context.inputs[1] = nullptr;
    node.context.more_outputs = {nullptr};
    CHECK(node.compute().empty() && node.read<float>(node.y) == (std::vector<float>{0.5f, -1, 1.5f, -2}));
    node.context.more_outputs = {};
    CHECK(node.compute().empty());
    CHECK((node.read<int32_t>(node.signs) == std::vector<int32_t>{0, 0, 0, 0}));
    node.context.inputs[0] = nullptr;
    CHECK(node.compute() == "SCALE: X must be given, got nothing");
    node.context.inputs[0] = &node.x;
    node.context.inputs[1] = &node.count;
    CHECK(node.compute() ==
          "SCALE: offset must be float32 (the kernel that ORT chose), got ONNX element type 6");
    Node constant(release, version, {3, {nullptr, &node.offset, nullptr}, {}, {}});
    constant.context.inputs[1] = nullptr;
    CHECK(constant.compute().empty() && constant.read<float>(constant.y)[0] == 10.5f);
  }
}

void test_failures_become_statuses() {
  const Release release("1.24.4", 24);
  Node node(release, 24);
  const std::pair<const char*, OrtErrorCode> rows[] = {
      {"SCALE: out of memory", ORT_FAIL},
      {"SCALE: unknown C++ exception", ORT_FAIL},
      {"SCALE: not today", ORT_NOT_IMPLEMENTED},
      {"SCALE: a kernel failed in the thread pool", ORT_FAIL}};
  for (const auto& [text, expected] : rows) {
    ++behaviour;
    OrtErrorCode code = ORT_OK;
    CHECK(node.compute(&code) == text && code == expected);
  }
  behaviour = 0;
  for (const uint32_t version : {17u, 24u}) {
    const Release injecting(version == 17 ? "1.17.3" : "1.24.4", version);
    int num_failures_seen = 0;
    for (int n = 0;; ++n) {
      fake_ort::calls_until_failure = n;
      Node failing(injecting, version);
      std::string message = failing.creation;
      if (message.empty()) message = failing.compute();
      const bool was_reached = fake_ort::calls_until_failure < 0;
      fake_ort::calls_until_failure = -1;
      if (!was_reached) break;
      ++num_failures_seen;
      CHECK_MESSAGE(message == "injected", message);
      if (failing.kernel) CHECK(failing.compute().empty());
    }
    CHECK(num_failures_seen >= 10);
  }
  CHECK(fake_ort::live_statuses == 0 && fake_ort::live_infos == 0);
}

void test_a_call_allocates_nothing() {
  for (const uint32_t version : {17u, 24u}) {
    const Release release(version == 17 ? "1.17.3" : "1.24.4", version);
    Node node(release, version);
    num_allocations = 0;
    is_counting = true;
    OrtStatus* status = node.op.KernelComputeV2(node.kernel, &node.context);
    is_counting = false;
    CHECK(!status && num_allocations == 0);
  }
}

void test_shape_inference() {
  const Release release("1.24.4", 24);
  const ort::CustomOp<Scale> op({release.api(), 24}, 0);
  OrtShapeInferContext context;
  const auto infer = [&](std::vector<OrtTensorTypeAndShapeInfo> inputs) {
    context = {};
    context.inputs = std::move(inputs);
    CHECK(take_message(op.InferOutputShapeFn(&op, &context)).empty());
  };
  // The types are those of the node, whichever overload is asked; an optional output is never stated.
  infer({{kFloat, {-1, 3}, {"batch", ""}}, {}, {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, {}, {}}});
  CHECK(context.output.type == kFloat && (context.output.dims == std::vector<int64_t>{-1, 3}));
  CHECK((context.output.names == std::vector<std::string>{"batch", ""}));
  CHECK((context.set_outputs == std::vector<size_t>{0}));
  infer({{kFloat, {-1, 3}, {"", ""}}});  // a dimension of which nothing is known
  CHECK(!context.is_set);
  infer({{kFloat, {}, {}}});  // an unknown rank, or a scalar
  CHECK(!context.is_set);
  infer({});
  CHECK(!context.is_set);
}

}  // namespace
}  // namespace mylinear

int main() {
  mylinear::test_what_onnxruntime_is_told();
  mylinear::test_listed_overloads();
  mylinear::test_attributes();
  mylinear::test_what_a_node_leaves_out();
  mylinear::test_failures_become_statuses();
  mylinear::test_a_call_allocates_nothing();
  mylinear::test_shape_inference();
  return report();
}
