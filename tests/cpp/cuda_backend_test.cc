// The CUDA backend whole, on the CPU: its own code, with a CUDA runtime and a cuBLASLt that are fakes. What
// it cannot show is what hardware does: streams, races, speed, and what the real cuBLASLt supports.
#include "cuda/backend.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "cuda_on_cpu.h"
#include "fake_cublas_lt.h"
#include "kernels/half.h"
#include "kernels/reference.h"

extern "C" const mylinear::cuda::Backend* mylinear_cuda_backend(uint32_t version);

namespace fake_cuda {
int num_devices = 2;
thread_local int device = 0;
cudaError_t count_status = cudaSuccess;
int driver = 13000;
}  // namespace fake_cuda

extern "C" {
cudaError_t cudaGetDevice(int* device) {
  *device = fake_cuda::device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device >= fake_cuda::num_devices) return cudaErrorInvalidDevice;
  fake_cuda::device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = fake_cuda::num_devices;
  return fake_cuda::count_status;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount      ? 2
           : attribute == cudaDevAttrComputeCapabilityMajor ? 9
                                                            : 0;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = fake_cuda::driver;
  return cudaSuccess;
}
const char* cudaGetErrorName(cudaError_t) { return "cudaErrorOfTheFake"; }
const char* cudaGetErrorString(cudaError_t) { return "a text of the fake"; }
}

namespace mylinear {
namespace {

using cuda::Call;
using cuda::Failure;
using kernels::ElementType;

const cuda::Backend& backend() { return *mylinear_cuda_backend(cuda::kBackendVersion); }

FakeCublasLt& lt() {
  static FakeCublasLt* state = [] {
    void* library = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);
    return reinterpret_cast<decltype(&fake_cublas_lt)>(dlsym(library, "fake_cublas_lt"))();
  }();
  return *state;
}

// Memory that ends where a page ends that must not be touched; `offset` bytes lie between.
class Guarded {
 public:
  Guarded(size_t nbytes, size_t offset) : nbytes_(nbytes) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    size_ = (nbytes + offset + page - 1) / page * page + page;
    base_ = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base_ == MAP_FAILED || mprotect(static_cast<char*>(base_) + size_ - page, page, PROT_NONE))
      std::abort();
    data_ = static_cast<unsigned char*>(base_) + size_ - page - nbytes - offset;
  }
  Guarded(const Guarded&) = delete;
  ~Guarded() { munmap(base_, size_); }
  unsigned char* data() const { return data_; }
  size_t nbytes() const { return nbytes_; }

 private:
  void* base_;
  size_t size_;
  size_t nbytes_;
  unsigned char* data_;
};

size_t size_of(ElementType type) { return kernels::kElementSizes[static_cast<int>(type)]; }

double read(ElementType type, const void* data, size_t index) {
  const unsigned char* at = static_cast<const unsigned char*>(data) + index * size_of(type);
  double d;
  float f;
  kernels::Float16 h;
  kernels::Bfloat16 b;
  switch (type) {
    case ElementType::kFloat64:
      std::memcpy(&d, at, 8);
      return d;
    case ElementType::kFloat32:
      std::memcpy(&f, at, 4);
      return f;
    case ElementType::kFloat16:
      std::memcpy(&h, at, 2);
      return kernels::to_float(h);
    case ElementType::kBfloat16:
      std::memcpy(&b, at, 2);
      return kernels::to_float(b);
  }
  return 0;
}

void write(ElementType type, void* data, size_t index, double value) {
  unsigned char* at = static_cast<unsigned char*>(data) + index * size_of(type);
  const float f = static_cast<float>(value);
  const kernels::Float16 h = kernels::to_float16(f);
  const kernels::Bfloat16 b = kernels::to_bfloat16(f);
  switch (type) {
    case ElementType::kFloat64:
      std::memcpy(at, &value, 8);
      break;
    case ElementType::kFloat32:
      std::memcpy(at, &f, 4);
      break;
    case ElementType::kFloat16:
      std::memcpy(at, &h, 2);
      break;
    case ElementType::kBfloat16:
      std::memcpy(at, &b, 2);
      break;
  }
}

// One product, its memory, and whether what the backend made of it is right.
struct Product {
  Product(ElementType product_type, uint64_t m, uint64_t n, uint64_t k, bool bias, size_t offset = 0)
      : type(product_type),
        M(m),
        N(n),
        K(k),
        has_bias(bias),
        x(M * K * size_of(type), offset),
        w(N * K * size_of(type), offset),
        b(N * size_of(type), offset),
        y(M * N * size_of(type), offset) {
    uint64_t state = M * 1000003 + N * 1009 + K;
    const auto next = [&] {
      state = state * 6364136223846793005u + 1442695040888963407u;
      return static_cast<double>(state >> 40) * 0x1p-23 - 1;
    };
    for (size_t i = 0; i < M * K; ++i) write(type, x.data(), i, next());
    for (size_t i = 0; i < N * K; ++i) write(type, w.data(), i, next());
    for (size_t i = 0; i < N; ++i) write(type, b.data(), i, next());
    std::memset(y.data(), 0xff, y.nbytes());  // NaN: every element must be written
  }

  Call call() const {
    Call made{};
    made.element_type = static_cast<int32_t>(type);
    made.M = M;
    made.N = N;
    made.K = K;
    made.x = x.data();
    made.w = w.data();
    made.bias = has_bias ? b.data() : nullptr;
    made.y = y.data();
    return made;
  }

  std::string run(Call with) const {
    Failure failure{};
    return backend().compute(&with, &failure) == cuda::kOk ? "" : failure.text;
  }
  std::string run() const { return run(call()); }

  bool is_right() const {
    // Aligned copies for the reference.
    const std::vector<uint64_t> xs = copy(x), ws = copy(w), bs = copy(b);
    std::vector<double> expected(M * N), magnitude(M * N);
    kernels::GemmParams params{};
    params.M = M;
    params.N = N;
    params.K = K;
    params.x = xs.data();
    params.w = ws.data();
    params.bias = has_bias ? bs.data() : nullptr;
    kernels::reference(type, params, expected.data(), magnitude.data());
    const double roundoff[] = {0x1p-53, 0x1p-24, 0x1p-11, 0x1p-8};
    const double summing = type == ElementType::kFloat64 ? 0x1p-53 : 0x1p-24;
    for (size_t i = 0; i < M * N; ++i) {
      const double bound = (static_cast<double>(K) + 2) * 2 * summing * magnitude[i] +
                           roundoff[static_cast<int>(type)] * (std::fabs(expected[i]) + magnitude[i] * 1e-3) +
                           1e-7;
      if (!(std::fabs(read(type, y.data(), i) - expected[i]) <= bound)) return false;
    }
    return true;
  }

  static std::vector<uint64_t> copy(const Guarded& from) {
    std::vector<uint64_t> to(from.nbytes() / 8 + 1);
    if (from.nbytes()) std::memcpy(to.data(), from.data(), from.nbytes());
    return to;
  }

  std::string name() const {
    return std::string(kernels::kElementTypeNames[static_cast<int>(type)]) + " " + std::to_string(M) + "x" +
           std::to_string(N) + "x" + std::to_string(K) + (has_bias ? " bias" : "");
  }

  ElementType type;
  uint64_t M, N, K;
  bool has_bias;
  Guarded x, w, b, y;
};

constexpr ElementType kTypes[] = {ElementType::kFloat64, ElementType::kFloat32, ElementType::kFloat16,
                                  ElementType::kBfloat16};

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
