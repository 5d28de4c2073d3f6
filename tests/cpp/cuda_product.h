// One product on the CUDA backend, on the CPU: with a CUDA runtime and a cuBLASLt that are fakes. Included by
// one file, since it defines the functions of that runtime.
#ifndef MYLINEAR_TESTS_CUDA_PRODUCT_H_
#define MYLINEAR_TESTS_CUDA_PRODUCT_H_

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/backend.h"
#include "cuda_on_cpu.h"
#include "exact_activations.h"
#include "fake_cublas_lt.h"
#include "fake_cuda_runtime.h"
#include "kernels/half.h"
#include "kernels/reference.h"

extern "C" const mylinear::cuda::Backend* mylinear_cuda_backend(uint32_t version);

namespace mylinear {
using cuda::Call;
using cuda::Failure;
using kernels::Activation;
using kernels::ElementType;

inline const cuda::Backend& backend() { return *mylinear_cuda_backend(cuda::kBackendVersion); }

inline FakeCublasLt& lt() {
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

// Not by the kernels' table: GCC 12 takes its index for out of bounds where this is inlined.
inline size_t size_of(ElementType type) {
  return type == ElementType::kFloat64 ? 8 : type == ElementType::kFloat32 ? 4 : 2;
}

inline double read(ElementType type, const void* data, size_t index) {
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

inline void write(ElementType type, void* data, size_t index, double value) {
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

// What a product is made of, beside its sizes.
struct Kind {
  Kind(ElementType all, Activation with = Activation::kNone)
      : type(all), weight_type(all), activation(with) {}
  Kind(ElementType others, ElementType weights, Activation with)
      : type(others), weight_type(weights), activation(with) {}

  ElementType type;
  ElementType weight_type;
  Activation activation;
};

// One product, its memory, and whether what the backend made of it is right.
struct Product {
  Product(Kind kind, uint64_t m, uint64_t n, uint64_t k, bool bias, size_t offset = 0)
      : type(kind.type),
        weight_type(kind.weight_type),
        activation(kind.activation),
        M(m),
        N(n),
        K(k),
        has_bias(bias),
        x(M * K * size_of(type), offset),
        w(N * K * size_of(weight_type), offset),
        b(N * size_of(type), offset),
        y(M * N * size_of(type), offset) {
    uint64_t state = M * 1000003 + N * 1009 + K;
    const auto next = [&] {
      state = state * 6364136223846793005u + 1442695040888963407u;
      return static_cast<double>(state >> 40) * 0x1p-23 - 1;
    };
    for (size_t i = 0; i < M * K; ++i) write(type, x.data(), i, next());
    for (size_t i = 0; i < N * K; ++i) write(weight_type, w.data(), i, next());
    for (size_t i = 0; i < N; ++i) write(type, b.data(), i, next());
    std::memset(y.data(), 0xff, y.nbytes());  // NaN: every element must be written
  }

  Call call() const {
    Call made{};
    made.element_type = static_cast<int32_t>(type);
    made.weight_type = static_cast<int32_t>(weight_type);
    made.activation = static_cast<int32_t>(activation);
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
    // Aligned copies for the reference, W in the type of X.
    const std::vector<uint64_t> xs = copy(x), bs = copy(b);
    std::vector<uint64_t> ws((N * K * size_of(type)) / 8 + 1);
    for (size_t i = 0; i < N * K; ++i) write(type, ws.data(), i, read(weight_type, w.data(), i));
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
      const double of_sum = (static_cast<double>(K) + 2) * 2 * summing * magnitude[i];
      const double exact = kernels::exact(activation, expected[i]);
      // An activation is at most 1.1291 times as steep as x; its own error is at most 8 of x or of a result.
      const double own =
          activation == Activation::kNone ? 0 : 16 * summing * (1 + std::fabs(expected[i])) + of_sum * 0.1291;
      const double bound =
          of_sum + own + roundoff[static_cast<int>(type)] * (std::fabs(exact) + magnitude[i] * 1e-3) + 1e-7;
      if (!(std::fabs(read(type, y.data(), i) - exact) <= bound)) return false;
    }
    return true;
  }

  static std::vector<uint64_t> copy(const Guarded& from) {
    std::vector<uint64_t> to(from.nbytes() / 8 + 1);
    if (from.nbytes()) std::memcpy(to.data(), from.data(), from.nbytes());
    return to;
  }

  std::string name() const {
    return std::string(kernels::kElementTypeNames[static_cast<int>(type)]) + " " +
           kernels::kElementTypeNames[static_cast<int>(weight_type)] + " " + kernels::name_of(activation) +
           " " + std::to_string(M) + "x" + std::to_string(N) + "x" + std::to_string(K) +
           (has_bias ? " bias" : "");
  }

  ElementType type, weight_type;
  Activation activation;
  uint64_t M, N, K;
  bool has_bias;
  Guarded x, w, b, y;
};

inline constexpr ElementType kTypes[] = {ElementType::kFloat64, ElementType::kFloat32, ElementType::kFloat16,
                                         ElementType::kBfloat16};

}  // namespace mylinear

#endif  // MYLINEAR_TESTS_CUDA_PRODUCT_H_
