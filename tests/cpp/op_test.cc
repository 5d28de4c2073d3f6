// The ORT-facing code against a fake onnxruntime: versions, allocations in the hot call, failures of every
// ORT function in turn, exceptions in the pool, threads.
#include "operators/mylinear/cpu_op.h"

#include <cstdlib>
#include <map>
#include <stdexcept>

#include "check.h"
#include "count_allocations.h"
#include "fake_ort.h"
#include "kernels/gemm.h"
#include "ort/custom_op.h"

extern "C" mylinear::abi::OrtStatus* RegisterCustomOps(mylinear::abi::OrtSessionOptions* options,
                                                       const mylinear::abi::OrtApiBase* base);

namespace mylinear {
namespace {

using namespace abi;
using fake_ort::Release;
using kernels::ElementType;

OrtValue make_value(std::vector<int64_t> dims, float element,
                    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
  size_t count = 1;
  for (const int64_t dim : dims) count *= static_cast<size_t>(dim);
  OrtValue value{
      type, dims, std::vector<unsigned char>(count * sizeof(float)), {type, dims, {"owned by its value"}}};
  for (size_t i = 0; i < count; ++i)
    std::memcpy(value.data.data() + i * sizeof(float), &element, sizeof element);
  return value;
}

float element(const OrtValue& value, size_t index) {
  float result;
  std::memcpy(&result, value.data.data() + index * sizeof(float), sizeof result);
  return result;
}

std::string take_message(OrtStatus* status) {
  if (!status) return "";
  const std::string message = status->message;
  fake_ort::Functions::ReleaseStatus(status);
  return message;
}

// The float32 op that registration put into the options.
const OrtCustomOp& float32_op(const OrtSessionOptions& options) {
  for (const OrtCustomOp* op : options.domains.at(0)->ops) {
    if (op->GetInputType(op, 0) == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) return *op;
  }
  std::abort();
}

void test_versions() {
  struct Row {
    const char* text;
    uint32_t api;        // what the release has
    uint32_t asked_for;  // what it must be asked for; 0: refused
  };
  const Row rows[] = {{"1.17.3", 17, 17},       {"1.20.1", 20, 20}, {"1.23.2", 23, 23},
                      {"1.24.4", 24, 24},       {"1.32.0", 32, 25}, {"2.0.0", 99, 25},
                      {"1.33.0-dev+7", 33, 25}, {"1.16.3", 16, 0},  {"1.9.0", 9, 0},
                      {"0.20.0", 20, 0},        {"", 1, 0},         {"unknown", 20, 0}};
  for (const Row& row : rows) {
    const Release release(row.text, row.api);
    OrtSessionOptions options;
    const std::string message = take_message(RegisterCustomOps(&options, release.base()));
    if (row.asked_for == 0) {
      CHECK_MESSAGE(message == std::string("MYLINEAR: onnxruntime must be 1.17 or newer, got ") + row.text,
                    message);
      CHECK(options.domains.empty());
      continue;
    }
    CHECK_MESSAGE(message.empty(), message);
    CHECK(release.asked_for() == row.asked_for);
    CHECK(options.domains.size() == 1 && options.domains[0]->name == "mylinear");
    std::map<std::string, size_t> overloads;
    for (const OrtCustomOp* op : options.domains[0]->ops) ++overloads[op->GetName(op)];
    const std::map<std::string, size_t> expected = {{"MYLINEAR", 6}, {"MYLINEARGRAD", 4}, {"ADAMSTEP", 2}};
    CHECK(overloads == expected);
    const OrtCustomOp& op = float32_op(options);
    CHECK(op.version == (row.asked_for < 18 ? row.asked_for : 18));
    CHECK((op.InferOutputShapeFn != nullptr) == (row.asked_for >= 24));
    CHECK(op.CreateKernelV2 && op.KernelComputeV2 && !op.GetMayInplace && !op.GetAliasMap);
    OrtSessionOptions again;
    CHECK(take_message(RegisterCustomOps(&again, release.base())).empty());
    CHECK(again.domains == options.domains);  // one domain serves all sessions
  }
}

// One node: x [M, 300], weight [70, 300] and bias [70] of ones, 2s and 3s.
class Node {
 public:
  Node(const OrtCustomOp& op, const OrtApi* api, int64_t M, bool is_constant)
      : op_(op),
        x_(make_value({M, 300}, 1)),
        weight_(make_value({70, 300}, 2)),
        bias_(make_value({70}, 3)),
        y_(make_value({M, 70}, 0)),
        info_{3, {nullptr, is_constant ? &weight_ : nullptr, is_constant ? &bias_ : nullptr}, {}, {}} {
    y_.dims.reserve(8);
    context_ = {{&x_, &weight_, &bias_}, &y_};
    creation_ = take_message(op_.CreateKernelV2(&op_, api, &info_, &kernel_));
  }
  Node(const Node&) = delete;
  ~Node() {
    if (kernel_) op_.KernelDestroy(kernel_);
  }
  const std::string& creation() const { return creation_; }
  void* kernel() const { return kernel_; }
  OrtKernelContext* context() { return &context_; }
  OrtValue* y() { return &y_; }
  std::string compute() { return take_message(op_.KernelComputeV2(kernel_, &context_)); }
  bool is_right() const {
    bool is_right = true;
    for (size_t i = 0; i < y_.data.size() / sizeof(float); ++i) is_right = is_right && element(y_, i) == 603;
    return is_right;
  }

