// Activations and W in 16 bits under float32 on the CUDA backend, on the CPU: which kernels they take, and in
// what memory; see cuda_backend_test.cc. How exact the activations are is for
// tests/native/test_cuda_on_cpu.py.
#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "check.h"
#include "cuda_product.h"

namespace mylinear {
namespace {

constexpr Activation kActivations[] = {Activation::kRelu, Activation::kGelu,    Activation::kGeluTanh,
                                       Activation::kSilu, Activation::kSigmoid, Activation::kTanh};
constexpr uint64_t kScratch = 4096;  // as CMakeLists.txt says

// The memory of a caller, which gives it once, and just as much.
struct Memory {
  std::vector<char> bytes;
  uint64_t asked = 0;
  int times = 0;
  bool is_full = false;
  static void* allocate(void* owner, uint64_t nbytes) {
    auto* self = static_cast<Memory*>(owner);
    self->asked += nbytes;
    if (++self->times > 1 || self->is_full) return nullptr;
    self->bytes.resize(nbytes + 256);
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(self->bytes.data()) + 255) / 256 * 256);
  }
};

// One call, and what it took.
struct Run {
  explicit Run(const Product& product, bool is_full = false, bool allows_tf32 = false) {
    memory.is_full = is_full;
    Call call = product.call();
    call.allocate = Memory::allocate;
    call.owner = &memory;
    call.allows_tf32 = allows_tf32;
    const int launches_before = cuda_on_cpu::num_launches, products_before = lt().num_products;
    std::memset(product.y.data(), 0xff, product.y.nbytes());
    error = product.run(call);
    is_right = error.empty() && product.is_right();
    launches = cuda_on_cpu::num_launches - launches_before;
    products = lt().num_products - products_before;
  }
  Memory memory;
  std::string error;
  bool is_right;
  int launches;
  int products;
};

std::vector<Kind> kinds(Activation activation) {
  std::vector<Kind> found(std::begin(kTypes), std::end(kTypes));
  for (Kind& kind : found) kind.activation = activation;
  for (const ElementType narrow : {ElementType::kFloat16, ElementType::kBfloat16}) {
    found.emplace_back(ElementType::kFloat32, narrow, activation);
  }
  return found;
}

bool is_small(const Kind& kind) { return size_of(kind.type) == 2; }
bool is_mixed(const Kind& kind) { return kind.type != kind.weight_type; }

void test_few_rows_take_one_launch() {
  for (const Activation activation : kActivations) {
    for (const Kind& kind : kinds(activation)) {
      const uint64_t K = static_cast<int>(activation) % 2 ? 31 : 264;
      const Product wide(kind, 3, 19, K, true);
      const Run run(wide);
      CHECK_MESSAGE(run.is_right && run.launches == 1 && run.products == 0 && run.memory.times == 0,
                    wide.name());
      if (is_mixed(kind)) continue;
      const Product tall(kind, 19, 2, K, K == 31, size_of(kind.type));
      const Run other(tall);
      CHECK_MESSAGE(other.is_right && other.launches == 1 && other.memory.times == 0, tall.name());
    }
  }
}

void test_sums_of_nothing_pass_through_the_activation() {
  for (const Activation activation : kActivations) {
    for (const Kind& kind : kinds(activation)) {
      for (const bool has_bias : {true, false}) {
        const Product product(kind, 20, 300, 0, has_bias);
        const Run run(product);
        CHECK_MESSAGE(run.is_right && run.launches == 1, product.name());
      }
    }
  }
}

// float64 and float32 sums lie in Y; those of 16-bit types in memory of the call, until they are rounded.
void test_products_and_then_the_activation() {
  for (const Activation activation : kActivations) {
    for (const Kind& kind : kinds(activation)) {
      if (is_mixed(kind)) continue;
      const Product product(kind, 20, 24, 33, activation != Activation::kTanh);
      const Run run(product);
      CHECK_MESSAGE(run.is_right && run.products == 1 && run.launches == 1, product.name());
      CHECK(run.memory.asked == (is_small(kind) ? 2048 : 0) && run.memory.times == is_small(kind));
      const Run full(product, true);
      CHECK_MESSAGE(full.is_right && full.launches == 1 && full.products == !is_small(kind), product.name());
    }
  }
}

