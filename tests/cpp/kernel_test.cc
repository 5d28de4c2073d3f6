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
#include "kernels/gemm.h"
#include "kernels/half.h"
#include "kernels/reference.h"

namespace mylinear::kernels {

#ifdef MYLINEAR_HAS_TILE_MODEL
extern const GemmKernel tile_model_kernel;  // tile_model.cc
#endif

namespace {

// Bytes at an odd address, to hold kernels to "no alignment needed", or at a multiple of 64; nothing behind
// them.
class Buffer {
 public:
  explicit Buffer(size_t nbytes, size_t offset = 1) : nbytes_(nbytes), offset_(offset) {
    if (posix_memalign(&memory_, 64, nbytes + offset)) std::abort();
    std::memset(data(), 0xa5, nbytes);
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(memory_); }
  unsigned char* data() const { return static_cast<unsigned char*>(memory_) + offset_; }
  size_t nbytes() const { return nbytes_; }
  bool same_bytes(const Buffer& other) const {
    return nbytes_ == other.nbytes_ && std::memcmp(data(), other.data(), nbytes_) == 0;
  }

 private:
  size_t nbytes_;
  size_t offset_;
  void* memory_ = nullptr;
};

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2862933555777941757u + 3037000493u) {}
  uint32_t bits() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 32);
  }
  double uniform() { return bits() * 0x1p-31 - 1; }  // [-1, 1)

 private:
  uint64_t state_;
};

size_t size_of(ElementType type) { return kElementSizes[static_cast<int>(type)]; }

void store_element(ElementType type, void* to, size_t index, double value) {
  unsigned char* at = static_cast<unsigned char*>(to) + index * size_of(type);
  const float single = static_cast<float>(value);
  switch (type) {
    case ElementType::kFloat64:
      std::memcpy(at, &value, 8);
      break;
    case ElementType::kFloat32:
      std::memcpy(at, &single, 4);
      break;
    case ElementType::kFloat16: {
      const Float16 half = to_float16(single);
      std::memcpy(at, &half, 2);
      break;
    }
    case ElementType::kBfloat16: {
      const Bfloat16 half = to_bfloat16(single);
      std::memcpy(at, &half, 2);
      break;
    }
  }
}

double load_element(ElementType type, const void* from, size_t index) {
  const unsigned char* at = static_cast<const unsigned char*>(from) + index * size_of(type);
  double value = 0;
  float single = 0;
  Float16 half{};
  Bfloat16 brain{};
  switch (type) {
    case ElementType::kFloat64:
      std::memcpy(&value, at, 8);
      return value;
    case ElementType::kFloat32:
      std::memcpy(&single, at, 4);
      return single;
    case ElementType::kFloat16:
      std::memcpy(&half, at, 2);
      return to_float(half);
    case ElementType::kBfloat16:
      std::memcpy(&brain, at, 2);
      return to_float(brain);
  }
  return value;
}

// With `is_wide`, one number in eight is of any size from 2^-150 to 4: denormals, and sums that end in
// them.
void fill(ElementType type, const Buffer& buffer, bool is_wide, Random* random) {
  for (size_t i = 0; i < buffer.nbytes() / size_of(type); ++i) {
    double value = random->uniform();
    if (is_wide && random->bits() % 8 == 0)
      value = std::ldexp(value, 2 - static_cast<int>(random->bits() % 150));
    store_element(type, buffer.data(), i, value);
  }
}

// Aligned copies for the reference, which reads plain arrays.
std::unique_ptr<double[]> aligned_copy(const Buffer& buffer) {
  auto copy = std::make_unique<double[]>(buffer.nbytes() / 8 + 1);
  std::memcpy(copy.get(), buffer.data(), buffer.nbytes());
  return copy;
}

struct Precision {
  double sum_roundoff;
  double roundoff;
  double smallest;
};
constexpr Precision kPrecisions[] = {{0x1p-53, 0, 0x1p-1074},
                                     {0x1p-24, 0, 0x1p-149},
                                     {0x1p-24, 0x1p-11, 0x1p-24},
                                     {0x1p-24, 0x1p-8, 0x1p-133}};

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