 private:
  const OrtCustomOp& op_;
  OrtValue x_, weight_, bias_, y_;
  OrtKernelInfo info_;
  OrtKernelContext context_;
  void* kernel_ = nullptr;
  std::string creation_;
};

void test_compute_without_allocation() {
  for (const auto& [text, version] :
       {std::pair{"1.17.3", 17u}, {"1.23.2", 23u}, {"1.24.4", 24u}, {"1.32.0", 32u}}) {
    const Release release(text, version);
    OrtSessionOptions options;
    CHECK(take_message(RegisterCustomOps(&options, release.base())).empty());
    for (const bool is_constant : {true, false}) {
      for (const int64_t M : {1, 4, 5, 200}) {
        Node node(float32_op(options), release.api(), M, is_constant);
        CHECK(node.creation().empty() && node.kernel());
        num_allocations = 0;
        is_counting = true;
        OrtStatus* status = float32_op(options).KernelComputeV2(node.kernel(), node.context());
        is_counting = false;
        CHECK(!status);
        CHECK_MESSAGE(num_allocations == 0, std::string(text) + ": the hot call allocates");
        CHECK(node.is_right());
      }
    }
  }
}

void test_every_failure_of_ort_is_handed_back() {
  for (const uint32_t version : {17u, 24u}) {
    const Release release(version == 17 ? "1.17.3" : "1.24.4", version);
    // Registration: what was made before the failure is released.
    for (int n = 0;; ++n) {
      const int domains = fake_ort::live_domains;
      OrtSessionOptions options;
      fake_ort::calls_until_failure = n;
      const std::string message = take_message(RegisterCustomOps(&options, release.base()));
      const bool was_reached = fake_ort::calls_until_failure < 0;
      fake_ort::calls_until_failure = -1;
      if (!was_reached) break;
      CHECK_MESSAGE(message == "injected", message);
      // The domain outlives a failure to add it to the options, for the next registration.
      CHECK(options.domains.empty() && fake_ort::live_domains <= domains + 1);
    }
    OrtSessionOptions options;
    CHECK(take_message(RegisterCustomOps(&options, release.base())).empty());
    for (const bool is_constant : {true, false}) {
      int num_failures_seen = 0;
      for (int n = 0;; ++n) {
        fake_ort::calls_until_failure = n;
        Node node(float32_op(options), release.api(), 200, is_constant);
        std::string message = node.creation();
        if (message.empty()) message = node.compute();
        const bool was_reached = fake_ort::calls_until_failure < 0;
        fake_ort::calls_until_failure = -1;
        if (!was_reached) break;
        ++num_failures_seen;
        CHECK_MESSAGE(message == "injected", message);
        if (node.kernel()) CHECK(node.compute().empty() && node.is_right());  // and the node is still usable
      }
      CHECK(num_failures_seen >= 10);
    }
    if (version < kShapeInferenceIsSafeSince) continue;
    for (int n = 0;; ++n) {
      OrtShapeInferContext context;
      context.inputs = {{ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, {-1, 3}, {"batch", ""}},
                        {ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, {5, 3}, {"", ""}}};
      fake_ort::calls_until_failure = n;
      const OrtCustomOp& op = float32_op(options);
      const std::string message = take_message(op.InferOutputShapeFn(&op, &context));
      const bool was_reached = fake_ort::calls_until_failure < 0;
      fake_ort::calls_until_failure = -1;
      if (was_reached) {
        CHECK(message == "injected" && !context.is_set);
        continue;
      }
      CHECK(context.is_set && context.output.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE);
      CHECK((context.output.dims == std::vector<int64_t>{-1, 5}));
      CHECK((context.output.names == std::vector<std::string>{"batch", ""}));
      break;
    }
  }
  CHECK(fake_ort::live_statuses == 0);
  CHECK(fake_ort::live_infos == 0);
}

void test_inputs_that_ort_should_not_pass() {
  const Release release("1.24.4", 24);
  OrtSessionOptions options;
  CHECK(take_message(RegisterCustomOps(&options, release.base())).empty());
  Node node(float32_op(options), release.api(), 5, false);
  OrtValue other = make_value({70, 300}, 2, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16);
  node.context()->inputs[1] = &other;
  CHECK(node.compute() ==
        "MYLINEAR: weight must be float32 (the kernel that ORT chose), got ONNX element type 10");
  node.context()->inputs[1] = nullptr;
  CHECK(node.compute() == "MYLINEAR: weight must be given, got nothing");
}

void test_attributes() {
  const Release release("1.24.4", 24);
  OrtSessionOptions options;
  CHECK(take_message(RegisterCustomOps(&options, release.base())).empty());
  const OrtCustomOp& op = float32_op(options);
  const OrtKernelInfo info{3, {nullptr, nullptr, nullptr}, {{"alpha", 0.5f}}, {{"transB", 1}}};
  void* kernel = nullptr;
  const std::string message = take_message(op.CreateKernelV2(&op, release.api(), &info, &kernel));
  CHECK_MESSAGE(message == "MYLINEAR: the attributes must be among activation, got alpha, transB", message);
  CHECK(!kernel && fake_ort::live_statuses == 0);
}

void test_an_exception_in_the_pool_becomes_a_status() {
  const Release release("1.24.4", 24);
  const kernels::Isa& best = *kernels::find_isa(nullptr);
  kernels::GemmKernel table[kernels::kNumGemmKernels];
  for (int i = 0; i < kernels::kNumGemmKernels; ++i) {
    table[i] = kernels::gemm_kernels(best)[i];
    table[i].run = [](const kernels::GemmParams&, size_t, size_t) {
      throw std::runtime_error("from a kernel");
    };
  }
  const ort::CustomOp<my_linear::CpuOp> op({release.api(), 24}, static_cast<size_t>(ElementType::kFloat32),
                                           table);
  fake_ort::num_pool_threads = 3;
  Node large(op, release.api(), 200, true);
  CHECK(large.compute() == "MYLINEAR: a kernel failed in the thread pool");
  Node small(op, release.api(), 0, true);
  CHECK(small.compute().empty());
  fake_ort::num_pool_threads = 0;
}

void test_threads() {
  const Release release("1.24.4", 24);
  fake_ort::num_pool_threads = 3;
  const OrtApiBase* base = release.base();
  std::vector<std::thread> threads;
  std::atomic<int> num_right{0};
  OrtSessionOptions shared;
  CHECK(take_message(RegisterCustomOps(&shared, base)).empty());
  Node node(float32_op(shared), release.api(), 200, true);
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      OrtSessionOptions own;
      const bool is_registered = !RegisterCustomOps(&own, base);
      OrtValue x = make_value({200, 300}, 1), y = make_value({200, 70}, 0);
      OrtKernelContext context{{&x, node.context()->inputs[1], node.context()->inputs[2]}, &y};
      const OrtCustomOp& op = float32_op(own);
      const bool is_computed = !op.KernelComputeV2(node.kernel(), &context);
      if (is_registered && is_computed && element(y, 0) == 603 && element(y, 200 * 70 - 1) == 603)
        ++num_right;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(num_right == 8);
  fake_ort::num_pool_threads = 0;
}

}  // namespace
}  // namespace mylinear

int main() {
  unsetenv("MYLINEAR_ISA");
  mylinear::test_versions();
  mylinear::test_compute_without_allocation();
  mylinear::test_every_failure_of_ort_is_handed_back();
  mylinear::test_inputs_that_ort_should_not_pass();
  mylinear::test_attributes();
  mylinear::test_an_exception_in_the_pool_becomes_a_status();
  mylinear::test_threads();
  return report();
}