void test_many_sums_are_held_in_parts() {
  const Kind kind(ElementType::kBfloat16, Activation::kGelu);
  for (const uint64_t workspace : {0, 512}) {
    lt().workspace = workspace;
    const Product product(kind, 100, 24, 9 + workspace / 512, true);  // 42, 42 and 16 rows of 96 bytes
    const Run run(product);
    CHECK(run.is_right && run.products == 3 && run.launches == 3 && run.memory.times == 1);
    CHECK(run.memory.asked == (42 * 96 + 255) / 256 * 256 + workspace && run.memory.asked <= kScratch + 512);
  }
  lt().workspace = 0;
  const Product one(kind, 7, 2000, 9, false);  // a row has more than a part
  const Run run(one);
  CHECK(run.is_right && run.products == 7 && run.memory.asked == 8192);
}

void test_what_cublas_lt_cannot_do() {
  int salt = 0;
  for (const Kind& kind : kinds(Activation::kSilu)) {
    for (bool FakeCublasLt::* refusal :
         {&FakeCublasLt::refuses_products, &FakeCublasLt::finds_nothing, &FakeCublasLt::refuses_to_run}) {
      const Product product(kind, 21, 9, static_cast<uint64_t>(50 + ++salt), true);
      lt().*refusal = true;
      const Run run(product);
      lt().*refusal = false;
      CHECK_MESSAGE(run.is_right, product.name());
    }
  }
}

void test_mixed_products() {
  for (const ElementType narrow : {ElementType::kFloat16, ElementType::kBfloat16}) {
    const Kind kind(ElementType::kFloat32, narrow, Activation::kNone);
    for (const uint64_t M : {1, 2, 5, 16}) {  // W is read in 16 bits
      for (const uint64_t N : {1, 3, 19}) {
        for (const uint64_t K : {8, 31, 264, 3000}) {
          if (K == 3000 && (N > 3 || M > 1)) continue;
          for (const size_t offset : {0, 2}) {
            if (offset && K != 264) continue;
            const Product product(kind, M, N, K, (N + K) % 2, offset * 2);
            const Run run(product);
            CHECK_MESSAGE(run.is_right && run.products == 0 && run.memory.times == 0, product.name());
            CHECK(run.launches == (M == 5 ? 2 : 1));
          }
        }
      }
    }
    for (const bool has_bias : {true, false}) {
      for (const uint64_t workspace : {0, 512}) {
        lt().workspace = workspace;                                           // another plan, so another size
        const Product product(kind, 17 + workspace / 512, 70, 33, has_bias);  // 31, 31 and 8 rows of W
        const Run run(product, false, true);
        CHECK_MESSAGE(run.is_right && run.products == 3 && run.launches == 3, product.name());
        CHECK(run.memory.times == 1 && run.memory.asked == 4096 + workspace &&
              !lt().last_is_tf32);  // 31 x 132
      }
      lt().workspace = 0;
      lt().refuses_epilogue = true;  // a plan of its own, since the sizes are others
      const Product other(kind, 19, 70, 33, has_bias);
      const Run run(other);
      lt().refuses_epilogue = false;
      CHECK_MESSAGE(run.is_right && run.launches == (has_bias ? 6 : 3), other.name());
      const Run full(other, true);
      CHECK_MESSAGE(full.is_right && full.products == 0 && full.launches == 2, other.name());
    }
    const Product tall(kind, 50, 3, 33, true);  // of few columns: widened, and then no product
    const Run run(tall);
    CHECK(run.is_right && run.launches == 2 && run.products == 0 && run.memory.asked == 512);
    const Product deep(kind, 17, 5, 2000, true);  // a row of W has more than a part
    const Run parts(deep);
    CHECK(parts.is_right && parts.memory.asked == 8192 && parts.launches == 10);
    for (const Activation activation : kActivations) {
      const Product product({ElementType::kFloat32, narrow, activation}, 17, 70, 33, true);
      const Run one(product);
      CHECK_MESSAGE(one.is_right && one.products == 3 && one.launches == 6, product.name());
    }
  }
}

