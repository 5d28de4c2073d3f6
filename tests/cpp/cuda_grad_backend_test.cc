// The products of a backward and the sum of rows on the CUDA backend, on the CPU; see cuda_backend_test.cc.
#include <array>

#include "check.h"
#include "cuda_product.h"

namespace mylinear {
namespace {

constexpr cuda::Work kProducts[] = {cuda::kProduct, cuda::kTransposedProduct};

// One piece of work: its memory, and whether what the backend made of it is right.
struct Piece {
  Piece(cuda::Work piece_work, ElementType piece_type, uint64_t m, uint64_t n, uint64_t k, size_t offset = 0)
      : work(piece_work),
        type(piece_type),
        M(m),
        N(n),
        K(k),
        x((work == cuda::kSumOfRows ? 0 : M * K) * size_of(type), offset),
        w(K * N * size_of(type), offset),
        y(M * N * size_of(type), offset) {
    uint64_t state = M * 1000003 + N * 1009 + K;
    for (const Guarded* matrix : {&x, &w}) {
      for (size_t i = 0; i < matrix->nbytes() / size_of(type); ++i) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        write(type, matrix->data(), i, static_cast<double>(state >> 40) * 0x1p-23 - 1);
      }
    }
    std::memset(y.data(), 0xff, y.nbytes());  // NaN: every element must be written
  }

  std::string run(bool allows_tf32 = false) const {
    Call call{};
    call.work = work;
    call.element_type = static_cast<int32_t>(type);
    call.allows_tf32 = allows_tf32;
    call.M = M;
    call.N = N;
    call.K = K;
    call.x = work == cuda::kSumOfRows ? nullptr : x.data();
    call.w = w.data();
    call.y = y.data();
    Failure failure{};
    return backend().compute(&call, &failure) == cuda::kOk ? "" : failure.text;
  }

  bool is_right() const {
    const double roundoff[] = {0x1p-53, 0x1p-24, 0x1p-11, 0x1p-8};
    const double summing = type == ElementType::kFloat64 ? 0x1p-53 : 0x1p-24;
    const double smallest = type == ElementType::kFloat16 ? 0x1p-25 : 0;  // half of the least denormal
    for (uint64_t m = 0; m < M; ++m) {
      for (uint64_t n = 0; n < N; ++n) {
        double exact = 0, magnitude = 0;
        for (uint64_t k = 0; k < K; ++k) {
          const double factor = work == cuda::kSumOfRows           ? 1
                                : work == cuda::kTransposedProduct ? read(type, x.data(), k * M + m)
                                                                   : read(type, x.data(), m * K + k);
          const double term = factor * read(type, w.data(), k * N + n);
          exact += term;
          magnitude += std::fabs(term);
        }
        const double sum_bound = (static_cast<double>(K) + 1) * 2 * summing * magnitude;
        const double bound =
            sum_bound + roundoff[static_cast<int>(type)] * (std::fabs(exact) + sum_bound) + smallest;
        if (!(std::fabs(read(type, y.data(), m * N + n) - exact) <= bound)) return false;
      }
    }
    return true;
  }

  std::string name() const {
    return std::string(kernels::kElementTypeNames[static_cast<int>(type)]) + " work " + std::to_string(work) +
           " " + std::to_string(M) + "x" + std::to_string(N) + "x" + std::to_string(K);
  }

