// Every row of the kernel list against the reference, with memory of exactly the right size, so that a
// sanitizer sees each byte read or written beyond it, and with tiles spread over threads.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "kernel_support.h"
#include "kernels/gemm.h"
#include "kernels/reference.h"

namespace mylinear::kernels {

namespace {

// Aligned copies for the reference, which reads plain arrays.
std::unique_ptr<double[]> aligned_copy(const Buffer& buffer) {
  auto copy = std::make_unique<double[]>(buffer.nbytes() / 8 + 1);
  std::memcpy(copy.get(), buffer.data(), buffer.nbytes());
  return copy;
}

struct Sizes {
  size_t M, N, K;
};

void run_on_threads(const GemmKernel& kernel, const GemmParams& params, size_t num_threads) {
  const size_t tiles = kernel.num_tiles(params);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < num_threads; ++t) {
    threads.emplace_back([&, t] {
      for (size_t tile = t; tile < tiles; tile += num_threads) kernel.run(params, tile, tile + 1);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void test_product(const GemmKernel& kernel, const Sizes& sizes, bool has_bias, bool is_wide, double* worst) {
  const auto [M, N, K] = sizes;
  const ElementType type = kernel.type;
  const size_t size = size_of(type);
  const std::string name = std::string(kernel.isa) + " " + kElementTypeNames[static_cast<int>(type)] +
                           " M=" + std::to_string(M) + " N=" + std::to_string(N) + " K=" + std::to_string(K) +
                           (has_bias ? " bias" : "") + (is_wide ? " wide" : "");
  Random random(M * 10007 + N * 101 + K);
  Buffer x(M * K * size), w(N * K * size), bias(N * size), y(M * N * size), again(M * N * size);
  fill(type, x, is_wide, &random);
  fill(type, w, is_wide, &random);
  fill(type, bias, is_wide, &random);
  GemmParams params{M, N, K, x.data(), w.data(), has_bias ? bias.data() : nullptr, y.data()};
  kernel.run(params, 0, kernel.num_tiles(params));

  const auto x_copy = aligned_copy(x), w_copy = aligned_copy(w), bias_copy = aligned_copy(bias);
  GemmParams plain = params;
  plain.x = x_copy.get();
  plain.w = w_copy.get();
  plain.bias = has_bias ? bias_copy.get() : nullptr;
  std::vector<double> expected(M * N), magnitude(M * N);
  reference(type, plain, expected.data(), magnitude.data());
  const Precision& precision = kPrecisions[static_cast<int>(type)];
  const double n = static_cast<double>(K) + 1;
  double gamma = n * precision.sum_roundoff / (1 - n * precision.sum_roundoff);
  if (type == ElementType::kFloat64) gamma *= 2;  // the reference errs as much
  for (size_t i = 0; i < M * N; ++i) {
    double bound = gamma * magnitude[i] + n * 0x1p-149;
    bound += precision.roundoff * (std::fabs(expected[i]) + bound) + precision.smallest;
    const double error = std::fabs(load_element(type, y.data(), i) - expected[i]);
    if (error / bound > *worst) *worst = error / bound;
    CHECK_MESSAGE(error <= bound, name + ": element " + std::to_string(i) + " is off by " +
                                      std::to_string(error / bound) + " bounds");
  }
  params.y = again.data();
  params.is_near = true;
  params.w_can_dot = kernel.can_dot && kernel.can_dot(w.data(), N * K);
  run_on_threads(kernel, params, 3);
  CHECK_MESSAGE(again.same_bytes(y), name + ": other bits on three threads, with other hints");
  for (size_t m = 0; m < M; ++m) {
    Buffer row(N * size);
    GemmParams alone = params;
    alone.M = 1;
    alone.x = x.data() + m * K * size;
    alone.y = row.data();
    kernel.run(alone, 0, kernel.num_tiles(alone));
    CHECK_MESSAGE(std::memcmp(row.data(), y.data() + m * N * size, N * size) == 0,
                  name + ": row " + std::to_string(m) + " has other bits without its neighbours");
  }
}

void test_kernel(const GemmKernel& kernel) {
  const size_t mr = static_cast<size_t>(kernel.mr), lanes = static_cast<size_t>(kernel.lanes);
  const size_t block = 3072 / (kernel.type == ElementType::kFloat64 ? 8 : 4);  // of K, see gemm_tiles.h
  const Sizes table[] = {{1, 1, 1},
                         {1, 4, 2 * lanes},
                         {2, 3, 5},
                         {3, 5, 257},
                         {4, 31, 64},
                         {5, 4, 1},
                         {mr, 4, lanes - 1},
                         {mr + 1, 5, lanes},
                         {2 * mr - 1, 65, lanes + 1},
                         {2, 6, block},
                         {mr, 7, block + 1},
                         {mr + 1, 33, 2 * block + 5},
                         {25, 6, 5 * block - 1},
                         {1, 3, 25 * block},
                         {95, 1, 7},
                         {95, 2, 7},
                         {96, 64, 256},
                         {97, 65, 257},
                         {193, 33, 40},
                         {2 * mr + 1, 130, 512},
                         {4 * mr + 1, 257, 1024},
                         {mr + 2, 193, 2 * block},
                         {33, 131, block + lanes},
                         {64, 64, 64},
                         {50, 35, 37},
                         {40, 17, 1},
                         {35, 16, 63},
                         {17, 20, 255},
                         {5, 40, 0},
                         {1, 3, 0},
                         {0, 5, 3},
                         {5, 0, 3}};
  double worst = 0;
  for (const Sizes& sizes : table) {
    for (const bool has_bias : {false, true}) {
      for (const bool is_wide : {false, true}) test_product(kernel, sizes, has_bias, is_wide, &worst);
    }
  }
  std::printf("%s %s: largest error %.3f bounds\n", kernel.isa,
              kElementTypeNames[static_cast<int>(kernel.type)], worst);
}

// One denormal among zeros, times one, comes out as it is, wherever it lies in x or w. What takes denormals
// for zero loses it; an error bound would not tell.
void test_denormals_are_kept(const GemmKernel& kernel, size_t K) {
  const size_t M = 35, N = 70, size = size_of(kernel.type);
  const double denormal = kPrecisions[static_cast<int>(kernel.type)].smallest;
  Buffer ones(N * K * size), y(M * N * size);
  for (size_t i = 0; i < N * K; ++i) store_element(kernel.type, ones.data(), i, 1);
  for (const bool is_in_x : {true, false}) {
    const size_t rows = is_in_x ? M : N;
    for (const size_t row : {size_t{0}, size_t{5}, size_t{16}, size_t{31}, rows - 1}) {
      for (const size_t k : {size_t{0}, size_t{33}, K / 2, K - 1}) {
        Buffer zeros(rows * K * size);
        std::memset(zeros.data(), 0, zeros.nbytes());
        store_element(kernel.type, zeros.data(), row * K + k, denormal);
        GemmParams params{M, N, K, zeros.data(), ones.data(), nullptr, y.data()};
        if (!is_in_x) std::swap(params.x, params.w);
        params.w_can_dot = kernel.can_dot && kernel.can_dot(params.w, N * K);
        kernel.run(params, 0, kernel.num_tiles(params));
        bool is_kept = true;
        for (size_t i = 0; i < M * N; ++i) {
          const bool is_there = (is_in_x ? i / N : i % N) == row;
          is_kept = is_kept && load_element(kernel.type, y.data(), i) == (is_there ? denormal : 0);
        }
        CHECK_MESSAGE(is_kept, std::string(kernel.isa) + " loses the denormal of row " + std::to_string(row) +
                                   ", column " + std::to_string(k) + " of " + (is_in_x ? "x" : "w"));
      }
    }
  }
}

void test_all_kernels() {
  size_t num_isas = 0;
  const Isa* isas = compiled_isas(&num_isas);
  CHECK(num_isas >= 1 && std::strcmp(isas[num_isas - 1].name, "baseline") == 0);
  for (size_t i = 0; i < num_isas; ++i) {
    if (!isas[i].is_usable()) std::printf("%s: this CPU lacks it\n", isas[i].name);
    for (int t = 0; t < kNumElementTypes; ++t) CHECK(static_cast<int>(gemm_kernels(isas[i])[t].type) == t);
  }
  for (int t = 0; t < kNumElementTypes; ++t) {
    for (const GemmKernel* kernel : kernels_of(static_cast<ElementType>(t))) {
      test_kernel(*kernel);
      for (const size_t K : {size_t{61}, size_t{1100}}) test_denormals_are_kept(*kernel, K);
    }
  }
}

#ifdef MYLINEAR_HAS_TILE_MODEL
// Not only as near: where no sum can be denormal the tiles of the CPU give the bits that FMAs give.
void test_tiles_are_those_of_the_model() {
  const Isa* isa = find_isa("amx_bf16");
  if (!isa) return;
  const GemmKernel& kernel = gemm_kernels(*isa)[static_cast<int>(ElementType::kBfloat16)];
  for (const Sizes& sizes : {Sizes{1, 16, 32}, Sizes{40, 50, 70}, Sizes{33, 130, 1100}, Sizes{5, 200, 544}}) {
    const auto [M, N, K] = sizes;
    Random random(M);
    Buffer x(M * K * 2), w(N * K * 2), y(M * N * 2), expected(M * N * 2);
    fill(ElementType::kBfloat16, x, false, &random);
    fill(ElementType::kBfloat16, w, false, &random);
    GemmParams params{M, N, K, x.data(), w.data(), nullptr, y.data()};
    CHECK(kernel.can_dot(x.data(), M * K) && kernel.can_dot(w.data(), N * K));
    kernel.run(params, 0, kernel.num_tiles(params));
    params.y = expected.data();
    tile_model_kernel.run(params, 0, tile_model_kernel.num_tiles(params));
    CHECK_MESSAGE(y.same_bytes(expected), "amx_bf16 and its model differ");
  }
}
#endif

void test_dispatch() {
  CHECK(find_isa(nullptr) && find_isa(nullptr) == find_isa(""));
  CHECK(find_isa("baseline") && std::strcmp(find_isa("baseline")->name, "baseline") == 0);
  CHECK(!find_isa("avx1024") && !find_isa("Baseline") && !find_isa("base"));
}

}  // namespace
}  // namespace mylinear::kernels

int main() {
  mylinear::kernels::test_dispatch();
  mylinear::kernels::test_all_kernels();
#ifdef MYLINEAR_HAS_TILE_MODEL
  mylinear::kernels::test_tiles_are_those_of_the_model();
#endif
  return report();
}