void test_weights_that_are_not_aligned() {
  for (const size_t moved : {2, 8, 16}) {
    const Product product({ElementType::kFloat32, ElementType::kBfloat16, Activation::kNone}, 30, 9, 40, true,
                          moved == 2 ? 4 : moved);
    Call call = product.call();
    const Guarded w(product.w.nbytes(), moved);
    std::memcpy(w.data(), product.w.data(), w.nbytes());
    call.w = w.data();
    Memory memory;
    call.allocate = Memory::allocate;
    call.owner = &memory;
    CHECK(product.run(call).empty() && product.is_right());
    std::memset(product.y.data(), 0xff, product.y.nbytes());
    call.allocate = nullptr;
    CHECK(product.run(call).empty() && product.is_right());
  }
}

// One element each, in all ways that a call may take.
void test_nan_and_infinities() {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::nan("");
  for (const Activation activation : kActivations) {
    for (const Kind& kind : kinds(activation)) {
      for (const uint64_t M : {uint64_t{2}, uint64_t{is_mixed(kind) ? 17u : 5u}}) {
        const Product product(kind, M, 6, 1, true);
        const double special[] = {inf, -inf, nan, -1e3, 1e3, -0.0};
        for (size_t m = 0; m < M; ++m) write(kind.type, product.x.data(), m, 1);
        for (size_t n = 0; n < 6; ++n) {
          write(kind.weight_type, product.w.data(), n, special[n]);
          write(kind.type, product.b.data(), n, 0);
        }
        for (const bool is_full : {false, true}) {
          const Run run(product, is_full);
          CHECK(run.error.empty());
          for (size_t n = 0; n < M * 6; ++n) {
            const double got = read(kind.type, product.y.data(), n);
            // What 16 bits hold of the numbers here.
            const double expected =
                kernels::exact(activation, read(kind.weight_type, product.w.data(), n % 6));
            CHECK_MESSAGE(
                std::isnan(expected) ? std::isnan(got) : std::fabs(got - expected) <= 1 || got == expected,
                product.name() + " makes " + std::to_string(got) + " of " + std::to_string(special[n % 6]));
          }
        }
      }
    }
  }
}

void test_unknown_words() {
  const Product product({ElementType::kFloat32, ElementType::kFloat16, Activation::kRelu}, 5, 6, 7, true);
  Call call = product.call();
  call.activation = 7;
  CHECK(product.run(call) == "unknown activation 7");
  call.activation = -1;
  CHECK(product.run(call) == "unknown activation -1");
  call = product.call();
  call.weight_type = 0;
  CHECK(product.run(call) == "no weights of element type 0 under 1");
  call.weight_type = 9;
  CHECK(product.run(call) == "no weights of element type 9 under 1");
  call.weight_type = 3;
  call.element_type = 2;
  CHECK(product.run(call) == "no weights of element type 3 under 2");
}

}  // namespace
}  // namespace mylinear

int main() {
  unsetenv("MYLINEAR_CUDA_GEMV_ROWS");
  mylinear::test_few_rows_take_one_launch();
  mylinear::test_sums_of_nothing_pass_through_the_activation();
  mylinear::test_products_and_then_the_activation();
  mylinear::test_many_sums_are_held_in_parts();
  mylinear::test_what_cublas_lt_cannot_do();
  mylinear::test_mixed_products();
  mylinear::test_weights_that_are_not_aligned();
  mylinear::test_nan_and_infinities();
  mylinear::test_unknown_words();
  return report();
}
