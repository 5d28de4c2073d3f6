// Every row of the kernel list, with and without activations, against the reference, with memory of exactly
// the right size, so that a sanitizer sees each byte read or written beyond it, and with tiles spread over
// threads.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "exact_activations.h"
#include "kernel_support.h"
#include "kernels/gemm.h"
#include "kernels/reference.h"

namespace mylinear::kernels {

namespace {

// Aligned copies for the reference, which reads plain arrays of one type.
std::unique_ptr<double[]> aligned_copy(const Buffer& buffer, ElementType from, ElementType to) {
  const size_t count = buffer.nbytes() / size_of(from);
  auto copy = std::make_unique<double[]>(count * size_of(to) / 8 + 1);
  for (size_t i = 0; i < count; ++i) store_element(to, copy.get(), i, load_element(from, buffer.data(), i));
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

// How far a kernel's activation of a sum may be from that in double, if the sum is off by `sum_error`; the
// formulas that cancel are off by roundings of the sum itself.
double activation_error(Activation activation, double sum, double sum_error, double roundoff) {
  if (activation == Activation::kNone) return sum_error;
  if (activation == Activation::kRelu) return sum_error;
  return 1.13 * sum_error +
         12 * roundoff *
             std::fmin(std::fabs(sum), activation == Activation::kTanh || activation == Activation::kSigmoid
                                           ? 1
                                           : std::fabs(sum)) +
         (activation == Activation::kSigmoid ? 12 * roundoff : 0);
}

uint64_t num_calls = 0;  // that have a number

void test_product(const GemmKernel& kernel, const Sizes& sizes, bool has_bias, bool is_wide,
                  Activation activation, double* worst) {
  const auto [M, N, K] = sizes;
  const ElementType type = kernel.type, weight_type = kernel.weight_type;
  const size_t size = size_of(type);
  const std::string name = std::string(kernel.isa) + " " + kElementTypeNames[static_cast<int>(type)] +
                           " by " + kElementTypeNames[static_cast<int>(weight_type)] + " " +
                           name_of(activation) + " M=" + std::to_string(M) + " N=" + std::to_string(N) +
                           " K=" + std::to_string(K) + (has_bias ? " bias" : "") + (is_wide ? " wide" : "");
  Random random(M * 10007 + N * 101 + K);
  Buffer x(M * K * size), w(N * K * size_of(weight_type)), bias(N * size), y(M * N * size),
      again(M * N * size);
  fill(type, x, is_wide, &random);
  fill(weight_type, w, is_wide, &random);
  fill(type, bias, is_wide, &random);
  GemmParams params{M, N, K, x.data(), w.data(), has_bias ? bias.data() : nullptr, y.data()};
  params.activation = activation;
  params.turning = Turning::kAlways;
  kernel.run(params, 0, kernel.num_tiles(params));

  const auto x_copy = aligned_copy(x, type, type), w_copy = aligned_copy(w, weight_type, type),
             bias_copy = aligned_copy(bias, type, type);
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
    bound = activation_error(activation, expected[i], bound, precision.sum_roundoff);
    expected[i] = exact(activation, expected[i]);
    bound += precision.roundoff * (std::fabs(expected[i]) + bound) + precision.smallest;
    const double error = std::fabs(load_element(type, y.data(), i) - expected[i]);
    if (error / bound > *worst) *worst = error / bound;
    CHECK_MESSAGE(error <= bound, name + ": element " + std::to_string(i) + " is off by " +
                                      std::to_string(error / bound) + " bounds");
  }
  params.y = again.data();
  if (type != weight_type) {
    const Isa& isa = *find_isa(kernel.isa);
    const GemmKernel& wide = gemm_kernels(isa)[static_cast<int>(type)];
    params.w = w_copy.get();
    wide.run(params, 0, wide.num_tiles(params));
    CHECK_MESSAGE(again.same_bytes(y), name + ": other bits than with W widened");
    params.w = w.data();
  }
  params.is_near = true;
  params.turning = Turning::kNever;
  params.w_can_dot = kernel.can_dot && kernel.can_dot(w.data(), N * K);
  run_on_threads(kernel, params, 3);
  CHECK_MESSAGE(again.same_bytes(y), name + ": other bits on three threads, with other hints");
  params.turning = Turning::kAlways;
  params.call = ++num_calls;
  for (size_t tile = kernel.num_tiles(params); tile-- > 0;) kernel.run(params, tile, tile + 1);
  CHECK_MESSAGE(again.same_bytes(y), name + ": other bits a tile at a time");
  params.call = 0;
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
                         {mr, 36, 2 * block + 300},
                         {mr + 1, 33, 2 * block + 5},
                         {25, 6, 5 * block - 1},
                         {2 * mr, 36, 4 * block + 3},
                         {1, 3, 25 * block},
                         {95, 1, 7},
                         {95, 2, 7},
                         {96, 64, 256},
                         {97, 65, 257},
                         {193, 33, 40},
                         {193, 33, 41},
                         {150, 40, 255},
                         {2 * mr + 1, 130, 512},
                         {4 * mr + 1, 257, 1024},
                         {mr + 2, 193, 2 * block},
                         {33, 131, block + lanes},
                         {64, 64, 64},
                         {50, 35, 37},
                         {40, 17, 1},
                         {35, 16, 63},
                         {17, 20, 255},
                         {62, 75, block + 21},
                         {130, 47, block + 21},
                         {210, 205, 9},
                         {5, 40, 0},
                         {1, 3, 0},
                         {0, 5, 3},
                         {5, 0, 3}};
  double worst = 0;
  int index = 0;
  for (const Sizes& sizes : table) {
    for (const bool has_bias : {false, true}) {
      for (const bool is_wide : {false, true}) {
        test_product(kernel, sizes, has_bias, is_wide, Activation::kNone, &worst);
      }
    }
    const Activation activation = static_cast<Activation>(1 + index++ % (kNumActivations - 1));
    test_product(kernel, sizes, index % 4 != 0, false, activation, &worst);
  }
  const Sizes all_paths[] = {{3, 70, 700}, {40, 37, 20},   {50, 70, 900},
                             {9, 1, 30},   {70, 150, 100}, {3, 20, 0}};
  for (const Sizes& sizes : all_paths) {
    for (int a = 1; a < kNumActivations; ++a) {
      test_product(kernel, sizes, a % 2 == 0, false, static_cast<Activation>(a), &worst);
    }
  }
  // Rows that are turned, of which a thread's memory does not hold all blocks of K.
  if (kernel.type == ElementType::kFloat32) {
    test_product(kernel, {63, 65, 4170}, true, false, Activation::kNone, &worst);
  }
  std::printf("%s %s by %s: largest error %.3f bounds\n", kernel.isa,
              kElementTypeNames[static_cast<int>(kernel.type)],
              kElementTypeNames[static_cast<int>(kernel.weight_type)], worst);
}

// One denormal among zeros, times one, comes out as it is, wherever it lies in x or w. What takes denormals
// for zero loses it; an error bound would not tell.
void test_denormals_are_kept(const GemmKernel& kernel, size_t K) {
  const size_t M = 35, N = 140, size = size_of(kernel.type);
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
        bool is_kept = true;
        for (const uint64_t call : {uint64_t{0}, ++num_calls}) {
          params.call = call;
          kernel.run(params, 0, kernel.num_tiles(params));
          for (size_t i = 0; i < M * N; ++i) {
            const bool is_there = (is_in_x ? i / N : i % N) == row;
            is_kept = is_kept && load_element(kernel.type, y.data(), i) == (is_there ? denormal : 0);
          }
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
      for (const size_t K : {size_t{61}, size_t{1100}, size_t{1700}}) test_denormals_are_kept(*kernel, K);
    }
  }
  for (const ElementType weight_type : {ElementType::kFloat16, ElementType::kBfloat16}) {
    for (const GemmKernel* kernel : kernels_of(ElementType::kFloat32, weight_type)) {
      CHECK(kernel->type == ElementType::kFloat32 && kernel->weight_type == weight_type);
      test_kernel(*kernel);
    }
  }
  CHECK(gemm_kernel_index(ElementType::kFloat32, ElementType::kFloat64) == -1);
  CHECK(gemm_kernel_index(ElementType::kFloat64, ElementType::kFloat32) == -1);
  CHECK(gemm_kernel_index(ElementType::kFloat16, ElementType::kBfloat16) == -1);
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
