// The tables of ISAs; float16 and bfloat16: every number to float and back, and the one rounding of every
// ISA's kernels.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "check.h"
#include "kernel_support.h"
#include "kernels/activation/activation.h"
#include "kernels/adam/adam.h"
#include "kernels/matmul/matmul.h"

namespace mylinear::kernels {
namespace {

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

// On any CPU: an ISA that adds one kernel to those of another has the others under its own name.
void test_tables_of_isas() {
  size_t num_isas = 0;
  const Isa* isas = compiled_isas(&num_isas);
  const auto run_of = [&](const char* name, int index) {
    for (size_t i = 0; i < num_isas; ++i) {
      if (std::strcmp(isas[i].name, name) == 0) return gemm_kernels(isas[i])[index].run;
    }
    return decltype(GemmKernel::run){nullptr};
  };
  for (size_t i = 0; i < num_isas; ++i) {
    const std::string name = isas[i].name;
    const bool adds_bfloat16 = name == "avx512_bf16" || name == "amx_bf16";
    for (int k = 0; k < kNumGemmKernels; ++k) {
      const GemmKernel& kernel = gemm_kernels(isas[i])[k];
      const bool is_own = adds_bfloat16 && k == static_cast<int>(ElementType::kBfloat16);
      CHECK_MESSAGE(kernel.isa == name, name + " has a kernel called " + kernel.isa);
      CHECK_MESSAGE(gemm_kernel_index(kernel.type, kernel.weight_type) == k, name + " has kernels elsewhere");
      CHECK_MESSAGE((kernel.can_dot != nullptr) == is_own, name + " multiplies pairs by another's kernel");
      if (adds_bfloat16) {
        CHECK_MESSAGE((kernel.run == run_of("avx512", k)) == !is_own,
                      name + " is not avx512 but for bfloat16");
      }
    }
    for (int k = 0; k < kNumElementTypes; ++k) {
      CHECK(matmul_kernels(isas[i])[k].isa == name && row_sum_kernels(isas[i])[k].isa == name);
      CHECK(static_cast<int>(matmul_kernels(isas[i])[k].type) == k);
    }
    for (int k = 0; k < kNumAdamTypes; ++k) CHECK(adam_kernels(isas[i])[k].isa == name);
    for (int k = 0; k < kNumActivationTypes; ++k) CHECK(activation_kernels(isas[i])[k].isa == name);
  }
}

}  // namespace
}  // namespace mylinear::kernels

int main() {
  mylinear::kernels::test_tables_of_isas();
  mylinear::kernels::test_conversions();
  mylinear::kernels::test_isas_round_alike();
  return report();
}
