// MYLINEARGRAD against a fake onnxruntime: every choice of outputs, no allocation in the hot call, failures
// of every ORT function in turn, messages, threads.
#include <cstdlib>

#include "check.h"
#include "count_allocations.h"
#include "fake_ort.h"
#include "operators/mylineargrad/cpu_op.h"
#include "ort/custom_op.h"

namespace mylinear {
namespace {

using namespace abi;
using fake_ort::Release;

constexpr int64_t kN = 70, kK = 300;

OrtValue make_value(std::vector<int64_t> dims, float element) {
  size_t count = 1;
  for (const int64_t dim : dims) count *= static_cast<size_t>(dim);
  OrtValue value{ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                 dims,
                 std::vector<unsigned char>(count * sizeof(float)),
                 {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, dims, {"owned by its value"}}};
  for (size_t i = 0; i < count; ++i)
    std::memcpy(value.data.data() + i * sizeof(float), &element, sizeof element);
  value.dims.reserve(8);
  return value;
}

bool is_full_of(const OrtValue& value, float expected) {
  for (size_t i = 0; i < value.data.size() / sizeof(float); ++i) {
    float element;
    std::memcpy(&element, value.data.data() + i * sizeof(float), sizeof element);
    if (element != expected) return false;
  }
  return true;
}

std::string take_message(OrtStatus* status) {
  if (!status) return "";
  const std::string message = status->message;
  fake_ort::Functions::ReleaseStatus(status);
  return message;
}

using Op = ort::CustomOp<my_linear_grad::CpuOp>;
constexpr size_t kFloat32 = 1;  // the overload

my_linear_grad::CpuKernels kernels_of(const kernels::Isa& isa) {
  return {kernels::matmul_kernels(isa), kernels::row_sum_kernels(isa)};
}

// One node with G [M, 70] of 2s, X [M, 300] of 3s and W [70, 300] of 4s, and the outputs whose bit is set.
class Node {
 public:
  Node(const Op& op, const OrtApi* api, int64_t M, unsigned outputs = 7)
      : op_(op),
        M_(M),
        outputs_(outputs),
        grad_(make_value({M, kN}, 2)),
        x_(make_value({M, kK}, 3)),
        weight_(make_value({kN, kK}, 4)),
        grad_x_(make_value({M, kK}, -1)),
        grad_weight_(make_value({kN, kK}, -1)),
        grad_bias_(make_value({kN}, -1)) {
    context_ = {{&grad_, &x_, &weight_}, outputs & 1 ? &grad_x_ : nullptr};
    context_.more_outputs = {outputs & 2 ? &grad_weight_ : nullptr, outputs & 4 ? &grad_bias_ : nullptr};
    creation_ = take_message(op_.CreateKernelV2(&op_, api, &info_, &kernel_));
  }
  Node(const Node&) = delete;
  ~Node() {
    if (kernel_) op_.KernelDestroy(kernel_);
  }
  const std::string& creation() const { return creation_; }
  void* kernel() const { return kernel_; }
  OrtKernelContext* context() { return &context_; }
  std::string compute() { return take_message(op_.KernelComputeV2(kernel_, &context_)); }
  // What the node has is right, and what it has not is untouched.
  bool is_right() const {
    const auto M = static_cast<float>(M_);
    return is_full_of(grad_x_, outputs_ & 1 ? 2 * 4 * kN : -1) &&
           is_full_of(grad_weight_, outputs_ & 2 ? 2 * 3 * M : -1) &&
           is_full_of(grad_bias_, outputs_ & 4 ? 2 * M : -1);
  }