  cuda::Work work;
  ElementType type;
  uint64_t M, N, K;
  Guarded x, w, y;
};

using Sizes = std::array<uint64_t, 3>;

void test_products_go_to_cublaslt() {
  lt().workspace = 512;
  for (const ElementType type : kTypes) {
    for (const cuda::Work work : kProducts) {
      // Few rows or columns too: the GEMV kernel reads both matrices along K, and here one lies across.
      for (const auto& [M, N, K] : {Sizes{1, 1, 1}, Sizes{1, 9, 5}, Sizes{4, 3, 70}, Sizes{7, 1, 2},
                                    Sizes{6, 9, 7}, Sizes{33, 17, 40}, Sizes{12, 12, 12}}) {
        for (const size_t offset : {size_t{0}, size_of(type)}) {
          const Piece piece(work, type, M, N, K, offset);
          const int launches = cuda_on_cpu::num_launches, products = lt().num_products;
          CHECK(piece.run().empty());
          CHECK_MESSAGE(piece.is_right(), piece.name());
          CHECK(lt().num_products == products + 1 && cuda_on_cpu::num_launches == launches);
        }
      }
    }
  }
  lt().workspace = 0;
}

// What cuBLASLt cannot do, our own kernel can: in whole and cut blocks of columns, and fewer terms than
// warps.
void test_products_that_cublaslt_refuses() {
  for (bool FakeCublasLt::* refusal :
       {&FakeCublasLt::refuses_products, &FakeCublasLt::finds_nothing, &FakeCublasLt::refuses_to_run}) {
    const uint64_t salt = refusal == &FakeCublasLt::refuses_products ? 0 : 1;
    for (const ElementType type : kTypes) {
      for (const cuda::Work work : kProducts) {
        for (const auto& [M, N, K] : {Sizes{3, 70, 3}, Sizes{5, 32, 50}, Sizes{2, 1, 9}}) {
          const Piece piece(work, type, M, N, K + salt, salt * size_of(type));
          lt().*refusal = true;
          const int launches = cuda_on_cpu::num_launches;
          CHECK(piece.run().empty());
          lt().*refusal = false;
          CHECK(cuda_on_cpu::num_launches == launches + 1);
          CHECK_MESSAGE(piece.is_right(), piece.name());
        }
      }
    }
  }
  const Piece failing(cuda::kProduct, ElementType::kFloat32, 11, 9, 60);
  lt().fails = true;
  CHECK(failing.run() == "cublasLtMatmul: the fake was told to fail");
  lt().fails = false;
  CHECK(failing.run().empty() && failing.is_right());
}

void test_sums_of_rows() {
  for (const ElementType type : kTypes) {
    for (const uint64_t N : {1, 31, 32, 33, 100}) {
      for (const uint64_t K : {1, 7, 8, 9, 300}) {
        const Piece piece(cuda::kSumOfRows, type, 1, N, K, N == 33 ? size_of(type) : 0);
        const int launches = cuda_on_cpu::num_launches, products = lt().num_products;
        CHECK(piece.run().empty());
        CHECK_MESSAGE(piece.is_right(), piece.name());
        CHECK(lt().num_products == products && cuda_on_cpu::num_launches == launches + 1);
      }
    }
  }
}

// Sums stay in float32: in float16 they would overflow, and in bfloat16 they would stop to grow.
void test_sums_are_rounded_once() {
  for (const ElementType type : {ElementType::kFloat16, ElementType::kBfloat16}) {
    const Piece piece(cuda::kSumOfRows, type, 1, 1, 4096);
    const double large = type == ElementType::kFloat16 ? 60000 : 1;
    for (size_t k = 0; k < 4096; ++k) write(type, piece.w.data(), k, k < 2048 ? large : -large / 2);
    CHECK(piece.run().empty());
    CHECK(type == ElementType::kFloat16
              ? std::isinf(read(type, piece.y.data(), 0))  // the sum itself is large
              : read(type, piece.y.data(), 0) == 1024);
    for (size_t k = 0; k < 4096; ++k) write(type, piece.w.data(), k, k < 2048 ? large : -large);
    CHECK(piece.run().empty() && read(type, piece.y.data(), 0) == 0);
  }
}

void test_sums_of_nothing() {
  for (const ElementType type : kTypes) {
    for (const cuda::Work work : {cuda::kProduct, cuda::kTransposedProduct, cuda::kSumOfRows}) {
      const Piece piece(work, type, work == cuda::kSumOfRows ? 1 : 3, 300, 0);
      CHECK(piece.run().empty());
      CHECK_MESSAGE(piece.is_right(), piece.name());
    }
  }
}

// Each kind of work has plans of its own, for the same sizes and addresses; and TF32 reaches them.
void test_plans() {
  const Piece straight(cuda::kProduct, ElementType::kFloat32, 16, 16, 16);
  const Piece turned(cuda::kTransposedProduct, ElementType::kFloat32, 16, 16, 16);
  CHECK(straight.run().empty() && turned.run().empty());
  const int heuristics = lt().num_heuristics;
  for (int i = 0; i < 10; ++i) {
    CHECK(straight.run().empty() && straight.is_right() && turned.run().empty() && turned.is_right());
  }
  CHECK(lt().num_heuristics == heuristics);
  CHECK(straight.run(true).empty() && lt().last_is_tf32);
  CHECK(straight.run(false).empty() && !lt().last_is_tf32);
}

void test_unknown_work() {
  for (const int work : {-1, 4}) {
    Piece piece(cuda::kProduct, ElementType::kFloat32, 2, 2, 2);
    piece.work = static_cast<cuda::Work>(work);
    CHECK(piece.run() == "unknown work " + std::to_string(work));
  }
}

}  // namespace
}  // namespace mylinear

int main() {
  mylinear::test_products_go_to_cublaslt();
  mylinear::test_products_that_cublaslt_refuses();
  mylinear::test_sums_of_rows();
  mylinear::test_sums_are_rounded_once();
  mylinear::test_sums_of_nothing();
  mylinear::test_plans();
  mylinear::test_unknown_work();
  return report();
}