// Those that this CPU can run.
std::vector<const GemmKernel*> kernels_of(ElementType type) {
  std::vector<const GemmKernel*> found;
  size_t num_isas = 0;
  const Isa* isas = compiled_isas(&num_isas);
  for (size_t i = 0; i < num_isas; ++i) {
    if (isas[i].is_usable()) found.push_back(&gemm_kernels(isas[i])[static_cast<int>(type)]);
  }
#ifdef MYLINEAR_HAS_TILE_MODEL
  if (type == ElementType::kBfloat16 && find_isa("avx512")) found.push_back(&tile_model_kernel);
#endif
  return found;
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

// A float rounded to a type of `bits` explicit significand bits by double arithmetic, which is exact here.
double rounded(double value, int bits, int min_exponent, double largest) {
  if (!std::isfinite(value) || value == 0) return value;
  int exponent = 0;
  std::frexp(value, &exponent);  // value = f 2^exponent, f in [0.5, 1)
  const int unit = std::max(exponent - 1, min_exponent) - bits;
  const double result = std::ldexp(std::nearbyint(std::ldexp(value, -unit)), unit);
  return std::fabs(result) > largest ? std::copysign(std::numeric_limits<double>::infinity(), value) : result;
}

void test_conversions() {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Float16 half{static_cast<uint16_t>(bits)};
    const Bfloat16 brain{static_cast<uint16_t>(bits)};
    const float half_value = to_float(half), brain_value = to_float(brain);
    if (std::isnan(half_value)) {
      CHECK((to_float16(half_value).bits | 0x200) == (bits | 0x200));
    } else {
      CHECK(to_float16(half_value).bits == bits);
    }
    if (std::isnan(brain_value)) {
      CHECK((to_bfloat16(brain_value).bits | 0x40) == (bits | 0x40));
    } else {
      CHECK(to_bfloat16(brain_value).bits == bits);
    }
  }
  Random random(1);
  for (int i = 0; i < 2000000; ++i) {
    uint32_t bits = random.bits();
    if (i % 2) bits = (bits & 0xfffff000u) | ((i % 8 < 4) ? 0 : 1u << 12);  // ties and their neighbours
    const float value = float_from_bits(bits);
    const double half = to_float(to_float16(value)), brain = to_float(to_bfloat16(value));
    if (std::isnan(value)) {
      CHECK(std::isnan(half) && std::isnan(brain));
      continue;
    }
    const double half_expected = rounded(value, 10, -14, 65504);
    const double brain_expected = rounded(value, 7, -126, 0x1.fep127);
    CHECK(half == half_expected && std::signbit(half) == std::signbit(value));
    CHECK(brain == brain_expected && std::signbit(brain) == std::signbit(value));
  }
}

// With K = 1 every product of two small numbers is exact in float, so all ISAs must store the same bits:
// every bit pattern of w, times factors that lead to ties, denormals and overflow.
void test_isas_round_alike() {
  size_t num_isas = 0;
  const Isa& baseline = compiled_isas(&num_isas)[num_isas - 1];
  const double factors[] = {1, -1, 1.5, 0x1p-7, -0x1.8p-10, 0x1.24p3, 0x1p9, 0x1.04p-3};
  for (const ElementType type : {ElementType::kFloat16, ElementType::kBfloat16}) {
    const size_t M = sizeof factors / sizeof factors[0], N = 0x10000;
    Buffer x(M * 2), w(N * 2), expected(M * N * 2), y(M * N * 2);
    for (size_t m = 0; m < M; ++m) store_element(type, x.data(), m, factors[m]);
    for (size_t n = 0; n < N; ++n) {
      const uint16_t bits = static_cast<uint16_t>(n);
      std::memcpy(w.data() + n * 2, &bits, 2);
    }
    for (const size_t rows : {M, size_t{2}}) {  // several passes, one
      GemmParams params{rows, N, 1, x.data(), w.data(), nullptr, expected.data()};
      const GemmKernel& reference_kernel = gemm_kernels(baseline)[static_cast<int>(type)];
      reference_kernel.run(params, 0, reference_kernel.num_tiles(params));
      for (const GemmKernel* kernel : kernels_of(type)) {
        params.y = y.data();
        kernel->run(params, 0, kernel->num_tiles(params));
        CHECK_MESSAGE(std::memcmp(y.data(), expected.data(), rows * N * 2) == 0,
                      std::string(kernel->isa) + " and baseline round otherwise");
      }
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
  mylinear::kernels::test_conversions();
  mylinear::kernels::test_isas_round_alike();
  mylinear::kernels::test_all_kernels();
#ifdef MYLINEAR_HAS_TILE_MODEL
  mylinear::kernels::test_tiles_are_those_of_the_model();
#endif
  return report();
}
