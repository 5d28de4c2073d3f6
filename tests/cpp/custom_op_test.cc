// The headers that an author of a kernel writes against, with operators of this test's own on a fake
// onnxruntime: overloads, attributes, optional inputs and outputs, shape inference, failures, registration.
#include <cstring>
#include <new>
#include <set>

#include "check.h"
#include "count_allocations.h"
#include "fake_ort.h"
#include "ort/registration.h"

namespace mylinear {
namespace {

using namespace abi;
using fake_ort::Release;

int behaviour = 0;  // what Scale's kernel throws

// Y = alpha * X + OFFSET; SIGNS = COUNT where Y > 0, else 0.
struct Scale {
  static constexpr char kDomain[] = "test.domain";
  static constexpr char kName[] = "SCALE";
  static constexpr int kSinceVersion = 3;
  static constexpr ort::TypeVariable kTypes[] = {{"T", {ort::kFloat64, ort::kFloat32}},
                                                 {"I", {ort::kInt32, ort::kInt64}}};
  static constexpr ort::Parameter kInputs[] = {
      {"X", "T"}, {"OFFSET", "T", ort::kOptional, "offset"}, {"COUNT", "I"}};
  static constexpr ort::Parameter kOutputs[] = {{"Y", "T"}, {"SIGNS", "I", ort::kOptional}};
  static constexpr ort::Attribute kAttributes[] = {
      ort::float_attribute("alpha", 0.5f), ort::int_attribute("steps", 1),
      ort::string_attribute("mode", "plain"), ort::ints_attribute("axes"), ort::floats_attribute("weights")};

  class Kernel {
   public:
    explicit Kernel(const ort::KernelInfo& info)
        : alpha_(info.attributes().get_float("alpha")), steps_(info.attributes().get_int("steps")) {
      CHECK(info.attributes().get_string("mode") == "plain" && info.attributes().get_ints("axes").empty());
      CHECK(info.attributes().get_floats("weights").empty() && info.num_inputs() == 3);
      CHECK(info.output_type(0) == info.input_type(0) && info.output_type(1) == info.input_type(2));
      if (info.input_type(0) == ort::kFloat32) has_constant_ = info.read_constant(1, &offset_);
    }

    void compute(const ort::Call& call) const {
      if (behaviour == 1) throw std::bad_alloc();
      if (behaviour == 2) throw 5;
      if (behaviour == 3) throw ort::Error(ORT_NOT_IMPLEMENTED, "SCALE: not today");
      if (behaviour == 4) call.parallel_for(7, 3, [](size_t, size_t) { throw 5; });
      ort::TensorView x, own_offset, count;
      call.read_input(0, &x);
      const bool has_offset = has_constant_ || call.read_input(1, &own_offset);
      call.read_input(2, &count);
      const float offset = has_constant_ ? *offset_.as<float>() : has_offset ? *own_offset.as<float>() : 0;
      const ort::Output y = call.make_output(0, x.shape);
      const ort::Output signs = call.make_output(1, x.shape);
      call.parallel_for(x.count(), 2, [&](size_t first, size_t last) {
        for (size_t i = first; i < last; ++i) {
          const float value = alpha_ * static_cast<float>(steps_) * x.as<float>()[i] + offset;
          y.as<float>()[i] = value;
          if (signs) signs.as<int32_t>()[i] = value > 0 ? *count.as<int32_t>() : 0;
        }
      });
    }

   private:
    float alpha_;
    int64_t steps_;
    bool has_constant_ = false;
    ort::TensorView offset_;
  };

  static void infer_shapes(const ort::ShapeInference& shapes) {
    ort::InferredShape x;
    shapes.read_input(0, &x);
    if (x.rank == 0) return;
    shapes.set_output(0, x);
    shapes.set_output(1, x);
  }
};

// Needs an attribute and a machine, has a fixed element type and no shape rule.
struct Other {
  static constexpr char kDomain[] = "test.domain";
  static constexpr char kName[] = "OTHER";
  static constexpr int kSinceVersion = 1;
  static constexpr int kEndVersion = 2;
  static constexpr const char* kProvider = ort::kCudaProvider;
  static constexpr ort::TypeVariable kTypes[] = {{"T", {ort::kBool}}};
  static constexpr ort::Parameter kInputs[] = {{"A", "T"}, {"B", "uint8"}};
  static constexpr ort::Parameter kOutputs[] = {{"C", "float16"}};
  static constexpr ort::Attribute kAttributes[] = {ort::required("size", ort::AttributeKind::kInt)};
  using Resources = int;

  struct Kernel {
    Kernel(const ort::KernelInfo& info, int resources)
        : size(info.attributes().get_int("size") + resources) {}
    void compute(const ort::Call&) const {}
    int64_t size;
  };

