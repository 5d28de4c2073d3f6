// The CUDA backend whole, on the CPU: its own code, with a CUDA runtime and a cuBLASLt that are fakes. It
// cannot show streams, races, speed, and what the real cuBLASLt supports.
#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "cuda_product.h"

namespace mylinear {
namespace {

void test_few_rows_or_few_columns() {
  for (const ElementType type : kTypes) {
    for (const uint64_t few : {1, 2, 3, 4}) {
      for (const uint64_t many : {5, 35}) {
        // 1 to 8 warps to a group, whole and cut steps, aligned and not.
        for (const uint64_t K : {1, 8, 31, 264, 3000, 8192}) {
          if (K > 1024 && (many > 5 || few == 2)) continue;
          const bool has_bias = (few + K) % 2;
          const int before = lt().num_products, launches = cuda_on_cpu::num_launches;
          const Product wide(type, few, many, K, has_bias);
          CHECK(wide.run().empty());
          CHECK_MESSAGE(wide.is_right(), wide.name());
          const Product tall(type, many, few, K, has_bias, K == 264 ? size_of(type) : 0);
          CHECK(tall.run().empty());
          CHECK_MESSAGE(tall.is_right(), tall.name());
          CHECK(lt().num_products == before && cuda_on_cpu::num_launches == launches + 2);  // one launch each
        }
      }
    }
  }
}

void test_sums_of_nothing() {
  for (const ElementType type : kTypes) {
    for (const bool has_bias : {true, false}) {
      const Product product(type, 3, 300, 0, has_bias);
      if (has_bias) write(type, product.b.data(), 0, -0.0);
      CHECK(product.run().empty());
      CHECK_MESSAGE(product.is_right(), product.name());
      CHECK(!std::signbit(read(type, product.y.data(), 0)));
    }
  }
}

void test_products() {
  lt().workspace = 512;
  for (const ElementType type : kTypes) {
    for (const auto& [M, N, K] : {std::array<uint64_t, 3>{5, 5, 1}, {6, 9, 7}, {16, 8, 32}, {33, 17, 40}}) {
      for (const bool has_bias : {true, false}) {
        for (const bool refuses_epilogue : {false, true}) {
          lt().refuses_epilogue = refuses_epilogue;
          // Another offset is another plan; and the plan made for one offset is not taken for another.
          const Product product(type, M, N, K, has_bias,
                                refuses_epilogue ? 2 * size_of(type) : size_of(type));
          const int launches = cuda_on_cpu::num_launches, products = lt().num_products;
          CHECK(product.run().empty());
          CHECK_MESSAGE(product.is_right(), product.name());
          CHECK(lt().num_products == products + 1);
          CHECK(cuda_on_cpu::num_launches == launches + (has_bias && refuses_epilogue));
        }
        lt().refuses_epilogue = false;
      }
    }
  }
  // What cuBLASLt cannot do, our own kernel can.
  int salt = 0;
  for (bool FakeCublasLt::* refusal :
       {&FakeCublasLt::refuses_products, &FakeCublasLt::finds_nothing, &FakeCublasLt::refuses_to_run}) {
    const Product product(ElementType::kFloat32, 11, 9, static_cast<uint64_t>(50 + ++salt), true);
    lt().*refusal = true;
    CHECK(product.run().empty());
    lt().*refusal = false;
    CHECK_MESSAGE(product.is_right(), product.name());
  }
  const Product failing(ElementType::kFloat32, 11, 9, 60, true);
  lt().fails = true;
  CHECK(failing.run() == "cublasLtMatmul: the fake was told to fail");
  lt().fails = false;
  CHECK(failing.run().empty() && failing.is_right());
  lt().workspace = 0;
}

void test_workspace() {
  lt().workspace = 1 << 20;
  struct Memory {
    std::vector<char> bytes;
    uint64_t asked = 0;
    bool is_full = false;
    static void* allocate(void* owner, uint64_t nbytes) {
      auto* self = static_cast<Memory*>(owner);
      self->asked += nbytes;
      self->bytes.resize(nbytes);
      return self->is_full ? nullptr : self->bytes.data();
    }
  };
  const Product product(ElementType::kFloat16, 20, 24, 24, true);
  Memory memory;
  Call call = product.call();
  call.allocate = Memory::allocate;
  call.owner = &memory;
  CHECK(product.run(call).empty() && product.is_right());
  CHECK(memory.asked == 1 << 20 &&
        static_cast<unsigned char>(memory.bytes.back()) == 0xcc);  // asked once, and used
  memory.is_full = true;
  std::memset(product.y.data(), 0xff, product.y.nbytes());
  CHECK(product.run(call).empty() && product.is_right());
  call.allocate = nullptr;
  std::memset(product.y.data(), 0xff, product.y.nbytes());
  CHECK(product.run(call).empty() && product.is_right());
  lt().workspace = uint64_t{1} << 40;  // more than may be asked for
  const Product other(ElementType::kFloat16, 20, 24, 32, true);
  call = other.call();
  call.allocate = Memory::allocate;
  memory = {};
  call.owner = &memory;
  CHECK(other.run(call).empty() && other.is_right() && memory.asked == 0);
  lt().workspace = 0;
}

void test_plans_are_kept() {
  const Product product(ElementType::kBfloat16, 30, 8, 16, true);
  CHECK(product.run().empty());
  const int heuristics = lt().num_heuristics, descs = lt().num_descs, handles = lt().num_handles;
  for (int i = 0; i < 100; ++i) CHECK(product.run().empty());
  CHECK(lt().num_heuristics == heuristics && lt().num_descs == descs && lt().num_handles == handles);
  // Another address of the bias is the same plan.
  const Product sibling(ElementType::kBfloat16, 30, 8, 16, true);
  CHECK(sibling.run().empty() && sibling.is_right() && lt().num_heuristics == heuristics);
  // TF32 is another one, and is for float32 alone.
  const Product single(ElementType::kFloat32, 30, 8, 16, false);
  Call call = single.call();
  call.allows_tf32 = 1;
  CHECK(single.run(call).empty() && lt().last_is_tf32);
  CHECK(single.run().empty() && !lt().last_is_tf32);
  call = product.call();
  call.allows_tf32 = 1;
  CHECK(product.run(call).empty() && !lt().last_is_tf32 && lt().num_heuristics == heuristics + 2);
  int stream = 0;
  call.stream = reinterpret_cast<void*>(&stream);
  CHECK(product.run(call).empty() && lt().last_stream == &stream);
  // A thousand more shapes, and what is forgotten is released.
  const int live = lt().live_objects;
  for (uint64_t K = 1; K <= 2500; ++K) {
    const Product one(ElementType::kFloat32, 5, 5, K % 1250 + 1, false);
    Call small = one.call();
    CHECK(one.run(small).empty());
  }
  CHECK_MESSAGE(lt().live_objects <= live + 4 * 1024, std::to_string(lt().live_objects));
}

void test_alignment_reaches_cublaslt() {
  const Product product(ElementType::kFloat32, 16, 16, 64, true);
  Call call = product.call();
  const Product wide(ElementType::kFloat32, 17, 64, 64, true);
  call = wide.call();
  CHECK(wide.run(call).empty());
  CHECK(lt().alignment[0] == 256 &&
        lt().alignment[1] == 256);  // W and X end at a page, and are whole multiples
  const Guarded moved(wide.b.nbytes(), 4);
  std::memcpy(moved.data(), wide.b.data(), wide.b.nbytes());
  call.bias = moved.data();
  CHECK(wide.run(call).empty() && wide.is_right());
  CHECK(lt().alignment[2] == 4 && lt().alignment[3] == 4 && lt().alignment[0] == 256);
}

void test_devices() {
  const Product product(ElementType::kFloat32, 9, 9, 9, true);
  Call call = product.call();
  const int handles = lt().num_handles;
  call.device = 1;
  CHECK(product.run(call).empty() && product.is_right() && fake_cuda::device == 0);
  CHECK(lt().num_handles == handles + 1);  // a device has its own
  call.device = 2;
  CHECK(product.run(call) == "cudaSetDevice: cudaErrorOfTheFake, a text of the fake");
  call.device = 64;
  CHECK(!product.run(call).empty());
  call.device = 0;
  call.element_type = 4;
  CHECK(product.run(call) == "unknown element type 4");
}

void test_probe_and_describe() {
  Failure failure{};
  CHECK(backend().probe(&failure) == cuda::kOk);
  fake_cuda::num_devices = 0;
  CHECK(backend().probe(&failure) == cuda::kMissing);
  CHECK(std::string(failure.text) == "the driver finds no CUDA device");
  fake_cuda::count_status = cudaErrorInsufficientDriver;
  CHECK(backend().probe(&failure) == cuda::kMissing);
  CHECK(std::string(failure.text)
            .find("the CUDA driver is for CUDA 13, and this library was built for CUDA 1") == 0);
  fake_cuda::driver = 0;
  CHECK(backend().probe(&failure) == cuda::kMissing &&
        std::string(failure.text) == "there is no CUDA driver");
  fake_cuda::count_status = cudaErrorUnknown;
  CHECK(backend().probe(&failure) == cuda::kFailed);
  fake_cuda::count_status = cudaSuccess;
  fake_cuda::num_devices = 2;
  fake_cuda::driver = 13000;
  char text[1024];
  CHECK(backend().describe(text, sizeof text) == std::strlen(text));
  CHECK_MESSAGE(std::strstr(text,
                            "\"driver\": \"13.0\", \"cublaslt\": 130000, \"cublaslt_error\": null, "
                            "\"devices\": [\"sm_90\", \"sm_90\"]}"),
                text);
  CHECK(!mylinear_cuda_backend(cuda::kBackendVersion + 1));
}

void test_threads() {
  std::vector<std::thread> threads;
  std::atomic<int> num_right{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      // The same shape and plan for all, each with numbers and a bias of its own.
      const Product product(ElementType::kFloat32, 8, 12, 20, true);
      write(ElementType::kFloat32, product.b.data(), 3, t);
      for (int i = 0; i < 50; ++i) {
        std::memset(product.y.data(), 0xff, product.y.nbytes());
        if (product.run().empty() && product.is_right()) ++num_right;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(num_right == 8 * 50);
}

}  // namespace
}  // namespace mylinear

int main() {
  unsetenv("MYLINEAR_CUDA_GEMV_ROWS");
  mylinear::test_few_rows_or_few_columns();
  mylinear::test_sums_of_nothing();
  mylinear::test_products();
  mylinear::test_workspace();
  mylinear::test_plans_are_kept();
  mylinear::test_alignment_reaches_cublaslt();
  mylinear::test_devices();
  mylinear::test_probe_and_describe();
  mylinear::test_threads();
  return report();
}