 private:
  const Op& op_;
  int64_t M_;
  unsigned outputs_;
  OrtValue grad_, x_, weight_, grad_x_, grad_weight_, grad_bias_;
  OrtKernelInfo info_{3, {nullptr, nullptr, nullptr}, {}, {}};
  OrtKernelContext context_;
  void* kernel_ = nullptr;
  std::string creation_;
};

void test_every_choice_of_outputs() {
  const Release release("1.24.4", 24);
  const Op op({release.api(), 24}, kFloat32, kernels_of(*kernels::find_isa(nullptr)));
  CHECK(!op.InferOutputShapeFn);
  for (const int threads : {0, 3}) {
    fake_ort::num_pool_threads = threads;
    for (unsigned outputs = 0; outputs < 8; ++outputs) {
      for (const int64_t M : {0, 1, 9, 200}) {
        Node node(op, release.api(), M, outputs);
        CHECK(node.creation().empty() && node.compute().empty());
        CHECK_MESSAGE(node.is_right(), "outputs " + std::to_string(outputs) + ", M = " + std::to_string(M));
      }
    }
  }
  // The last ones may be missing altogether.
  Node node(op, release.api(), 5, 1);
  node.context()->more_outputs = {};
  CHECK(node.compute().empty() && node.is_right());
  fake_ort::num_pool_threads = 0;
}

void test_compute_without_allocation() {
  for (const auto& [text, version] : {std::pair{"1.17.3", 17u}, {"1.23.2", 23u}, {"1.32.0", 32u}}) {
    const Release release(text, version);
    const Op op({release.api(), version}, kFloat32, kernels_of(*kernels::find_isa(nullptr)));
    for (const int64_t M : {1, 4, 200}) {
      Node node(op, release.api(), M);
      num_allocations = 0;
      is_counting = true;
      OrtStatus* status = op.KernelComputeV2(node.kernel(), node.context());
      is_counting = false;
      CHECK(!status && node.is_right());
      CHECK_MESSAGE(num_allocations == 0, std::string(text) + ": the hot call allocates");
    }
  }
}

void test_every_failure_of_ort_is_handed_back() {
  for (const uint32_t version : {17u, 24u}) {
    const Release release(version == 17 ? "1.17.3" : "1.24.4", version);
    const Op op({release.api(), version}, kFloat32, kernels_of(*kernels::find_isa(nullptr)));
    int num_failures_seen = 0;
    for (int n = 0;; ++n) {
      fake_ort::calls_until_failure = n;
      Node node(op, release.api(), 200);
      std::string message = node.creation();
      if (message.empty()) message = node.compute();
      const bool was_reached = fake_ort::calls_until_failure < 0;
      fake_ort::calls_until_failure = -1;
      if (!was_reached) break;
      ++num_failures_seen;
      CHECK_MESSAGE(message == "injected", message);
      if (node.kernel()) CHECK(node.compute().empty() && node.is_right());
    }
    CHECK(num_failures_seen >= 10);
  }
  CHECK(fake_ort::live_statuses == 0 && fake_ort::live_infos == 0);
}

void test_messages() {
  const Release release("1.24.4", 24);
  const Op op({release.api(), 24}, kFloat32, kernels_of(*kernels::find_isa(nullptr)));
  struct Row {
    std::vector<int64_t> grad, x, weight;
    const char* message;
  };
  const Row rows[] = {
      {{2, 5}, {}, {5, 3}, "x must be [..., in_features] with rank 1 or more, got []"},
      {{}, {3}, {5, 3}, "grad must be [..., out_features] with rank 1 or more, got []"},
      {{2, 5}, {2, 3}, {3}, "weight must be [out_features, in_features], got [3]"},
      {{2, 5}, {2, 3}, {5, 4}, "weight must be [out_features, 3] (x has in_features 3), got [5, 4]"},
      {{2, 5},
       {2, 3},
       {3, 5},
       "weight must be [out_features, 3] (x has in_features 3), got [3, 5]; is it transposed?"},
      {{2, 4}, {2, 3}, {5, 3}, "grad must be [..., 5] (weight has out_features 5), got [2, 4]"},
      {{2, 5}, {4, 3}, {5, 3}, "grad must be [4, 5] (x is [4, 3]), got [2, 5]"},
      {{5}, {1, 3}, {5, 3}, "grad must be [1, 5] (x is [1, 3]), got [5]"},
      {{1, 2, 5}, {2, 1, 3}, {5, 3}, "grad must be [2, 1, 5] (x is [2, 1, 3]), got [1, 2, 5]"}};
  for (const Row& row : rows) {
    Node node(op, release.api(), 1);
    OrtValue grad = make_value(row.grad, 1), x = make_value(row.x, 1), weight = make_value(row.weight, 1);
    node.context()->inputs = {&grad, &x, &weight};
    const std::string message = node.compute();
    CHECK_MESSAGE(message == std::string("MYLINEARGRAD: ") + row.message, message);
  }
  Node node(op, release.api(), 1);
  OrtValue grad = make_value({0, int64_t{1} << 62}, 1), x = make_value({0, 0}, 1),
           weight = make_value({int64_t{1} << 62, 0}, 1);
  node.context()->inputs = {&grad, &x, &weight};
  CHECK(node.compute() ==
        "MYLINEARGRAD: grad_bias must be smaller than 2^63 bytes, got [4611686018427387904]");
  node.context()->inputs[2] = nullptr;
  CHECK(node.compute() == "MYLINEARGRAD: weight must be given, got nothing");
  void* kernel = nullptr;
  const OrtKernelInfo info{3, {nullptr, nullptr, nullptr}, {{"alpha", 0.5f}}, {{"transB", 1}}};
  CHECK(take_message(op.CreateKernelV2(&op, release.api(), &info, &kernel)) ==
        "MYLINEARGRAD: the attributes must be none, got alpha, transB");
  const OrtValue vector = make_value({3}, 1);
  const OrtKernelInfo constant{3, {nullptr, nullptr, &vector}, {}, {}};
  CHECK(take_message(op.CreateKernelV2(&op, release.api(), &constant, &kernel)) ==
        "MYLINEARGRAD: weight must be [out_features, in_features], got [3]");
}

void test_threads() {
  const Release release("1.24.4", 24);
  const Op op({release.api(), 24}, kFloat32, kernels_of(*kernels::find_isa(nullptr)));
  fake_ort::num_pool_threads = 2;
  Node shared(op, release.api(), 100);
  std::vector<std::thread> threads;
  std::atomic<int> num_right{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      OrtValue grad_x = make_value({100, kK}, -1), grad_weight = make_value({kN, kK}, -1),
               grad_bias = make_value({kN}, -1);
      OrtKernelContext context = *shared.context();
      context.output = &grad_x;
      context.more_outputs = {&grad_weight, &grad_bias};
      const bool is_computed = !op.KernelComputeV2(shared.kernel(), &context);
      if (is_computed && is_full_of(grad_x, 560) && is_full_of(grad_weight, 600) &&
          is_full_of(grad_bias, 200))
        ++num_right;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(num_right == 4);
  fake_ort::num_pool_threads = 0;
}

}  // namespace
}  // namespace mylinear

int main() {
  mylinear::test_every_choice_of_outputs();
  mylinear::test_compute_without_allocation();
  mylinear::test_every_failure_of_ort_is_handed_back();
  mylinear::test_messages();
  mylinear::test_threads();
  return report();
}