  template <class Machine>
  static bool is_offered(const Machine& machine) {
    return machine.number > 0;
  }
  template <class Machine>
  static Resources resources(const Machine& machine) {
    return machine.number;
  }
};

struct Elsewhere : Scale {
  static constexpr char kDomain[] = "test.other";
};

struct Machine {
  int number;
  bool operator==(const Machine& other) const { return number == other.number; }
};

OrtValue make_value(ONNXTensorElementDataType type, std::vector<int64_t> dims, std::vector<float> values) {
  OrtValue value{
      type, dims, std::vector<unsigned char>(values.size() * 4), {type, dims, {"owned by its value"}}};
  value.dims.reserve(8);
  for (size_t i = 0; i < values.size(); ++i) {
    const auto number = static_cast<int32_t>(values[i]);
    const void* from =
        type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 ? static_cast<const void*>(&number) : &values[i];
    std::memcpy(value.data.data() + i * 4, from, 4);
  }
  return value;
}

std::string take_message(OrtStatus* status, OrtErrorCode* code = nullptr) {
  if (!status) return "";
  const std::string message = status->message;
  if (code) *code = status->code;
  fake_ort::Functions::ReleaseStatus(status);
  return message;
}

constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr auto kInt32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
constexpr size_t kFloatAndInt32 = 1;  // the overload

// One node of SCALE: X [2, 2], COUNT 9.
struct Node {
  explicit Node(const Release& release, uint32_t version,
                OrtKernelInfo with = {3, {nullptr, nullptr, nullptr}, {}, {}})
      : op({release.api(), version}, kFloatAndInt32), info(std::move(with)) {
    context = {{&x, &offset, &count}, &y};
    context.more_outputs = {&signs};
    creation = take_message(op.CreateKernelV2(&op, release.api(), &info, &kernel));
  }
  Node(const Node&) = delete;
  ~Node() {
    if (kernel) op.KernelDestroy(kernel);
  }
  std::string compute(OrtErrorCode* code = nullptr) {
    return take_message(op.KernelComputeV2(kernel, &context), code);
  }
  template <class T>
  std::vector<T> read(const OrtValue& value) const {
    std::vector<T> result(value.data.size() / sizeof(T));
    std::memcpy(result.data(), value.data.data(), value.data.size());
    return result;
  }

  OrtValue x = make_value(kFloat, {2, 2}, {1, -2, 3, -4}), offset = make_value(kFloat, {1}, {10}),
           count = make_value(kInt32, {}, {9}), y = make_value(kFloat, {2, 2}, {0, 0, 0, 0}),
           signs = make_value(kInt32, {2, 2}, {0, 0, 0, 0});
  ort::CustomOp<Scale> op;
  OrtKernelInfo info;
  OrtKernelContext context;
  void* kernel = nullptr;
  std::string creation;
};

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
  const std::string text = ort::describe(ort::TypeList<Scale, Other>{});
  for (const char* part :
       {"[{\"domain\": \"test.domain\", \"name\": \"SCALE\", \"since_version\": 3",
        "{\"name\": \"T\", \"types\": [\"float64\", \"float32\"]}",
        "{\"name\": \"OFFSET\", \"type\": \"T\", \"optional\": true, \"argument\": \"offset\"}",
        "{\"name\": \"alpha\", \"kind\": 1, \"required\": false, \"default\": 0.5}",
        "{\"name\": \"mode\", \"kind\": 3, \"required\": false, \"default\": \"plain\"}",
        "{\"name\": \"size\", \"kind\": 2, \"required\": true, \"default\": null}"}) {
    CHECK_MESSAGE(text.find(part) != std::string::npos, text);
  }
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

void test_registration() {
  const Release release("1.24.4", 24);
  OrtSessionOptions options, again, without, elsewhere;
  const auto add = [&](int number, OrtSessionOptions* to) {
    ort::add_operators(ort::Runtime{release.api(), 24}, Machine{number}, to,
                       ort::TypeList<Scale, Other, Elsewhere>{});
  };
  add(1, &options);
  CHECK(options.domains.size() == 2 && options.domains[0]->name == "test.domain");
  CHECK(options.domains[0]->ops.size() == 5 && options.domains[1]->ops.size() == 4);
  add(1, &again);
  CHECK(again.domains == options.domains);  // one domain serves all sessions
  add(0, &without);
  CHECK(without.domains.size() == 2 && without.domains[0]->ops.size() == 4 &&
        without.domains != options.domains);
  for (int n = 0;; ++n) {
    const int domains = fake_ort::live_domains;
    OrtSessionOptions failing;
    fake_ort::calls_until_failure = n;
    std::string message;
    const Release injecting("1.24.4", 24);
    message = take_message(ort::register_library<Scale, Elsewhere>(&failing, injecting.base()));
    const bool was_reached = fake_ort::calls_until_failure < 0;
    fake_ort::calls_until_failure = -1;
    if (!was_reached) {
      CHECK(message.empty() && failing.domains.size() == 2);
      break;
    }
    CHECK(message == "injected");
    CHECK(fake_ort::live_domains == domains || fake_ort::live_domains == domains + 2);
  }
  const Release old("1.16.3", 16);
  CHECK(take_message(ort::register_library<Scale>(&elsewhere, old.base())) ==
        "SCALE: onnxruntime must be 1.17 or newer, got 1.16.3");
  CHECK(elsewhere.domains.empty() && fake_ort::live_statuses == 0);
}

}  // namespace
}  // namespace mylinear

int main() {
  mylinear::test_what_onnxruntime_is_told();
  mylinear::test_attributes();
  mylinear::test_what_a_node_leaves_out();
  mylinear::test_failures_become_statuses();
  mylinear::test_a_call_allocates_nothing();
  mylinear::test_shape_inference();
  mylinear::test_registration();
  return report();
}
