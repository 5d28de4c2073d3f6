// The products of a backward, every row of their tables against plain loops in double, with memory of exactly
// the right size, so that a sanitizer sees each byte read or written beyond it, and with tiles spread over
// threads.
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "kernel_support.h"
#include "kernels/matmul/matmul.h"

namespace mylinear::kernels {
namespace {

struct Sizes {
  size_t M, N, K;
};

std::string name_of(const char* isa, ElementType type, const Sizes& s, const char* what) {
  return std::string(isa) + " " + kElementTypeNames[static_cast<int>(type)] + " M=" + std::to_string(s.M) +
         " N=" + std::to_string(s.N) + " K=" + std::to_string(s.K) + what;
}

// One tile at a time, the last ones first, on three threads.
template <class Kernel, class Params>
void run_on_threads(const Kernel& kernel, const Params& params) {
  const size_t tiles = kernel.num_tiles(params), num_threads = 3;
  std::vector<std::thread> threads;
  for (size_t t = 0; t < num_threads; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = t; i < tiles; i += num_threads) kernel.run(params, tiles - 1 - i, tiles - i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// A result against the exact one, from the sums of its terms and of their absolute values.
void check_element(ElementType type, const Buffer& got, size_t index, double exact, double magnitude,
                   size_t terms, const std::string& name, double* worst) {
  const Precision& precision = kPrecisions[static_cast<int>(type)];
  const double n = static_cast<double>(terms) + 1;
  double gamma = n * precision.sum_roundoff / (1 - n * precision.sum_roundoff);
  if (type == ElementType::kFloat64) gamma *= 2;  // the loops below err as much
  double bound = gamma * magnitude + n * 0x1p-149;
  bound += precision.roundoff * (std::fabs(exact) + bound) + precision.smallest;
  const double error = std::fabs(load_element(type, got.data(), index) - exact);
  if (error / bound > *worst) *worst = error / bound;
  CHECK_MESSAGE(error <= bound, name + ": element " + std::to_string(index) + " is off by " +
                                    std::to_string(error / bound) + " bounds");
}

void test_product(const MatmulKernel& kernel, const Sizes& sizes, bool is_transposed, bool is_wide,
                  double* worst) {
  const auto [M, N, K] = sizes;
  const ElementType type = kernel.type;
  const size_t size = size_of(type);
  const std::string name = name_of(kernel.isa, type, sizes, is_transposed ? " transposed" : "");
  Random random(M * 10007 + N * 101 + K);
  Buffer a(M * K * size), b(K * N * size), c(M * N * size), again(M * N * size);
  fill(type, a, is_wide, &random);
  fill(type, b, is_wide, &random);
  const size_t a_row = is_transposed ? 1 : K, a_step = is_transposed ? M : 1;
  MatmulParams params{M, N, K, a.data(), a_row, a_step, b.data(), c.data()};
  kernel.run(params, 0, kernel.num_tiles(params));
  for (size_t m = 0; m < M; ++m) {
    for (size_t n = 0; n < N; ++n) {
      double exact = 0, magnitude = 0;
      for (size_t k = 0; k < K; ++k) {
        const double term =
            load_element(type, a.data(), m * a_row + k * a_step) * load_element(type, b.data(), k * N + n);
        exact += term;
        magnitude += std::fabs(term);
      }
      check_element(type, c, m * N + n, exact, magnitude, K, name, worst);
    }
  }
  params.c = again.data();
  run_on_threads(kernel, params);
  CHECK_MESSAGE(again.same_bytes(c), name + ": other bits on three threads");
}

void test_kernel(const MatmulKernel& kernel) {
  const size_t mr = static_cast<size_t>(kernel.mr), lanes = static_cast<size_t>(kernel.lanes);
  const Sizes table[] = {{1, 1, 1},
                         {1, 2, 1},
                         {1, 2, 256},
                         {3, 1, 5},
                         {1, 3 * lanes, 2 * mr},
                         {1, 20 * lanes + 1, 1},
                         {mr - 1, 4 * lanes, 7},
                         {mr, 4 * lanes, 8},
                         {mr, 7 * lanes + 3, 61},
                         {mr + 1, 4 * lanes + 1, 9},
                         {2 * mr + 3, 3 * lanes - 1, 33},
                         {10, 128, 64},
                         {64, 64, 10},
                         {70, 6 * lanes, 100},
                         {65, 97, 130},
                         {40, 33, 257},
                         {5, 9, 1100},
                         {300, 10, 3},
                         {1030, 5, 2},
                         {33, 130, 520},
                         {4, 6, 0},
                         {300, 100, 0},
                         {0, 5, 3},
                         {5, 0, 3}};
  double worst = 0;
  for (const Sizes& sizes : table) {
    for (const bool is_transposed : {false, true}) {
      for (const bool is_wide : {false, true}) test_product(kernel, sizes, is_transposed, is_wide, &worst);
    }
  }
  std::printf("%s %s: largest error of a product %.3f bounds\n", kernel.isa,
              kElementTypeNames[static_cast<int>(kernel.type)], worst);
}

void test_sum(const RowSumKernel& kernel, const Sizes& sizes, bool is_wide) {
  const ElementType type = kernel.type;
  const auto [M, N, K] = sizes;
  const std::string name = name_of(kernel.isa, type, sizes, ": sum of rows");
  Random random(M * 31 + N);
  Buffer a(M * N * size_of(type)), s(N * size_of(type)), again(N * size_of(type));
  fill(type, a, is_wide, &random);
  RowSumParams params{M, N, a.data(), s.data()};
  kernel.run(params, 0, kernel.num_tiles(params));
  double worst = 0;
  for (size_t n = 0; n < N; ++n) {
    double exact = 0, magnitude = 0;
    for (size_t m = 0; m < M; ++m) {
      const double term = load_element(type, a.data(), m * N + n);
      exact += term;
      magnitude += std::fabs(term);
    }
    check_element(type, s, n, exact, magnitude, M, name, &worst);
  }
  params.s = again.data();
  run_on_threads(kernel, params);
  CHECK_MESSAGE(again.same_bytes(s), name + ": other bits on three threads");
}

// Where a sum is one term, that term comes out as it is: denormals, infinities, and NaN where 0 meets one.
void test_special_values(const MatmulKernel& kernel) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const ElementType type = kernel.type;
  const size_t N = static_cast<size_t>(kernel.lanes) * 2 + 1, size = size_of(type);
  Buffer a(2 * size), b(N * size), c(2 * N * size);
  store_element(type, a.data(), 0, 1);
  store_element(type, a.data(), 1, 0);
  for (size_t n = 0; n < N; ++n)
    store_element(type, b.data(), n, n % 2 ? kInfinity : kPrecisions[static_cast<int>(type)].smallest);
  MatmulParams params{2, N, 1, a.data(), 1, 1, b.data(), c.data()};
  kernel.run(params, 0, kernel.num_tiles(params));
  bool is_right = true;
  for (size_t n = 0; n < N; ++n) {
    is_right = is_right && load_element(type, c.data(), n) == load_element(type, b.data(), n);
    const double product = load_element(type, c.data(), N + n);
    is_right = is_right && (n % 2 ? std::isnan(product) : product == 0);
  }
  CHECK_MESSAGE(is_right, std::string(kernel.isa) + " loses a denormal or an infinity");
}

void test_all_kernels() {
  size_t num_isas = 0;
  const Isa* isas = compiled_isas(&num_isas);
  for (size_t i = 0; i < num_isas; ++i) {
    for (int t = 0; t < kNumElementTypes; ++t) {
      const MatmulKernel& product = matmul_kernels(isas[i])[t];
      const RowSumKernel& sum = row_sum_kernels(isas[i])[t];
      CHECK(static_cast<int>(product.type) == t && static_cast<int>(sum.type) == t);
      CHECK(std::strcmp(product.isa, isas[i].name) == 0 && std::strcmp(sum.isa, isas[i].name) == 0);
      if (!isas[i].is_usable()) continue;
      test_kernel(product);
      test_special_values(product);
      const size_t lanes = static_cast<size_t>(sum.lanes);
      for (const Sizes& sizes : {Sizes{1, 1, 0}, Sizes{3, lanes - 1, 0}, Sizes{257, 4 * lanes, 0},
                                 Sizes{700, 8 * lanes + 3, 0}, Sizes{0, 5, 0}, Sizes{5, 0, 0}}) {
        for (const bool is_wide : {false, true}) test_sum(sum, sizes, is_wide);
      }
    }
  }
}

}  // namespace
}  // namespace mylinear::kernels

int main() {
  mylinear::kernels::test_all_kernels();
  return report();
}
